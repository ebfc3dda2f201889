# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Masks with values that anomalib would take for a defect are refused by name."""

from pathlib import Path

import numpy as np
import pytest
from anomalib.data import Folder
from anomalib.data.utils import read_mask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from anomalib_fbclip.data import AuxiliaryDataModule
from anomalib_fbclip.data.auxiliary import check_mask
from layouts import HEIGHT, WIDTH, write_image, write_mask


def write(path: Path, *values: int, dtype: type = np.uint8) -> Path:
    """Write a mask with these values, in a row each."""
    Image.fromarray(np.repeat(np.array(values, dtype=dtype)[:, None], 4, axis=1)).save(path)
    return path


@pytest.mark.parametrize("values", [(0,), (255,), (1,), (0, 255), (0, 1), (0, 7)])
def test_right_masks(tmp_path: Path, values: tuple[int, ...]) -> None:
    check_mask(write(tmp_path / "mask.png", *values))


def test_other_kinds_of_images(tmp_path: Path) -> None:
    """What counts is what anomalib reads, however the file stores it."""
    values = np.repeat(np.array([0, 1], dtype=np.uint8)[:, None], 4, axis=1)
    bits = Image.fromarray(values * 255).convert("1")
    palette = Image.fromarray(values)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    color = Image.fromarray(np.stack([values * 200] * 3, axis=2))
    for number, image in enumerate([bits, palette, color, color.convert("RGBA")]):
        path = tmp_path / f"{number}.png"
        image.save(path)
        check_mask(path)
        assert set(np.unique(read_mask(path))) - {0}
    check_mask(write(tmp_path / "deep.png", 0, 65535, dtype=np.uint16))
    palette.putpalette([1, 1, 1, 255, 255, 255])
    palette.save(tmp_path / "grey.png")
    with pytest.raises(ValueError, match=r"grey\.png.* 1, 255"):
        check_mask(tmp_path / "grey.png")


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((1, 2, 3, 255), "1, 2, 3, 255, and"),
        ((0, 1, 255), "0, 1, 255, and"),
        (range(9), "0, 1, 2, 3, 4 and 4 more, and"),
    ],
)
def test_wrong_masks(tmp_path: Path, values: tuple[int, ...], shown: str) -> None:
    path = write(tmp_path / "two\nlines.png", *values)
    with pytest.raises(ValueError, match="PNG") as caught:
        check_mask(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"Mask {tmp_path}/two\\nlines.png has the values {shown} every one above 0 would count")


def test_a_jpeg_file(tmp_path: Path) -> None:
    write_mask(tmp_path / "mask.jpg")
    with pytest.raises(ValueError, match=r"mask\.jpg.* 0, 1"):
        check_mask(tmp_path / "mask.jpg")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_unreadable_masks(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mask.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"mask\.png"):
        check_mask(tmp_path / "mask.png")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.sampled_from([0, 0, 1, 3, 254, 255]), min_size=1, max_size=4), suffix=st.sampled_from("pbt"))
def test_accepted_masks_say_one_thing(tmp_path: Path, values: list[int], suffix: str) -> None:
    path = write(tmp_path / f"mask.{ {'p': 'png', 'b': 'bmp', 't': 'tif'}[suffix] }", *values)
    read = {int(value) for value in np.unique(read_mask(path))}
    if len(read - {0}) > 1:
        with pytest.raises(ValueError, match="values"):
            check_mask(path)
    else:
        check_mask(path)


@pytest.fixture
def nuts(tmp_path: Path) -> Path:
    """A folder whose second mask has a background of 1."""
    for index in range(3):
        write_image(tmp_path / f"good/{index}.png")
        write_image(tmp_path / f"cracked/{index}.png")
        write_mask(tmp_path / f"masks/{index}.png")
    mask = np.ones((HEIGHT, WIDTH), dtype=np.uint8)
    mask[:2] = 255
    Image.fromarray(mask).save(tmp_path / "masks/1.png")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
def test_training(nuts: Path, workers: int) -> None:
    folders = {"normal_dir": "good", "normal_test_dir": "good", "abnormal_dir": "cracked", "mask_dir": "masks"}
    datamodule = AuxiliaryDataModule(Folder("nuts", root=nuts, **folders), train_batch_size=1, num_workers=workers)
    datamodule.setup()
    with pytest.raises(ValueError, match=r"masks/1\.png.* 1, 255"):
        list(datamodule.train_dataloader())
