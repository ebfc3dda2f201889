# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The protocol by number of good photographs."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from anomalib.data import ImageBatch, MVTecAD
from anomalib.engine import Engine

from anomalib_fbclip import FBClip
from anomalib_fbclip.modeling.few_shot import MutualScoring, mutual_scoring
from anomalib_fbclip.protocol import command as protocol
from anomalib_fbclip.protocol.__main__ import main
from anomalib_fbclip.protocol.command import FalsePositiveRate, Plan, Recall
from anomalib_fbclip.protocol.tables import METRICS, TYPES, read_results, tabulate_shots, to_markdown
from support.images import write_mvtec_category

PHOTOGRAPHS = {"nut": 4, "bolt": 2}
"""Number of normal images to choose from, by category."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories of parts, one of them with few normal images to choose from."""
    root = tmp_path_factory.mktemp("datasets") / "parts"
    for seed, (category, count) in enumerate(PHOTOGRAPHS.items()):
        write_mvtec_category(root, category, seed=seed)
        for path in sorted((root / category / "train" / "good").iterdir())[count:]:
            path.unlink()
    return root


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def arguments(parts: Path, small_backbone: str, small_adapters: Path) -> tuple[str, ...]:
    model = ("--model.backbone", small_backbone, "--model.weights", str(small_adapters), "--accelerator", "cpu")
    data = ("--data", "MVTecAD", "--data.root", str(parts), "--data.num_workers", "0", "--output", "results")
    return (*model, *data, "--categories", "[nut, bolt]", "--model.reference_rotations", "1")


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Categories that are really tested, as they are."""
    names: list[str] = []
    evaluate = protocol._evaluate

    def note(plan: Plan, category: str) -> object:
        names.append(category)
        return evaluate(plan, category)

    monkeypatch.setattr(protocol, "_evaluate", note)
    return names


def first_cells(path: Path) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")][:2] for line in lines]


def test_table_by_shots(arguments: tuple[str, ...], tested: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main([*arguments, "--shots", "[0, 1, 2]", "--choices", "2"]) == 0
    assert tested == ["nut", "bolt"] * 5
    screen = capsys.readouterr()
    assert "Good photographs: 2, choice 2" in screen.err
    assert "FB-CLIP on parts, 2 of 2 categories, in percent" in screen.out
    names = ("nut", "bolt", "mean")
    assert first_cells(Path("results/parts.md")) == [[name, str(number)] for name in names for number in range(3)]
    one_choice, two_choices, *_ = Path("results/parts.md").read_text(encoding="utf-8").splitlines()[2:]
    assert "±" not in one_choice
    assert two_choices.count("±") == 6
    assert sorted(path.name for path in Path("results").iterdir()) == ["parts.csv", "parts.md"]


@pytest.mark.parametrize(
    ("shots", "photographs"), [("2", {"k_shot": 2}), ("unlabeled", {"unlabeled_source": "dataset"})]
)
def test_same_as_anomalib_test(
    arguments: tuple[str, ...],
    parts: Path,
    small_backbone: str,
    small_adapters: Path,
    shots: str,
    photographs: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mutual_scoring, "UNALIKE_DISTANCE", 2.0)  # noise is
    assert main([*arguments, "--shots", f"[{shots}]", "--choices", "2", "--categories", "[nut]"]) == 0
    for choice, (_, row) in enumerate(read_results(Path("results/parts.csv")).iterrows()):
        model = FBClip(
            small_backbone, weights=small_adapters, visualizer=False, reference_rotations=1, **photographs, seed=choice
        )
        datamodule = MVTecAD(root=parts, category="nut", num_workers=0)
        (expected,) = Engine(accelerator="cpu", devices=1).test(model, datamodule=datamodule)
        assert row[[*METRICS]].to_dict() == pytest.approx(expected, abs=1e-5)
        assert (shots == "unlabeled") == isinstance(model.model.decision, MutualScoring)


def test_zero_shots_are_the_usual_test(arguments: tuple[str, ...], tested: list[str]) -> None:
    assert main(list(arguments)) == 0
    assert main([*arguments, "--shots", "[0]"]) == 0
    assert tested == ["nut", "bolt"]
    assert first_cells(Path("results/parts.md")) == [["nut", "0"], ["bolt", "0"], ["mean", "0"]]


def test_goes_on_where_it_was_interrupted(
    arguments: tuple[str, ...],
    tested: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    evaluate = protocol._evaluate

    def interrupt(plan: Plan, category: str) -> object:
        if len(tested) == 3:
            raise KeyboardInterrupt
        return evaluate(plan, category)

    command = [*arguments, "--shots", "[1]", "--choices", "2"]
    with monkeypatch.context() as context:
        context.setattr(protocol, "_evaluate", interrupt)
        assert main(command) == 130
    capsys.readouterr()
    assert main(command) == 0
    assert tested == ["nut", "bolt", "nut", "bolt"]
    screen = capsys.readouterr().err
    assert "2 of 2 categories are in results/parts.csv already" in screen
    assert "1 of 2 categories are in results/parts.csv already" in screen
    assert main([*command, "--choices", "3"]) == 0
    assert tested[4:] == ["nut", "bolt"]


def test_more_shots_than_photographs(arguments: tuple[str, ...], capsys: pytest.CaptureFixture) -> None:
    assert main([*arguments, "--shots", "[2, 4]", "--choices", "1"]) == 2
    screen = capsys.readouterr()
    (line,) = [line for line in screen.err.splitlines() if "failed" in line]
    assert "[2/2] bolt failed: The training split of MVTecAD has 2 good photographs, and k_shot is 4" in line
    assert "Traceback" not in screen.err
    assert "1 of 2 categories" in screen.out
    assert first_cells(Path("results/parts.md")) == [
        *(["nut", "2"], ["nut", "4"], ["bolt", "2"]),
        *(["mean", "2"], ["mean", "4"]),
    ]
    _, nut, *_, mean = Path("results/parts.md").read_text(encoding="utf-8").splitlines()[2:]
    assert mean == nut.replace("nut", "mean")


def test_one_map_alone(arguments: tuple[str, ...]) -> None:
    command = [*arguments, "--shots", "[2]", "--choices", "1", "--categories", "[nut]"]
    for maps in ("[references]", "[text]", "[references, text]"):
        assert main([*command, "--model.few_shot_maps", maps]) == 0
    results = read_results(Path("results/parts.csv"))
    of_references = ['"few_shot_maps": ["references"]' in settings for settings in results["settings"]]
    assert of_references == [True, False, False]
    assert results["pixel_AUROC"].nunique() == 3


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--shots", "[-1]"), "shots"),
        (("--shots", "[1]", "--choices", "0"), "choices"),
        (("--shots", "[1]", "--model.k_shot", "2"), "leave out"),
        (("--shots", "[1]", "--model.few_shot_source", "good"), "leave out"),
    ],
)
def test_cannot_begin(
    arguments: tuple[str, ...], extra: tuple[str, ...], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main([*arguments, *extra]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not Path("results").exists()


def test_each_number_is_tested_once(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    tested = []
    run_missing = "anomalib_fbclip.protocol.command.run_missing"
    monkeypatch.setattr(run_missing, lambda plan, _: tested.append((plan.shots, plan.choice)))
    assert main([*arguments, "--shots", "[4, 0, 4]", "--choices", "2"]) == 2
    assert tested == [(4, 0), (4, 1), (0, 0)]


def frame(shots: int, choice: int, **figures: tuple[float, float]) -> pd.DataFrame:
    """Image AUROC and recall of each category."""
    rows = [
        {"category": name, "image_AUROC": auroc, "image_Recall": found, "normal": 3, "anomalous": 2, "settings": "{}"}
        for name, (auroc, found) in figures.items()
    ]
    return pd.DataFrame(rows, columns=list(TYPES)).astype(TYPES).assign(shots=shots, choice=choice)


RUNS = [
    frame(0, 0, nut=(0.5, 0.0), bolt=(0.7, 0.0)),
    frame(4, 0, nut=(0.8, 0.5), bolt=(0.6, 0.5)),
    frame(4, 1, nut=(0.9, 0.7), bolt=(0.9, 0.5)),
]


def in_order(*results: pd.DataFrame) -> pd.DataFrame:
    """Put the nut before the bolt."""
    return pd.concat(results).sort_values("category", ascending=False, kind="stable")


def test_mean_and_spread_over_the_choices() -> None:
    assert to_markdown(tabulate_shots(in_order(*RUNS), ["nut", "bolt"])).splitlines() == [
        "| category | shots | image AUROC | image AP | pixel AUROC | pixel AUPRO | found | false alarms |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        "| nut | 0 | 50.0 | - | - | - | 0.0 | - |",
        "| nut | 4 | 85.0 ± 7.1 | - | - | - | 60.0 ± 14.1 | - |",
        "| bolt | 0 | 70.0 | - | - | - | 0.0 | - |",
        "| bolt | 4 | 75.0 ± 21.2 | - | - | - | 50.0 ± 0.0 | - |",
        "| mean | 0 | 60.0 | - | - | - | 0.0 | - |",
        "| mean | 4 | 80.0 ± 14.1 | - | - | - | 55.0 ± 7.1 | - |",
    ]


def test_means_are_over_the_same_categories() -> None:
    results = in_order(*RUNS[:2], frame(4, 1, bolt=(0.9, 0.5)))
    assert to_markdown(tabulate_shots(results, ["bolt"])).splitlines()[-1].startswith("| mean | 4 | 75.0 ± 21.2 |")


def test_verdicts() -> None:
    batch = ImageBatch(
        image=torch.zeros(6, 3, 2, 2),
        pred_score=torch.tensor([0.9, 0.5, 0.1, 0.2, 0.51, 0.0]),
        gt_label=torch.tensor([True, True, True, False, False, False]),
    )
    for metric, expected in ((Recall, 1 / 3), (FalsePositiveRate, 1 / 3)):
        of_images = metric(["pred_score", "gt_label"], prefix="image_")
        of_images.update(batch)
        assert of_images.compute() == pytest.approx(expected)
        assert of_images.name == f"image_{metric.__name__}"
