# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""``fbclip`` with tiles, an input size, a region of interest and turned copies: chosen, told, and refused in a line."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from anomalib_fbclip.__main__ import main
from anomalib_fbclip.cli.models import choose_tiles
from anomalib_fbclip.cli.torch_inferencer import TorchInferencer
from anomalib_fbclip.modeling.tiling import Tiles, WholeImage
from anomalib_fbclip.results.regions import smallest_visible_defect
from support.parts import draw_part

VIEW = (224, 224)


def look(count: tuple[int, int], view: tuple[int, int] = VIEW, patch: int = 14) -> WholeImage:
    return WholeImage(view) if count == (1, 1) else Tiles(count, view, (patch, patch))


class TestChoice:
    """``--tiles auto``."""

    @given(
        st.tuples(st.integers(50, 6000), st.integers(50, 6000)),
        st.integers(1, 600),
        st.integers(8, 37),
        st.sampled_from([14, 16, 32]),
    )
    def test_what_is_asked_for_is_seen(self, size: tuple[int, int], smallest: int, side: int, patch: int) -> None:
        assume(smallest * 150 > max(size))  # so that the tiles can be counted
        view = (side * patch, side * patch)
        count = choose_tiles(size, smallest, view)
        assert smallest_visible_defect(size, look(count, view, patch).image_size) <= smallest

    @given(st.tuples(st.integers(50, 6000), st.integers(50, 6000)), st.integers(20, 600))
    def test_no_more_tiles_than_it_takes(self, size: tuple[int, int], smallest: int) -> None:
        """With a row or a column fewer it is not seen, or a strip is squeezed."""
        assume(smallest * 150 > max(size))
        rows, columns = choose_tiles(size, smallest, VIEW)
        for fewer in ((rows - 1, columns), (rows, columns - 1)):
            if min(fewer) > 0:
                height, width = look(fewer).image_size
                scale = min(height / size[0], width / size[1])
                assert scale < max(3.2 / smallest, max(VIEW) / min(size)) + 1e-9

    @pytest.mark.parametrize("size", [(600, 4992), (4992, 600), (1260, 500)])
    def test_a_strip_is_not_squeezed(self, size: tuple[int, int]) -> None:
        """Its shorter side fills a tile, and its longer side has as many pixels for its length."""
        count = choose_tiles(size, None, VIEW)
        assert max(count) > 1
        scales = [model / photograph for model, photograph in zip(look(count).image_size, size, strict=True)]
        assert min(scales) >= 224 / min(size)

    def test_a_square_and_nothing_asked(self) -> None:
        """A hundredth of its side is seen, whatever its size."""
        assert choose_tiles((1000, 1000), None, VIEW) == choose_tiles((3000, 3000), None, VIEW) == (2, 2)
        assert choose_tiles((1000, 1000), None, (448, 448)) == (1, 1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command is run beside the photographs, and masks of all kinds."""
    monkeypatch.chdir(tmp_path)
    mask = np.zeros((50, 70), dtype=np.uint8)
    Image.fromarray(mask).save("black.png")
    mask[:, 35:] = 255
    Path("masks").mkdir()
    for name in ("mask.png", "masks/spot.png", *(f"masks/{seed}.png" for seed in range(4))):
        Image.fromarray(mask).save(name)
    line = np.zeros((100, 140), dtype=np.uint8)
    line[48:51] = 255
    Image.fromarray(line).save("line.png")
    (tmp_path / "nothing").mkdir()
    return photographs


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no tiles": (["--tiles", "0"], "'0' is not a number of tiles"),
    "tiles in words": (["--tiles", "x"], "'x' is not a number of tiles"),
    "too many tiles": (["--tiles", "300"], "90000 tiles: take 256 at most"),
    "half a tile": (["--tiles", "1.5"], "'1.5' is not a number of tiles"),
    "three numbers of tiles": (["--tiles", "1x2x3"], "'1x2x3' is not a number of tiles"),
    "no defect": (["--smallest-defect", "0"], "'0' is not a number of pixels"),
    "a defect in words": (["--smallest-defect", "tiny"], "'tiny' is not a number of pixels"),
    "tiles twice": (["--tiles", "3", "--smallest-defect", "9"], "leave out --tiles, or give --tiles auto"),
    "rotations without good": (["--rotations", "8"], "--rotations needs --good"),
    "no rotations": (["--good", "photographs/good", "--rotations", "0"], "give 1 or more"),
    "no size": (["--image-size", "large"], "'large' is not a size"),
    "size 0": (["--image-size", "0"], "'0' is not a size"),
    "no whole patches": (["--image-size", "225"], "Give 224, say"),
    "no whole patches of two sides": (["--image-size", "450x225"], "Give height 224 and width 448, say"),
    "too large": (["--image-size", "14000000x14"], "4096 pixels a side at most"),
    "too many rotations": (["--good", "good", "--rotations", "1000000"], "360 at most"),
    "nonsense as region": (["--region", "middle"], "neither a file, a folder nor x,y,width,height"),
    "nothing as region": (["--region", ""], "argument 3 is empty"),
    "region outside": (["--region", "130,0,20,20"], "of 140 x 100 pixels: give x,y,width,height inside it"),
    "empty mask": (["--region", "black.png"], "black.png ignores everything"),
    "thin mask": (["--region", "0,50,140,2"], "thinner than half a patch"),
    "no masks": (["--region", "nothing"], "nothing has no masks"),
    "no mask of a good photograph": (
        ["--region", "masks", "--good", "photographs/fine.png"],
        "no mask",
    ),
}


def fails(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """Run the command, which refuses its arguments in a line."""
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert (code, out) == (2, "")
    assert line.startswith("error: ")
    assert not list(Path().glob("fbclip-results/*"))
    return line


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, capsys: pytest.CaptureFixture) -> None:
    options, message = MISTAKES[mistake]
    assert message in fails(capsys, "photographs", *options)


@pytest.mark.parametrize("option", ["--tiles=3", "--smallest-defect=9", "--image-size=448", "--region=0,0,1,0.5"])
def test_an_exported_model_has_all_that_in_it(option: str, capsys: pytest.CaptureFixture) -> None:
    name = option.partition("=")[0]
    assert f"{name} does not go with --model" in fails(capsys, "photographs", "--model", "model.xml", option)


def test_turned_copies_of_an_exported_model(capsys: pytest.CaptureFixture) -> None:
    line = fails(capsys, "photographs", "--model", "model.xml", "--rotations", "8")
    assert "--rotations does not go with --model" in line


def test_the_size_of_a_video_is_not_known(capsys: pytest.CaptureFixture) -> None:
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, (140, 100))
    writer.write(np.zeros((100, 140, 3), dtype=np.uint8))
    writer.release()
    assert "give a number, such as 3" in fails(capsys, "clip.avi", "--tiles", "auto")
    assert "give a number, such as 3" in fails(capsys, "clip.avi", "--smallest-defect", "20px")
    assert "give fractions" in fails(capsys, "clip.avi", "--region", "10,10,200,100")


def read_rows() -> dict[str, dict]:
    lines = Path("fbclip-results/latest/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return {Path(row["path"]).name: row for row in map(json.loads, lines)}


def test_what_is_said(capsys: pytest.CaptureFixture) -> None:
    """Of 140 x 100 pixels, 3 x 2 tiles of 224: 560 x 392 pixels."""
    draw_part(0).resize((1400, 1000)).save("large.png")
    assert main(["large.png", "--tiles", "3x2"]) in {0, 1}
    out = capsys.readouterr().out
    assert "Smallest visible defect: about 9 of 1400 pixels." in out
    assert "6 tiles besides the whole photograph" in out
    assert main(["large.png", "--smallest-defect", "8px"]) in {0, 1}
    assert "Smallest visible defect: about 8 of 1400 pixels." in capsys.readouterr().out
    assert main(["large.png", "--image-size", "448x224"]) in {0, 1}
    out = capsys.readouterr().out
    assert "Smallest visible defect: about 15 of 1400 pixels." in out
    assert "tiles" not in out
    draw_part(0).resize((1000, 1000)).save("square.png")
    assert main(["square.png", "--smallest-defect", "20px"]) in {0, 1}
    assert "No tiles are needed." in capsys.readouterr().out


def test_progress_inside_a_photograph() -> None:
    """Of 10 views, 8 are computed at a time."""
    inferencer = TorchInferencer(None, "auto", "cpu", "float32", None, None, tiles=(3, 3))
    shares: list[float] = []
    inferencer.watch_views(shares.append)
    assert len([*inferencer.stream([draw_part(0)])]) == 1
    assert shares == [0.8, 0.2]


def test_a_photograph_without_its_mask(capsys: pytest.CaptureFixture) -> None:
    """Others go on."""
    draw_part(12).save("photographs/extra.png")
    shutil.copy("black.png", "masks/extra.png")
    assert main(["photographs", "--region", "masks", "--good", "photographs/good", "--rotations", "1"]) == 2
    rows = read_rows()
    assert {name: bool(row["error"]) for name, row in rows.items()} == {
        "extra.png": True,
        "fine.png": True,
        "spot.png": False,
    }
    assert "ignores everything" in rows["extra.png"]["error"]
    assert "has no mask" in rows["fine.png"]["error"]
    assert "2 could not be read" in capsys.readouterr().out
    assert rows["spot.png"]["score"] is not None


def test_a_folder_in_which_masks_are_missing() -> None:
    """Photographs that are compared with each other: the others are, and those are told."""
    for seed in range(20, 30):
        draw_part(seed).save(f"photographs/{seed}.png")
        shutil.copy("mask.png", f"masks/{seed}.png")
    Path("masks/20.png").unlink()
    shutil.copy("black.png", "masks/21.png")
    assert main(["photographs", "--region", "masks"]) == 2
    rows = read_rows()
    assert {name for name, row in rows.items() if row["error"]} == {"fine.png", "20.png", "21.png"}
    assert rows["22.png"]["threshold_source"] == "13 unlabeled photographs"


def test_a_mask_that_is_too_thin_for_one_photograph() -> None:
    shutil.copy("line.png", "masks/fine.png")
    assert main(["photographs", "--region", "masks", "--threshold", "0.5"]) == 2
    rows = read_rows()
    assert "thinner than half a patch" in rows["fine.png"]["error"]
    assert rows["spot.png"]["error"] is None


def test_nothing_is_outlined_outside() -> None:
    """The spot lies from 50 to 90 of 140 pixels, and from 30 to 60 of 100: half of it in the region."""
    options = ["--good", "photographs/good", "--rotations", "1", "--region", "70,20,42,50"]
    assert main(["photographs", *options]) == 1
    assert read_rows()["spot.png"]["regions"]
    for left, top, right, bottom in (region["box"] for region in read_rows()["spot.png"]["regions"]):
        assert left >= 70 - 1
        assert top >= 20 - 1
        assert right <= 112 + 1
        assert bottom <= 70 + 1
