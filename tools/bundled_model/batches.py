# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Batches of images with words, drawn while fbclip-small's text tower trains on them."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch.utils.data import IterableDataset, get_worker_info
from torchvision import tv_tensors
from torchvision.transforms import v2

from tools.bundled_model.augmentations import create_augmentations
from tools.bundled_model.images import DEFECT, TrainingImage, draw_training_image

DRAWN_SIZE = 1.25
"""Ratio of the size of drawn images to that of the network's input, so that crops need not be enlarged."""


class TrainingBatch(NamedTuple):
    """A batch of images with words.

    Attributes:
        images (torch.Tensor): Normalized images ``[B, 3, H, W]``.
        regions (torch.Tensor): Background, object or defect ``[B, H, W]``.
        captions (list[str]): Captions of the images.
        texts (list[tuple[str, str, str]]): Words of each image's regions.
    """

    images: torch.Tensor
    regions: torch.Tensor
    captions: list[str]
    texts: list[tuple[str, str, str]]


class TrainingBatches(IterableDataset):
    """Batches of images, each drawn once, when it is needed.

    Args:
        batches (int): Number of batches.
        batch_size (int): Images in a batch.
        image_size (int): Side of the images in pixels.
        seed (int): Seed of the first image.
    """

    def __init__(self, batches: int, batch_size: int, image_size: int, seed: int) -> None:
        super().__init__()
        self.batches = batches
        self.batch_size = batch_size
        self.image_size = image_size
        self.seed = seed
        self.augment = v2.Compose([
            create_augmentations(image_size),
            v2.Normalize(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
        ])

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.batches

    def __iter__(self) -> Iterator[TrainingBatch]:
        """Draw this worker's batches."""
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in range(first, self.batches, step):
            # The augmentations draw from torch's global stream.
            torch.manual_seed(self.seed + index)
            start = self.seed + index * self.batch_size
            yield self._batch([
                draw_training_image(seed, round(DRAWN_SIZE * self.image_size))
                for seed in range(start, start + self.batch_size)
            ])

    def _batch(self, drawn: list[TrainingImage]) -> TrainingBatch:
        augmented = [
            self.augment(
                tv_tensors.Image(torch.from_numpy(sample.image).permute(2, 0, 1)),
                tv_tensors.Mask(torch.from_numpy(sample.regions)),
            )
            for sample in drawn
        ]
        return TrainingBatch(
            images=torch.stack([image.as_subclass(torch.Tensor) for image, _ in augmented]),
            regions=torch.stack([regions.as_subclass(torch.Tensor) for _, regions in augmented]),
            captions=[
                sample.caption if (regions == DEFECT).any() else sample.normal_caption
                for sample, (_, regions) in zip(drawn, augmented, strict=True)
            ],
            texts=[sample.texts for sample in drawn],
        )
