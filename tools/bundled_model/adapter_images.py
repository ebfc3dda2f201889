# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Training images of fbclip-small's adapters: drawn images and, if given, photographs with masks.

Real defects appear in crops of their photographs, and cut out and pasted on other photographs and on drawings.
"""

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from glob import glob
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from skimage.measure import label
from torchvision import tv_tensors

from anomalib_fbclip.data.auxiliary import check_mask
from anomalib_fbclip.images.image_files import find_images, printable
from anomalib_fbclip.images.photographs import read_photograph
from anomalib_fbclip.protocol.tables import markdown_lines
from tools.bundled_model.augmentations import create_augmentations
from tools.bundled_model.batches import DRAWN_SIZE
from tools.bundled_model.evaluate import LabeledImage, list_images
from tools.bundled_model.images import DEFECT, draw_training_image
from tools.bundled_model.photographs import TRAINING_PHOTOGRAPHS, Photograph
from tools.bundled_model.procedural.defects import Defect, irregular
from tools.bundled_model.procedural.fields import Field, blend, stream
from tools.bundled_model.procedural.scene import Scene

CROPPED = 0.4
"""Share of crops of photographs among the images, if there are photographs."""

WHOLE = 0.25
"""Share of crops that show the whole photograph, squeezed to a square as for the model."""

DEFECTIVE = 0.6
"""Share of photographs with defects among the cropped ones. Not all of their crops show a defect."""

SMALLEST_CROP = 1 / 8
"""Side of the smallest crop as a share of the photograph's shorter side."""

FEWEST_PIXELS = 64
"""Side of the smallest crop, in pixels."""

COVERED = 0.25
"""Smallest share of a pixel that a defect must cover. It is low, so that small defects survive shrinking."""

MARGIN = 0.3
"""Margin of the cutout around a defect, as a share of its longer side."""

TEXTURES = 6
"""Number of photographs of good parts from which an image's textures are chosen, besides those of the packages."""

JPEG = 0.3
"""Share of compressed images."""

QUALITIES = 30, 96
"""Lowest quality of compressed images, and the one above the highest."""


class LabeledPhotographs(NamedTuple):
    """Photographs of one folder in MVTec AD's layout.

    Attributes:
        name (str): Name of the folder.
        licence (str): Their licence and origin.
        good (tuple[Path, ...]): Photographs without defects.
        defective (tuple[LabeledImage, ...]): Photographs with defects, and their masks.
        side (int): Shorter side of the first one in pixels.
    """

    name: str
    licence: str
    good: tuple[Path, ...]
    defective: tuple[LabeledImage, ...]
    side: int


def read_folders(folders: Mapping[str, str]) -> list[LabeledPhotographs]:
    """Read folders in MVTec AD's layout, including the good photographs in ``train``.

    Args:
        folders (Mapping[str, str]): The licence by folder, or by pattern of folders with ``*``.

    Raises:
        FileNotFoundError: If there is no such folder, or an image or a mask is missing.
        ValueError: If there are no masks, or a mask has another size than its image, or more than one value besides 0.
    """
    found = []
    for pattern, licence in folders.items():
        paths = sorted(path for path in map(Path, glob(pattern)) if path.is_dir())  # noqa: PTH207 - may be absolute
        if not paths:
            msg = f"There is no folder {printable(pattern)}: give folders in MVTec AD's layout."
            raise FileNotFoundError(msg)
        found += [_read_folder(path, licence) for path in paths]
    return found


def _read_folder(folder: Path, licence: str) -> LabeledPhotographs:
    images = list_images(folder)
    defective = tuple(image for image in images if image.is_anomalous)
    if not any(image.mask_path for image in defective):
        msg = f"{printable(folder)} has no masks: put them into ground_truth/<defect>, for the adapters' training."
        raise ValueError(msg)
    for path, mask_path in track(defective, f"Checking {folder.name}", console=Console(stderr=True), transient=True):
        check_mask(Path(str(mask_path)))
        with Image.open(path) as image, Image.open(Path(str(mask_path))) as mask:
            if image.size != mask.size:
                sizes = " and ".join(f"{width} x {height}" for width, height in (image.size, mask.size))
                msg = f"Image and mask differ in size, {sizes}: {printable(path)}, {printable(str(mask_path))}."
                raise ValueError(msg)
    train = folder / "train" / "good"
    good = [
        *(find_images(train) if train.is_dir() else ()),
        *(image.path for image in images if not image.is_anomalous),
    ]
    with Image.open(defective[0].path) as image:
        return LabeledPhotographs(folder.name, licence, tuple(good), defective, min(image.size))


def describe_folders(sets: Sequence[LabeledPhotographs]) -> str:
    """Format a Markdown table of photographs for the model card."""
    rows = [[one.name, str(len(one.good)), str(len(one.defective)), one.licence] for one in sets]
    return "\n".join(markdown_lines(["photographs", "good", "with defects", "license"], rows)) + "\n"


def draw_adapter_images(
    folder: Path, seeds: range, size: int, sets: Sequence[LabeledPhotographs], processes: Executor, title: str
) -> None:
    """Draw training images: images in ``good`` and ``defect``, masks in ``mask``.

    Args:
        folder (Path): Folder for the images, whose content is replaced.
        seeds (range): Seeds of the images.
        size (int): Side of the images in pixels.
        sets (Sequence[LabeledPhotographs]): Photographs to use besides drawings; may be empty.
        processes (Executor): The processes that draw.
        title (str): Text of the progress bar.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("good", "defect", "mask"):
        (folder / name).mkdir(parents=True)
    drawn = processes.map(partial(_save_adapter_image, folder, size, sets), seeds, chunksize=4)
    for _ in track(drawn, title, total=len(seeds), console=Console(stderr=True)):
        pass


def _save_adapter_image(folder: Path, size: int, sets: Sequence[LabeledPhotographs], seed: int) -> None:
    torch.set_num_threads(1)
    image, mask = augment(*draw_adapter_image(seed, round(DRAWN_SIZE * size), sets), size, seed)
    name = f"{seed % 2**40:06}.png"
    Image.fromarray(image).save(folder / ("defect" if mask.any() else "good") / name)
    if mask.any():
        Image.fromarray(mask).save(folder / "mask" / name)


def draw_adapter_image(
    seed: int, size: int, sets: Sequence[LabeledPhotographs] = ()
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw an image, or cut it out of a photograph.

    Args:
        seed (int): Seed, not negative.
        size (int): Side of the image in pixels, at least 32.
        sets (Sequence[LabeledPhotographs], optional): Photographs. Defaults to none.

    Returns:
        tuple[NDArray[np.uint8], NDArray[np.bool_]]: Red, green and blue ``[size, size, 3]``, and the defect's mask
            ``[size, size]``.
    """
    rng = stream(seed, "adapter image")
    if not sets:
        sample = draw_training_image(seed, size)
    elif rng.random() < CROPPED:
        return _crop(rng, size, sets)
    else:
        chosen = [one for one in _choose(rng, sets, TEXTURES) if one.good]
        textures = [one.good[int(rng.integers(len(one.good)))] for one in chosen]
        photographs = [*TRAINING_PHOTOGRAPHS, *(Photograph(None, str(path), "photographed") for path in textures)]
        given = {"real defect": lay_defects_of(sets)}
        sample = draw_training_image(seed, size, photographs, given=given)
    return sample.image, sample.regions == DEFECT


def augment(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], size: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Change frame, light and camera of an image.

    Args:
        image (NDArray[np.uint8]): Red, green and blue ``[H, W, 3]``.
        mask (NDArray[np.bool_]): The defect's mask ``[H, W]``.
        size (int): Side of the resulting image in pixels.
        seed (int): Seed of the changes.

    Returns:
        tuple[NDArray[np.uint8], NDArray[np.bool_]]: The image and its mask; the defect may be cropped off.
    """
    torch.manual_seed(seed)  # the augmentations draw from torch's global stream
    pixels = tv_tensors.Image(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    changed, changed_mask = create_augmentations(size)(pixels, tv_tensors.Mask(torch.from_numpy(np.array(mask))))
    levels = (changed.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    rng = stream(seed, "compression")
    if rng.random() < JPEG:
        content = BytesIO()
        Image.fromarray(levels).save(content, "JPEG", quality=int(rng.integers(*QUALITIES)))
        levels = np.asarray(Image.open(content))
    return levels, changed_mask.numpy()


def lay_defects_of(sets: Sequence[LabeledPhotographs]) -> Defect:
    """Create a defect that is cut out of a photograph along its mask, turned, resized and laid on a scene."""

    def real_defect(scene: Scene, rng: Generator, extent: float) -> Scene:
        piece = _cut_out(rng, sets)
        spot = irregular(scene, rng, extent)  # finds a place on the object
        rows, columns = np.nonzero(spot >= spot.max())
        pick = int(rng.integers(len(rows)))
        colors, weight = _place(
            piece, rng, scene.size, max(6, round(2 * extent * scene.size)), (rows[pick], columns[pick])
        )
        albedo = scene.surface.albedo
        if rng.integers(2):  # its difference from its surroundings, rather than its own colors
            colors = albedo + colors - piece.ground[:, None, None]
        mixed = blend(albedo, np.clip(colors, 0, 1).astype(np.float32), weight * scene.coverage)
        return scene._replace(surface=scene.surface._replace(albedo=mixed))

    return real_defect


class Piece(NamedTuple):
    """A cut-out defect.

    Attributes:
        image (Image.Image): Red, green and blue.
        mask (Image.Image): The defect's mask, 0 or 255.
        ground (NDArray[np.float32]): Mean color around it ``[3]``, 0..1.
    """

    image: Image.Image
    mask: Image.Image
    ground: NDArray[np.float32]


def _cut_out(rng: Generator, sets: Sequence[LabeledPhotographs]) -> Piece:
    (one,) = _choose(rng, sets, 1)
    pixels, mask = _read(one.defective[int(rng.integers(len(one.defective)))])
    parts = label(mask)
    part = parts == rng.choice(parts[mask])  # by pixel, so that large parts are chosen more often
    rows, columns = np.nonzero(part)
    margin = round(MARGIN * max(np.ptp(rows), np.ptp(columns))) + 2
    box = np.s_[
        max(0, rows.min() - margin) : rows.max() + margin + 1,
        max(0, columns.min() - margin) : columns.max() + margin + 1,
    ]
    pixels, around, part = pixels[box], ~mask[box], part[box]
    ground = pixels[around if around.any() else part].mean(axis=0) / 255
    return Piece(Image.fromarray(pixels), Image.fromarray(part), ground.astype(np.float32))


def _place(
    piece: Piece, rng: Generator, size: int, side: int, center: tuple[int, int]
) -> tuple[NDArray[np.float32], Field]:
    """Turn a piece by any angle, and lay it on an empty image: colors ``[3, size, size]`` and weights."""
    width, height = (max(2, round(side * extent / max(piece.image.size))) for extent in piece.image.size)
    angle, mirrored = rng.uniform(0, 360), bool(rng.integers(2))
    layers = []
    for layer in (piece.image, piece.mask.convert("L")):
        turned = layer.resize(
            (width, height), Image.Resampling.BICUBIC if layer.mode == "RGB" else Image.Resampling.BOX
        )
        turned = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else turned
        turned = turned.rotate(angle, Image.Resampling.BILINEAR, expand=True)
        empty = Image.new(layer.mode, (size, size))
        empty.paste(turned, (int(center[1]) - turned.width // 2, int(center[0]) - turned.height // 2))
        layers.append(np.asarray(empty, dtype=np.float32) / np.float32(255))
    colors, weight = layers
    return np.ascontiguousarray(colors.transpose(2, 0, 1)), weight


def _crop(rng: Generator, size: int, sets: Sequence[LabeledPhotographs]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Crop a photograph, turned by multiples of 90° and sometimes mirrored."""
    (one,) = _choose(rng, sets, 1)
    good = [LabeledImage(path, None) for path in one.good]
    images = one.defective if rng.random() < DEFECTIVE or not good else good
    pixels, mask = _read(images[int(rng.integers(len(images)))])
    box = 0, 0, *mask.shape[::-1]
    if rng.random() >= WHOLE:
        box = _draw_box(rng, mask)
    crop = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC, box))
    covered = np.asarray(Image.fromarray(mask).convert("L").resize((size, size), Image.Resampling.BOX, box))
    turns, step = int(rng.integers(4)), -1 if rng.integers(2) else 1
    return np.rot90(crop, turns)[:, ::step], np.rot90(covered >= COVERED * 255, turns)[:, ::step]


def _draw_box(rng: Generator, mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Draw a square of any scale, around a pixel of the defect if there is one."""
    shorter = min(mask.shape)
    smallest = min(shorter, max(FEWEST_PIXELS, round(SMALLEST_CROP * shorter)))
    side = round(np.exp(rng.uniform(np.log(smallest), np.log(shorter))))
    places = np.argwhere(mask) if mask.any() else np.array([[int(rng.integers(extent)) for extent in mask.shape]])
    near = places[int(rng.integers(len(places)))] - rng.integers(side, size=2)
    top, left = (min(max(0, int(start)), extent - side) for start, extent in zip(near, mask.shape, strict=True))
    return left, top, left + side, top + side


def _choose(rng: Generator, sets: Sequence[LabeledPhotographs], count: int) -> list[LabeledPhotographs]:
    """Choose folders, with more weight for more and larger photographs."""
    weights = np.array([(len(one.good) + len(one.defective)) * one.side for one in sets], dtype=float)
    return [sets[int(index)] for index in rng.choice(len(sets), count, p=weights / weights.sum())]


def _read(image: LabeledImage) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    pixels = read_photograph(image.path, upright=False)
    if image.mask_path is None:
        return pixels, np.zeros(pixels.shape[:2], dtype=np.bool_)
    with Image.open(image.mask_path) as mask:
        return pixels, np.asarray(mask.convert("L")) > 0
