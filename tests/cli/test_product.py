# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""A product: taught, inspected with, changed, described, and refused in a line."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from anomalib_fbclip.__main__ import main
from anomalib_fbclip.cli.product import describe_product
from anomalib_fbclip.cli.torch_inferencer import TorchInferencer
from anomalib_fbclip.images.image_files import find_images
from anomalib_fbclip.weights import bundled
from anomalib_fbclip.weights.adapters import Adapters, digest_file
from anomalib_fbclip.weights.metadata import KINDS, PRODUCT_KINDS
from support import line
from support.parts import draw_part, fails, read_rows
from support.schema import read_schema


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of good parts, of other parts, and a product."""
    folder = tmp_path_factory.mktemp("parts")
    for name, seeds in (("good", range(4)), ("more", (5, 6)), ("photographs", (10, 11))):
        (folder / name).mkdir()
        for seed in seeds:
            draw_part(seed, defective=seed == 11).save(folder / name / f"{seed}.png")
    (folder / "masks").mkdir()
    Image.new("L", (8, 8), 255).save(folder / "masks" / "0.png")
    shutil.copy(folder / "good" / "1.png", folder / "photographs" / "copy.png")
    assert main(["teach", str(folder / "good"), "--output", str(folder / "bolt.fbclip"), "--rotations", "2"]) == 0
    return folder


@pytest.fixture(autouse=True)
def folder(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them, in which the command is run."""
    shutil.copytree(parts, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw_checks(seed: int) -> Image.Image:
    """Another part: small squares of two colors."""
    stream = np.random.default_rng(seed)
    squares = np.indices((100, 140)).sum(axis=0) // 7 % 2
    pixels = np.where(squares[..., None] == 1, (30, 120, 200), (230, 220, 190)) + stream.integers(0, 12, (100, 140, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def inspect(*arguments: str) -> list[tuple]:
    assert main(["photographs", *arguments]) == 1
    return [(row["path"], row["score"], row["regions"], row["threshold_source"]) for row in read_rows()]


@pytest.mark.parametrize(
    "options",
    [["--rotations", "1"], ["--tiles", "2x1", "--region", "0.1,0.1,0.8,0.8", "--shots", "3", "--rotations", "2"]],
)
def test_verdicts_are_those_with_the_photographs(options: list[str], capsys: pytest.CaptureFixture) -> None:
    expected = inspect("--good", "good", *options)
    compared = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Compared")]
    assert main(["teach", "good", "--output", "part.fbclip", *options]) == 0
    shutil.rmtree("good")
    capsys.readouterr()
    assert inspect("--product", "part.fbclip") == expected
    out = capsys.readouterr().out
    assert "Product part" in out
    assert compared[0] in out
    assert [row["same_as"] for row in read_rows()] == [None, None, "1.png"]
    page = Path("fbclip-results/latest/report.html").read_text(encoding="utf-8")
    assert "the nearest place in" in page
    assert "fbclip teach part.fbclip --add {photographs}" in page


def load(weights: str) -> TorchInferencer:
    return TorchInferencer(None, weights, "cpu", "float32", None, None)


def scores(inferencer: TorchInferencer) -> list[float]:
    return [prediction.score for prediction in inferencer.stream(find_images(Path("photographs")))]


def test_photographs_are_added_and_removed(capsys: pytest.CaptureFixture) -> None:
    """It comes to the same as teaching all at once, without the others at hand."""
    expected = [scores(load("bolt.fbclip"))]
    shutil.copytree("good", "all")
    for path in Path("more").iterdir():
        shutil.copy(path, "all")
    assert main(["teach", "all", "--output", "all.fbclip", "--rotations", "2"]) == 0
    expected.append(scores(load("all.fbclip")))
    assert abs(expected[0][0] - expected[1][0]) > 0.005
    shutil.rmtree("good")
    shutil.rmtree("all")
    capsys.readouterr()
    assert main(["teach", "bolt.fbclip", "--add", "more", "--output", "added.fbclip"]) == 0
    out = capsys.readouterr().out
    assert "Good photographs: 6, before 4." in out
    assert "Threshold: " in out
    assert "good parts may be called anomalous, before" in out
    assert main(["teach", "all.fbclip", "--remove", "5.png", "6.png"]) == 0
    assert scores(load("added.fbclip")) == pytest.approx(expected[1], abs=0.01)
    assert scores(load("all.fbclip")) == pytest.approx(expected[0], abs=0.01)


def test_a_photograph_that_is_in_it(capsys: pytest.CaptureFixture) -> None:
    before = Path("bolt.fbclip").read_bytes()
    assert main(["teach", "bolt.fbclip", "--add", "good/1.png"]) == 0
    assert "Nothing has changed." in capsys.readouterr().out
    assert Path("bolt.fbclip").read_bytes() == before


def test_photographs_of_one_name(capsys: pytest.CaptureFixture) -> None:
    """What is removed is said, and what may be meant as well."""
    shutil.copy("more/5.png", "more/1.png")
    assert main(["teach", "bolt.fbclip", "--add", "more/1.png"]) == 0
    assert "Kept as 1-2.png: the product has other photographs of the same name." in capsys.readouterr().out
    assert main(["teach", "bolt.fbclip", "--remove", "1.png", "0.png", "2.png"]) == 0
    out = capsys.readouterr().out
    assert "Removed: 0.png, 1.png, 2.png." in out
    assert "Not removed: 1-2.png, which may have had the same name." in out
    assert "Give at least 4; 8 are better." in out


def test_a_photograph_is_removed_and_added_again() -> None:
    before = scores(load("bolt.fbclip"))
    assert main(["teach", "bolt.fbclip", "--remove", "1.png", "--add", "good/1.png"]) == 0
    assert scores(load("bolt.fbclip")) == pytest.approx(before, abs=0.01)


def test_a_name_of_two_lines(capsys: pytest.CaptureFixture) -> None:
    Path("more/5.png").rename("more/two\nlines.png")
    assert main(["teach", "more", "--output", "part.fbclip"]) == 0
    assert "It has 6.png, two\\nlines.png." in fails(capsys, "teach", "part.fbclip", "--remove", "nothing")


def test_thresholds_are_kept() -> None:
    given = ["--threshold", "0.7", "--pixel-threshold", "0.4", "--rotations", "1", "--shots", "1"]
    assert main(["teach", "good", "--output", "part.fbclip", *given]) == 0
    inferencer = load("part.fbclip")
    assert inferencer.decision_thresholds() == (0.7, 0.4)
    assert inferencer.threshold_sources() == ("given", "given")
    assert TorchInferencer(None, "part.fbclip", "cpu", "float32", 0.2, None).decision_thresholds() == (0.2, 0.4)
    assert main(["teach", "part.fbclip", "--add", "more", "--max-false-alarms", "20%"]) == 0
    assert load("part.fbclip").decision_thresholds()[0] not in {0.5, 0.7}


def test_several_products(capsys: pytest.CaptureFixture) -> None:
    """Each photograph is compared with the one that it is most like; what is like none is said so."""
    draw_checks(20).save("photographs/checks.png")
    stripes = np.zeros((100, 140, 3), dtype=np.uint8)
    stripes[:, ::6] = (255, 80, 0)
    Image.fromarray(stripes).save("photographs/stripes.png")
    Path("checks").mkdir()
    for seed in range(3):
        draw_checks(seed).save(f"checks/{seed}.png")
    options = ["--region", "0,0,0.9,1", "--threshold", "0.9", "--rotations", "1"]
    assert main(["teach", "checks", "--output", "check.fbclip", *options]) == 0
    expected = {row[0]: row[1] for product in ("bolt", "check") for row in inspect("--product", f"{product}.fbclip")}
    bolts = {row[0]: row[1] for row in inspect("--product", "bolt.fbclip")}
    capsys.readouterr()
    inspect("--product", "bolt.fbclip", "--product", "check.fbclip")
    rows = {Path(row["path"]).name: row for row in read_rows()}
    assert {name: (row["product"], row["verdict"]) for name, row in rows.items()} == {
        "10.png": ("bolt", "normal"),
        "11.png": ("bolt", "anomalous"),
        "copy.png": ("bolt", "normal"),
        "checks.png": ("check", "normal"),
        "stripes.png": (None, "unknown"),
    }
    assert {row["product"]: row["threshold"] for row in rows.values() if row["product"]} == {"bolt": 0.5, "check": 0.9}
    for name, row in rows.items():
        jsonschema.validate(row, read_schema())
        scores = expected if row["product"] == "check" else bolts
        if row["product"]:
            assert row["score"] == pytest.approx(scores[f"photographs/{name}"], abs=1e-6)
    assert rows["stripes.png"]["regions"] == []
    assert "1 unlike all products" in capsys.readouterr().out
    page = Path("fbclip-results/latest/report.html").read_text(encoding="utf-8")
    assert 'data-state="unknown"' in page
    assert '<span class="product">check</span>' in page
    assert main(["photographs/stripes.png", "--product", "bolt.fbclip", "--product", "check.fbclip"]) == 1


def test_products_of_other_models(capsys: pytest.CaptureFixture) -> None:
    given = ["--rotations", "1", "--shots", "1", "--image-size", "112"]
    assert main(["teach", "good", "--output", "small.fbclip", *given]) == 0
    line = fails(capsys, "photographs", "--product", "bolt.fbclip", "--product", "small.fbclip")
    assert "image_size [112, 112], the first product with [224, 224]" in line
    shutil.copy("bolt.fbclip", "more/bolt.fbclip")
    line = fails(capsys, "photographs", "--product", "bolt.fbclip", "--product", "more/bolt.fbclip")
    assert "called bolt" in line


def test_what_it_holds(capsys: pytest.CaptureFixture) -> None:
    capsys.readouterr()
    assert main(["product", "bolt.fbclip"]) == 0
    said = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert len(said) == 10
    assert said["Good photographs"].strip().startswith("4: 0.png, 1.png")
    assert "fbclip-small" in said["Model"]
    assert "in 5 good parts" in said["False alarms"]


def rewrite(path: Path, **texts: str) -> None:
    """Write other metadata into a product, as a foreign program would that knows the format."""
    with safe_open(path, "pt") as file:
        sign(path, load_file(path), file.metadata() | texts)


def sign(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    texts = {key: text for key, text in metadata.items() if key not in {"format", "digest"}}
    save_file(tensors, path, {**metadata, "digest": digest_file(tensors, texts)})


def change_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def leave_out(path: Path, name: str) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    sign(path, {key: value for key, value in load_file(path).items() if not key.startswith(name)}, metadata)


def half_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[: len(tensor) // 2].clone()


def replace(path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    sign(path, tensors | {name: change(tensors[name]).contiguous()}, metadata)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "does not exist"),
    "truncated": (half, "copy it again"),
    "of another kind": (lambda path: path.write_bytes(b"nothing of the kind"), "can't be read"),
    "adapters": (lambda path: shutil.copy(bundled.ADAPTERS_FILE, path), "no good photographs"),
    "foreign": (lambda path: save_file({}, path), "was not saved by fbclip teach: give a file that was"),
    "a folder": (lambda path: path.unlink() or path.mkdir(), "is a folder: give a file"),
    "newer": (lambda path: rewrite(path, format_version="2", version='"9.0"'), "newer"),
    "other adapters": (lambda path: rewrite(path, bundled_adapters='"0"'), "teach it again"),
    "no words": (lambda path: rewrite(path, photographs="[{"), "can't be read"),
    "wrong words": (lambda path: rewrite(path, photographs="[3]", used="[0]"), "can't be read"),
    "no region": (lambda path: rewrite(path, region='"nothing"'), "can't be read"),
    "no memory": (lambda path: leave_out(path, "few_shot."), "teach it again"),
    "a byte of a tensor": (lambda path: change_byte(path, -1000), "damaged"),
    "a letter of a name": (lambda path: change_byte(path, path.read_bytes().index(b"0.png")), "damaged"),
    "half a memory": (lambda path: replace(path, "few_shot.memory.patches", half_of), "can't be read"),
    "a score less": (lambda path: replace(path, "photographs.scores", half_of), "can't be read"),
    "half a photograph": (lambda path: replace(path, "photographs.image.2", half_of), "can't be read"),
    "a memory of 16 bits": (lambda path: replace(path, "few_shot.memory.patches", torch.Tensor.half), "can't be read"),
    "no threshold": (lambda path: replace(path, "few_shot.calibration.threshold", lambda it: it / 0), "can't be read"),
    "no spread": (lambda path: leave_out(path, "few_shot.merge"), "can't be read"),
    "places that there are not": (lambda path: replace(path, "photographs.origins", torch.neg), "can't be read"),
    "no logits": (lambda path: replace(path, "photographs.logits", torch.Tensor.bool), "can't be read"),
    "no photographs": (lambda path: leave_out(path, "photographs."), "can't be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_products(damage: str, capsys: pytest.CaptureFixture) -> None:
    spoil, message = DAMAGE[damage]
    spoil(Path("bolt.fbclip"))
    line = fails(capsys, "photographs", "--product", "bolt.fbclip")
    assert message in line
    assert "bolt.fbclip" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["product", "closed/bolt.fbclip"],
        ["product", "bolt.fbclip"],
        ["teach", "closed/bolt.fbclip", "--add", "more"],
        ["teach", "bolt.fbclip", "--add", "closed/1.png"],
        ["watch", "closed/photographs"],
    ],
)
def test_what_may_not_be_read(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **how: (refuse if "closed" in path.parts else stat)(path, **how))
    monkeypatch.setattr(Path, "open", refuse)
    assert "ive this user access" in fails(capsys, *arguments)


MISTAKES: dict[str, tuple[list[str], str]] = {
    "not a product": (["photographs", "--product", "good"], "is not a product"),
    "good beside it": (["photographs", "--product", "bolt.fbclip", "--good", "good"], "--good does not go with"),
    "twice": (["photographs", "--product", "bolt.fbclip", "--product", "good/../bolt.fbclip"], "given twice"),
    "tiles beside it": (["photographs", "--product", "bolt.fbclip", "--tiles", "2"], "--tiles does not go with"),
    "an exported model beside it": (["photographs", "--product", "bolt.fbclip", "--model", "a.xml"], "does not go"),
    "another backbone": (["photographs", "--product", "bolt.fbclip", "--backbone", "ViT-B-32"], "leave the backbone"),
    "as weights": (["photographs", "--weights", "bolt.fbclip"], "give it to --product"),
    "no output": (["teach", "good"], "--output"),
    "another suffix": (["teach", "good", "--output", "bolt.pt"], "ends in .fbclip"),
    "in the place of another": (["teach", "good", "--output", "bolt.fbclip"], "exists already"),
    "changed in the place of another": (
        ["teach", "bolt.fbclip", "--add", "more", "--output", "taken.fbclip"],
        "exists already",
    ),
    "nothing to learn from": (["teach", "nowhere", "--output", "x.fbclip"], "nowhere does not exist"),
    "nothing to change": (["teach", "bolt.fbclip"], "give --add or --remove"),
    "a folder is changed": (["teach", "good", "--add", "more"], "change a product"),
    "settled": (["teach", "bolt.fbclip", "--add", "more", "--tiles", "2"], "--tiles does not go with --add"),
    "nothing to add": (["teach", "bolt.fbclip", "--add", "nowhere"], "nowhere does not exist"),
    "no such name": (["teach", "bolt.fbclip", "--remove", "7.png"], "no photograph of this name"),
    "a similar name": (["teach", "bolt.fbclip", "--remove=-1.png"], "Did you mean 1.png?"),
    "nothing left": (["teach", "bolt.fbclip", "--remove", *(f"{seed}.png" for seed in range(4))], "leave no"),
    "a mask each": (["teach", "good", "--output", "x.fbclip", "--region", "masks"], "one region of interest"),
    "no place": (["teach", "bolt.fbclip", "--remove", "0.png", "--output", "good/1.png/x.fbclip"], "can't be written"),
    "no place that is found at once": (["teach", "nowhere", "--output", "/proc/x.fbclip"], "can't be written"),
    "no place for a change": (["teach", "bolt.fbclip", "--add", "nowhere", "--output", "/proc/x.fbclip"], "be written"),
    "not described": (["product", "good"], "is not a product"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, capsys: pytest.CaptureFixture) -> None:
    arguments, message = MISTAKES[mistake]
    shutil.copy("bolt.fbclip", "taken.fbclip")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert message in fails(capsys, *arguments)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_watch() -> None:
    """A folder that is watched has the verdicts of one that is inspected."""
    inspected = inspect("--product", "bolt.fbclip")
    options = ("--product", "bolt.fbclip", "--output", "results")
    assert line.run_until(lambda: len(line.read_rows()) == len(inspected), "photographs", *options) == 1
    rows = [(row["path"], row["score"], row["regions"], row["threshold_source"]) for row in line.read_rows()]
    assert sorted(rows) == sorted(inspected)


def read(path: Path) -> None:
    product = Adapters.read(path)
    assert all(describe_product(path, product).values())
    assert product.settled


@pytest.mark.parametrize("value", ["null", "0", "-1", "true", "[]", "{}", '"x"', "[[9, 1]]", "NaN", '{"x": 1}'])
def test_a_value_of_another_kind(value: str) -> None:
    """Whatever is in a product with a valid digest, it is used as it says, or refused in a line."""
    whole = Adapters.read(Path("bolt.fbclip"))
    for name in whole.metadata:
        shutil.copy("bolt.fbclip", "other.fbclip")
        rewrite(Path("other.fbclip"), **{name: value})
        try:
            read(Path("other.fbclip"))
        except ValueError as error:
            assert "other.fbclip" in str(error)  # noqa: PT017


def test_a_missing_value() -> None:
    with safe_open("bolt.fbclip", "pt") as file:
        metadata = file.metadata()
    tensors = load_file("bolt.fbclip")
    for name in KINDS | PRODUCT_KINDS:
        sign(Path("other.fbclip"), tensors, {key: text for key, text in metadata.items() if key != name})
        with pytest.raises(ValueError, match=r"other.fbclip"):
            read(Path("other.fbclip"))
