# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Every command of README.md and of the guide in docs, as it is written, one after the other in one folder.

There is no network, and caches are empty. The shell makes arguments of the commands; each is then run by
``support.command_line``. A comment above a block says what is different there:

- ``<!-- needs a download -->``: ``fbclip-small`` takes the place of the paper's model.
- ``<!-- takes hours -->``: a few steps are made.

A model that is exported has one layer and view, and so have one that is trained, and one whose verdicts are compared
with a file's: its graph is a tenth as large.

Files of ``configs`` that name a GPU, 8 workers, all categories of a dataset or several epochs are changed accordingly,
and models of others, which download their backbones, are only looked up.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from anomalib import models as anomalib_models
from anomalib.pipelines import Benchmark
from PIL import Image

from layouts import write_category
from support.command_line import ANOMALIB, CONFIGS, FBCLIP, environment, run
from support.images import write_mvtec_category
from tools.bundled_model.procedural import CATEGORIES, draw_sample

README = CONFIGS.parent / "README.md"
DOCS = README.parent / "docs"
GUIDE = (
    "tutorial",
    "few_shot",
    "products",
    "unlabeled",
    "small_defects",
    "anomalib",
    "verdicts",
    "paper",
    "training",
    "export",
    "python",
    "comparison",
    "troubleshooting",
)
PAGES = [README, *(DOCS / f"{name}.md" for name in GUIDE)]
"""In this order: a page may use what an earlier one made."""

MVTEC_CATEGORIES = ("bottle", "cable")
VISA_CATEGORIES = ("candle", "pcb1")
MAGNETIC_TILE_DEFECTS = ("blowhole", "break", "crack", "fray", "uneven")


class Block(NamedTuple):
    """A block of code.

    Attributes:
        page (str): The page that it is in.
        line (int): Where it begins.
        comment (str): What the comment above it says; empty if there is none.
        language (str): What it is written in.
        code (str): The code.
    """

    page: str
    line: int
    comment: str
    language: str
    code: str


def read_blocks(page: Path) -> list[Block]:
    """Find the blocks that are to be run."""
    text = page.read_text(encoding="utf-8")
    pattern = r"^(?:<!-- (?P<comment>.+?) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)^```$"
    return [
        Block(
            page.stem,
            1 + text.count("\n", 0, match.start("code")),
            match["comment"] or "",
            match["language"],
            match["code"],
        )
        for match in re.finditer(pattern, text, re.DOTALL | re.MULTILINE)
    ]


TEXT = "".join(page.read_text(encoding="utf-8") for page in PAGES)
BLOCKS = [block for page in PAGES for block in read_blocks(page)]

PROGRAMS = {"anomalib": ANOMALIB, "python": sys.executable, "fbclip": FBCLIP}
PASSED_OVER = ("pip", "pytest")

NOTE = f"""
exec 3>&1
note() {{ printf '%s\\0' "$@" >&3; printf '\\n' >&3; }}
{"".join(f'{name}() {{ note {name} "$@"; }}; ' for name in PROGRAMS)}
{"".join(f"{name}() {{ :; }}; " for name in PASSED_OVER)}
fbclip() {{ if [ "$1" = configs ]; then '{FBCLIP}' "$@"; else note fbclip "$@"; fi; }}
set -euo pipefail
"""
"""What has the shell write down the arguments of commands instead of running them, but for what writes a config."""


def split_commands(code: str, folder: Path) -> list[list[str]]:
    """Have the shell make arguments of the commands in a block."""
    result = subprocess.run(["bash", "-c", NOTE + code], cwd=folder, capture_output=True, text=True, check=False)
    assert not result.stderr, result.stderr
    return [line.split("\0")[:-1] for line in result.stdout.splitlines() if "\0" in line]


PYTHON_NAMES = """
import numpy as np, torch
images = torch.zeros(2, 3, 224, 224)
frames = [np.zeros((48, 64, 3), dtype=np.uint8)] * 3
"""
"""What the Python blocks take from the reader's own program."""


LIGHT = ("--model.views", "[identity]", "--model.feature_layers", "[6]")
"""What makes a graph of fbclip-small that is soon exported. A checkpoint has it from its config."""


def with_bundled(arguments: list[str]) -> list[str]:
    """Have a command take fbclip-small for the paper's model."""
    if "-c" in arguments:
        return [*arguments[:-1], re.sub(r"\bFBClip\(", "FBClip(backbone='fbclip-small', ", arguments[-1])]
    if arguments[1] == "benchmark" or "compare" in arguments:
        return arguments  # their models are in their files, which are changed
    name = "--model.init_args.backbone" if "--config" in arguments else "--model.backbone"
    return [*arguments, name, "fbclip-small"]


def shortened(arguments: list[str]) -> list[str]:
    """Have a command say what it takes: tests/tools runs it."""
    return [*arguments, "--help"]


def lightened(arguments: list[str]) -> list[str]:
    """Have an export take one layer and view of a model, and a run that it is compared with."""
    is_heavy = arguments[:2] == ["anomalib", "export"] and not {"--config", "--ckpt_path"} & set(arguments)
    return [*arguments, *LIGHT] if is_heavy or "--model.few_shot_source" in arguments else arguments


CHANGES = {"": list, "needs a download": with_bundled, "takes hours": shortened}
"""What each comment does to a command."""


def write_photographs(folder: Path) -> None:
    """Draw a photograph of the reader's, and folders of them."""
    leather = CATEGORIES["leather"]
    for name, seed, defect in (("good", 0, None), ("burn", 4, "burn")):
        path = folder / "photographs" / f"{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw_sample(leather.product, seed, defect, size=256).image).save(path)
    shutil.copy(folder / "photographs" / "burn.jpg", folder / "photograph.jpg")
    shutil.copy(folder / "photographs" / "burn.jpg", folder / "part.jpg")
    shutil.copytree(folder / "photographs", folder / "photos")
    (folder / "good").mkdir()
    for index in range(4):
        Image.fromarray(draw_sample(leather.product, 10 + index, size=256).image).save(folder / f"good/{index}.jpg")


def write_datasets(root: Path) -> None:
    """Write a few images of each dataset, as it lies below ``datasets``."""
    for category in MVTEC_CATEGORIES:
        write_mvtec_category(root / "MVTecAD", category, count=1)
    for category in VISA_CATEGORIES:
        write_category(root / "visa" / "visa_pytorch" / category, "bad", "", normal=1, anomalous=1)
    write_category(root / "parts", "defect", "")
    for defect in MAGNETIC_TILE_DEFECTS:
        write_category(root / "magnetic_tile", defect, "", normal=1, anomalous=1)
    write_category(root / "mpdd" / "tubes", "bad", "_mask", normal=1, anomalous=1)
    good, bad, mask = "tubes/test/good/000.png", "tubes/test/bad/000.png", "tubes/ground_truth/bad/000_mask.png"
    entries = [
        {"img_path": good, "mask_path": "", "cls_name": "tubes", "anomaly": 0},
        {"img_path": bad, "mask_path": mask, "cls_name": "tubes", "anomaly": 1},
    ]
    (root / "mpdd" / "meta.json").write_text(json.dumps({"train": {}, "test": {"tubes": entries}}))


def write_configs(folder: Path) -> None:
    """Copy the configs, for small machines and short tests."""
    shutil.copytree(CONFIGS, folder / "configs")
    changes = [
        (r"num_workers: \d+", "num_workers: 0"),
        (r"max_epochs: \d+", "max_epochs: 1"),
        (r"accelerator: cuda", "accelerator: cpu"),
        # What is exported, and what is trained.
        (
            r"(?<=backbone: fbclip-small)(?=.*\n(\nexport_|    weights: null))",
            "\n    views: [identity]\n    feature_layers: [6]",
        ),
        (r"grid: \[fbclip-small, ViT-L-14-336\]", "grid: [fbclip-small]"),
        (r"categories:\n      - bottle\n      - cable\n(      - .*\n)*", f"categories: {list(MVTEC_CATEGORIES)}\n"),
        (r"categories:\n      - candle\n(      - .*\n)*", f"categories: {list(VISA_CATEGORIES)}\n"),
    ]
    for path in (folder / "configs").rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        for pattern, replacement in changes:
            text = re.sub(pattern, replacement, text)
        path.write_text(text, encoding="utf-8")


def look_up_models(folder: Path, config: str) -> None:
    """Make sure that a benchmark of models that are downloaded could begin."""
    options = Benchmark()._get_args(Benchmark.get_parser().parse_args(["--config", str(folder / config)]))
    for name in options["benchmark"]["model"]["class_path"]["grid"]:
        assert hasattr(anomalib_models, name)


def is_slow(block: Block) -> bool:
    """Tell whether a block trains, or exports a graph or needs one."""
    exports = ("anomalib export", "model.xml", "fbclip export", "hazelnut.xml")
    return any(words in block.code for words in ("anomalib fit", "bundled_model.train", *exports))


class Reader:
    """Someone who types what the pages say, block after block.

    Args:
        folder (Path): The folder that it is done in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done: dict[int, str] = {}
        self._said: dict[tuple[str, ...], str] = {}

    def read(self, index: int) -> str:
        """Run a block, after those before it, and give what it printed.

        Nothing but slow blocks needs slow blocks, so they are passed over where a test of something else is run alone.
        """
        for earlier, block in enumerate(BLOCKS[: index + 1]):
            if earlier not in self._done and (is_slow(BLOCKS[index]) or not is_slow(block)):
                self._done[earlier] = "failed"
                self._done[earlier] = "".join(map(self._run_once, self._commands(block)))
        return self._done[index]

    def _commands(self, block: Block) -> list[list[str]]:
        commands = [["python", "-c", PYTHON_NAMES + block.code]]
        if block.language == "bash":
            commands = split_commands(block.code, self.folder)
        return [lightened(CHANGES[block.comment](arguments)) for arguments in commands]

    def _run_once(self, arguments: list[str]) -> str:
        """Run a command, unless the same one was run before."""
        key = tuple(arguments)
        if key not in self._said:
            self._said[key] = self._run(arguments)
        return self._said[key]

    def _run(self, arguments: list[str]) -> str:
        if arguments[-1] == "configs/benchmark/folder_others.yaml":
            look_up_models(self.folder, arguments[-1])
            return ""
        self._provide(arguments)
        if arguments[:2] == ["fbclip", "watch"]:
            return self._watch(arguments)
        result = run(self.folder, PROGRAMS[arguments[0]], *arguments[1:])
        said = result.stdout + result.stderr
        succeeded = (0, 1) if arguments[0] == "fbclip" else (0,)  # 1: at least one is anomalous
        assert result.returncode in succeeded, f"{arguments}\n{said}"
        assert "Traceback" not in said
        return said

    def _watch(self, arguments: list[str]) -> str:
        """Run a command that has no end until it has a verdict, then end it as a service manager does."""
        with subprocess.Popen(
            [FBCLIP, *arguments[1:]],
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            said = []
            for line in process.stdout:
                said.append(line)
                if line.startswith("anomalous"):
                    process.terminate()
        assert process.returncode == 1, said
        return "".join(said)

    def _provide(self, arguments: list[str]) -> None:
        """Have the files of an earlier command where a reader would put them."""
        for name, source in (
            ("model.ckpt", "results/FBClip/hazelnut/latest/weights/lightning/model.ckpt"),
            ("model.xml", "results/weights/openvino/model.xml"),
            ("model.bin", "results/weights/openvino/model.bin"),
        ):
            if re.search(rf"(?<!/)\b{name.replace('bin', 'xml')}", " ".join(arguments)):
                shutil.copy(self.folder / source, self.folder / name)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folder = tmp_path_factory.mktemp("reader") / "here"
    folder.mkdir()
    write_photographs(folder)
    write_datasets(folder / "datasets")
    write_configs(folder)
    (folder / "tools").symlink_to(CONFIGS.parent / "tools")
    return Reader(folder)


def index_of(words: str) -> int:
    """Find the first block with these words."""
    return next(index for index, block in enumerate(BLOCKS) if words in block.code)


def test_no_other_comments_and_languages() -> None:
    assert len(BLOCKS) == len(re.findall(r"^```(?!text|yaml)\w+$", TEXT, re.MULTILINE))
    assert {block.comment for block in BLOCKS} == CHANGES.keys()


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def test_pages_are_linked() -> None:
    text = README.read_text(encoding="utf-8")
    assert all(f"docs/{page.name}" in text for page in PAGES[1:])


@pytest.mark.parametrize(
    "index",
    [
        pytest.param(index, id=f"{block.page} {block.line}", marks=[pytest.mark.slow] if is_slow(block) else [])
        for index, block in enumerate(BLOCKS)
    ],
)
def test_block(reader: Reader, index: int) -> None:
    reader.read(index)


def test_quickstart(reader: Reader) -> None:
    said = reader.read(index_of("config quickstart.yaml"))
    for metric in ("image_AUROC", "image_AUPR", "pixel_AUROC", "pixel_AUPRO"):
        assert metric in said
    assert "`results/FBClip/hazelnut/latest/images`" in TEXT
    heatmaps = reader.folder / "results/FBClip/hazelnut/v0/images"  # the latest, until a later page trains on them
    assert {Image.open(path).mode for path in heatmaps.rglob("*.jpg")} == {"RGB"}
    assert len(list(heatmaps.rglob("*.jpg"))) == 12


def shown_output(begin: str) -> list[str]:
    """Find the lines of the output that a page shows, by how it begins."""
    (shown,) = re.findall(rf"^```text\n({begin}.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    return shown.splitlines()


def is_said(line: str, said: list[str]) -> bool:
    """Tell whether a line was printed, apart from numbers, verdicts and names of photographs."""
    changes = {
        r"photographs/\w+": r"photographs/\\w+",
        r"\d+(?:\\\.\d+)?": r"[\\d.]+",
        r"^(?:anomalous|normal)(?:\\ )+": r"(anomalous|normal) +",
        r"region": r"regions?",
        r"(?<=: )anomalous": r"(anomalous|normal)",
    }
    pattern = re.escape(line)
    for shown, possible in changes.items():
        pattern = re.sub(shown, possible, pattern)
    return any(re.fullmatch(pattern, said_line) for said_line in said)


def test_answer_of_fbclip(reader: Reader) -> None:
    said = reader.read(index_of("fbclip fbclip-example/photographs --good")).splitlines()
    for line in shown_output("fbclip-small:"):
        assert is_said(line, said), line
    (report,) = re.findall(r"^Report: (.*)$", "\n".join(said), re.MULTILINE)
    assert (reader.folder / report).is_file()


def test_answer_of_teach(reader: Reader) -> None:
    said = reader.read(index_of("--add fbclip-example")).splitlines()
    for line in shown_output("Good photographs: 9"):
        assert is_said(line, said), line


@pytest.mark.parametrize(
    ("command", "begin"),
    [
        ("--alone --output alone", "12 photographs"),
        ("photographs --product hazelnut.fbclip", "anomalous  0.656  fbclip-example/photographs/good/25"),
        ("check --product hazelnut", " +threshold"),
    ],
)
def test_answers_of_the_tutorial(reader: Reader, command: str, begin: str) -> None:
    said = reader.read(index_of(command)).splitlines()
    for line in shown_output(begin):
        assert is_said(line, said), line


def test_answer_of_anomalib(reader: Reader) -> None:
    said = reader.read(index_of("--data photograph.jpg")).splitlines()
    for line in shown_output("photograph"):
        assert is_said(line, said), line
    (results,) = {path.parents[2] for path in (reader.folder / "results/FBClip").glob("v*/images/*/photograph.jpg")}
    assert {"predictions.csv", "predictions.jsonl", "images"} <= {path.name for path in results.iterdir()}


def verdicts_in(said: str) -> dict[str, str]:
    """Find the verdict of each photograph in what a command printed."""
    return dict(re.findall(r"^(.*\.jpg): (normal|anomalous) ", said, re.MULTILINE))


def test_thresholds_from_good_photographs(reader: Reader) -> None:
    said = reader.read(index_of("few_shot_source good --data"))
    assert re.search(r"Compared with 4 good photographs: about \d in 5 good parts may be called anomalous", said)
    assert verdicts_in(said).keys() == {"photographs/burn.jpg", "photographs/good.jpg"}


def test_good_photographs_of_a_training_split(reader: Reader) -> None:
    assert "Compared with 4 good photographs" in reader.read(index_of("k_shot 4"))


@pytest.mark.slow
def test_good_photographs_in_an_exported_file(reader: Reader) -> None:
    """The verdicts are those of the model."""
    reader.read(index_of("--model results/weights"))
    lines = (reader.folder / "verdicts/v0/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    said = reader.read(index_of("few_shot_source good --data"))
    assert {row["path"]: row["verdict"] for row in rows} == verdicts_in(said)
    assert {row["threshold_source"] for row in rows} == {"good photographs"}


def test_the_nearest_good_photograph(reader: Reader) -> None:
    reader.read(index_of("nearest_reference"))
    sides = Image.open(reader.folder / "nearest.png").size
    assert all(side in {2 * 16, 3 * 16} for side in sides)  # patches of 16 px; less than 3 at the edge


def test_protocol_and_comparison(reader: Reader) -> None:
    assert "2 of 2 categories" in reader.read(index_of("anomalib_fbclip.protocol"))
    assert (reader.folder / "results/protocol/MVTecAD.md").is_file()
    assert "FBClip (fbclip-small)" in reader.read(index_of("anomalib_fbclip.protocol compare"))
    assert (reader.folder / "results/comparison.png").is_file()


@pytest.mark.slow
def test_edge(reader: Reader) -> None:
    said = reader.read(index_of("fbclip photographs --model model.xml"))
    assert "exported; computed by OpenVINO" in said
