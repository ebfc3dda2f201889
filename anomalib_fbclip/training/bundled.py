# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Trains fbclip-nano from scratch: first its CLIP, then, with the CLIP frozen, its adapters.

On a CPU or a GPU::

    python -m anomalib_fbclip.training.bundled --output nano

It writes ``clip.safetensors``, ``log/`` (its losses in each cycle), ``images/`` (what the adapters are trained on) and
``adapters.safetensors`` to a folder.
To use them: ``--model.backbone fbclip-nano --model.pretrained nano/clip.safetensors --model.weights
nano/adapters.safetensors``.
"""

import logging
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import open_clip
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from jsonargparse import auto_cli
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from anomalib_fbclip import FBClip
from anomalib_fbclip.bundled import NAME, TAG
from anomalib_fbclip.checkpoints.compact_clip import VOCABULARY, read_clip, save_clip
from anomalib_fbclip.checkpoints.registry import resolve_backbone
from anomalib_fbclip.data import AuxiliaryDataModule
from anomalib_fbclip.modeling.prompt_learner import tokenize_states

from .batches import TrainingBatches
from .images import DEFECT, draw_training_image
from .initialization import initialize
from .pretraining import Pretraining

logger = logging.getLogger(__name__)

SOURCE = "procedural images"
"""What the adapters say that they were trained on."""

SAMPLE = 512
"""Least number of images from whose statistics the CLIP starts; they are trained on, too."""

FIRST_ADAPTER_IMAGE = 2**40
"""Seed of the first image that the adapters are trained on: far beyond those of the CLIP."""


def pretrain_in_cycles(output: Path, cycles: Sequence[int], batch_size: int, seed: int, *, compiled: bool) -> Path:
    """Train the CLIP in cycles of the learning rate, each from where the one before ended.

    Args:
        output (Path): Folder for the weights.
        cycles (Sequence[int]): Number of steps of each cycle.
        batch_size (int): Images in a step.
        seed (int): Seed of the initial weights and of the images, each of which is drawn once.
        compiled (bool): Whether the image tower is compiled.

    Returns:
        Path: The weights.
    """
    path = output / "clip.safetensors"
    first = seed * sum(cycles) * batch_size
    for number, steps in enumerate(cycles):
        pl.seed_everything(seed + number, workers=True)
        clip = open_clip.create_model(resolve_backbone(NAME))
        initialize(clip, draw_sample_images(clip.visual.image_size[0], batch_size, first))
        if number:
            continue_from(clip, path)
        images = TrainingBatches(steps, batch_size, clip.visual.image_size[0], first)
        pretrain(clip, images, path, f"log/cycle_{number}", compiled=compiled)
        first += steps * batch_size
    return path


def draw_sample_images(image_size: int, batch_size: int, first: int) -> torch.Tensor:
    """Draw the images from whose statistics a CLIP starts, at least ``SAMPLE``, shape ``[N, 3, H, W]``."""
    batches = math.ceil(SAMPLE / batch_size)
    return torch.cat([batch.images for batch in TrainingBatches(batches, batch_size, image_size, first)])


@torch.no_grad()
def continue_from(clip: open_clip.CLIP, path: Path) -> None:
    """Take over the parameters of an earlier cycle; a token that it did not read stays as it is.

    Args:
        clip (open_clip.CLIP): The CLIP, changed in place.
        path (Path): File of the earlier cycle.
    """
    parameters = read_clip(path)
    rows = parameters.pop(VOCABULARY)
    clip.load_state_dict(parameters, strict=False)
    embeddings = clip.token_embedding.weight
    embeddings.copy_(torch.where(rows.any(dim=1, keepdim=True), rows, embeddings))


def pretrain(clip: open_clip.CLIP, images: TrainingBatches, path: Path, log: str, *, compiled: bool) -> None:
    """Train the CLIP for one cycle of the learning rate.

    Args:
        clip (open_clip.CLIP): The CLIP, trained in place.
        images (TrainingBatches): The images, a batch for each step.
        path (Path): File for the weights.
        log (str): Folder for the losses, in the folder of the weights.
        compiled (bool): Whether the image tower is compiled.
    """
    tokenizer = open_clip.get_tokenizer(resolve_backbone(NAME))
    pretraining = Pretraining(clip, tokenizer, len(images))
    if compiled:
        clip.visual.compile()
    trainer = pl.Trainer(
        max_epochs=1,
        precision="bf16-mixed" if torch.cuda.is_available() else "32-true",
        logger=CSVLogger(path.parent, name=None, version=log),
        log_every_n_steps=1,
        enable_checkpointing=False,
        default_root_dir=path.parent,
    )
    loader = DataLoader(images, batch_size=None, num_workers=os.cpu_count() or 1, prefetch_factor=2)
    trainer.fit(pretraining, loader)
    prompt_tokens = tokenize_states(tokenizer).unique().tolist()
    save_clip(clip.cpu(), {*pretraining.used_tokens, *prompt_tokens}, path)


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
    start = FIRST_ADAPTER_IMAGE + seed * count
    for index in track(range(count), "Drawing images", console=Console(stderr=True)):
        sample = draw_training_image(start + index, size)
        mask = sample.regions == DEFECT
        Image.fromarray(sample.image).save(folder / ("defect" if mask.any() else "good") / f"{index:06}.png")
        if mask.any():
            Image.fromarray(mask).save(folder / "mask" / f"{index:06}.png")


def fit_adapters(clip_file: Path, images: Path, output: Path, epochs: int, learning_rate: float, seed: int) -> Path:
    """Train the adapters by FBClip's own ``fit``.

    Args:
        clip_file (Path): Weights of the frozen CLIP.
        images (Path): Folder of :func:`draw_adapter_images`.
        output (Path): Folder for the adapters.
        epochs (int): Number of epochs.
        learning_rate (float): Learning rate of Adam.
        seed (int): Seed of the initial adapters and of the order of the images.

    Returns:
        Path: The adapters.
    """
    pl.seed_everything(seed, workers=True)
    model = FBClip(NAME, pretrained=clip_file, weights=None, learning_rate=learning_rate, seed=seed)
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
        train_batch_size=8,
        num_workers=2,
        train_augmentations=v2.Compose([
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomApply([v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05)], p=0.5),
            v2.RandomGrayscale(p=0.15),
        ]),
        seed=seed,
    )
    Engine(max_epochs=epochs, logger=False, default_root_dir=output).fit(model, datamodule=datamodule)
    # The file is to be used with the weights that come with the package, wherever it is.
    model.pretrained, model.source = TAG, SOURCE
    path = output / "adapters.safetensors"
    model.save_adapters(path)
    return path


def train(
    output: Path,
    cycles: Sequence[int] = (2600, 950),
    batch_size: int = 32,
    adapter_images: int = 2400,
    adapter_epochs: int = 2,
    adapter_learning_rate: float = 2e-3,
    seed: int = 0,
    compiled: bool = False,
) -> None:
    """Train fbclip-nano from scratch.

    Args:
        output: Folder for the weights.
        cycles: Steps of the CLIP's pre-training, for each cycle of its learning rate.
        batch_size: Images in each step.
        adapter_images: Number of images that the adapters are trained on.
        adapter_epochs: How often each of them is seen.
        adapter_learning_rate: Learning rate of the adapters.
        seed: Seed of everything that is random.
        compiled: Whether the CLIP's image tower is compiled: it is then trained faster, but this needs a C++ compiler.
    """
    clip_file = pretrain_in_cycles(output, cycles, batch_size, seed, compiled=compiled)
    draw_adapter_images(output / "images", adapter_images, size=160, seed=seed)
    fit_adapters(clip_file, output / "images", output, adapter_epochs, adapter_learning_rate, seed)


if __name__ == "__main__":
    auto_cli(train, as_positional=False)
