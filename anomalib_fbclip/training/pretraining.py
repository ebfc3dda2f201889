# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Pre-training of fbclip-nano's CLIP: images, and regions of images, are aligned with their words.

Four terms, all on the same forward pass: whole images against captions, as CLIP does it; patches against the words of
their region; images and patches against the words of the two states; and, without words, hidden patches from what is
around them.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import lightning.pytorch as pl
import open_clip
import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import IterableDataset, get_worker_info
from torchvision import tv_tensors
from torchvision.transforms import v2

from anomalib_fbclip.modeling.alignment import similarity
from anomalib_fbclip.modeling.clip import ClipBackbone
from anomalib_fbclip.modeling.prompt_learner import STATES
from anomalib_fbclip.modeling.text_fusion import EndOfTextStrategy, GlobalStrategy, TextFusion

from .images import DEFECT, TrainingImage, draw_training_image
from .muon import Muon

STATE_WORDS = (STATES, ("flawless object.", "damaged object."), ("intact surface.", "defective surface."))
"""Words of the normal and of the abnormal state."""

DRAWN_SIZE = 1.25
"""Size at which images are drawn, in sizes of the network's input: what is cut out of them need not be blown up."""

AMBIGUOUS = -1
"""Region of a patch that a defect only touches."""

TOUCHED, COVERED = 0.02, 0.2
"""Share of a patch that a defect covers: up to the first it is no defect, from the second on it is one."""

STATE_WEIGHT = 2.0
"""Weight of the words of the two states, which are the hardest to learn."""

HIDDEN = 0.4
"""Largest share of an image's patches that is hidden."""

NOISE_VARIANCE = 0.01
"""What is added to the variance of patches before they are whitened: less is mostly a camera's noise."""


class TrainingBatch(NamedTuple):
    """A batch of images with words.

    Attributes:
        images (torch.Tensor): Normalised images ``[B, 3, H, W]``.
        regions (torch.Tensor): Background, object or defect ``[B, H, W]``.
        captions (list[str]): What each image shows.
        texts (list[tuple[str, str, str]]): What each region of each image shows.
    """

    images: torch.Tensor
    regions: torch.Tensor
    captions: list[str]
    texts: list[tuple[str, str, str]]


class TrainingImages(IterableDataset):
    """Batches of images that are drawn when they are needed, each once.

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
            v2.RandomResizedCrop(image_size, scale=(0.4, 1.0), ratio=(0.8, 1.25)),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)], p=0.6),
            v2.RandomGrayscale(p=0.15),
            v2.RandomApply([v2.GaussianBlur(3, sigma=(0.3, 1.2))], p=0.25),
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.uint8}, scale=True),
            v2.Normalize(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
        ])

    def __len__(self) -> int:
        """Number of batches."""
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


class Pretraining(pl.LightningModule):
    """Contrastive pre-training of both towers.

    Args:
        clip (open_clip.CLIP): The CLIP, trained in place.
        tokenizer (open_clip.SimpleTokenizer): Its tokenizer.
        steps (int): Number of steps.
        learning_rate (float): Highest learning rate.
    """

    def __init__(
        self,
        clip: open_clip.CLIP,
        tokenizer: open_clip.SimpleTokenizer,
        steps: int,
        learning_rate: float = 2e-3,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # lightning steps one optimizer alone by itself
        self.clip = clip
        self.backbone = ClipBackbone(clip, [len(clip.visual.transformer.resblocks)])
        self.clip.requires_grad_(requires_grad=True)
        self.clip.logit_scale.requires_grad_(requires_grad=False)  # FB-CLIP has a fixed temperature
        self.clip.visual.output_tokens = True
        self.tokenizer = tokenizer
        # Read as FB-CLIP reads prompts, but for the attention, which is one of its adapters.
        self.text_fusion = TextFusion(
            strategies={"global": GlobalStrategy(), "end_of_text": EndOfTextStrategy()},
            weights={"global": 1.0, "end_of_text": 0.5},
        )
        patch_height, patch_width = self.backbone.patch_size
        self.decoder = nn.Linear(self.backbone.width, 3 * patch_height * patch_width)
        self.steps = steps
        self.learning_rate = learning_rate
        self.used_tokens: set[int] = set()

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> None:
        """Learn from a batch.

        Args:
            batch (TrainingBatch): Images with words.
            batch_idx (int): Number of the batch.
        """
        losses = self.losses(batch, STATE_WORDS[batch_idx % len(STATE_WORDS)])
        self.log_dict(dict(losses), prog_bar=True)
        self.manual_backward(torch.stack(list(losses.values())).sum())
        for optimizer in cast("list[torch.optim.Optimizer]", self.optimizers()):
            self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
            optimizer.step()
            optimizer.zero_grad()
        for schedule in cast("list[LRScheduler]", self.lr_schedulers()):
            schedule.step()

    def losses(self, batch: TrainingBatch, states: tuple[str, str]) -> dict[str, torch.Tensor]:
        """Compute the terms of the loss of a batch.

        Args:
            batch (TrainingBatch): Images with words.
            states (tuple[str, str]): Words of the normal and of the abnormal state.

        Returns:
            dict[str, torch.Tensor]: The weighted terms by name, scalars.
        """
        regions = patch_regions(batch.regions, self.backbone.patch_size)
        hidden = hide_patches(regions)
        pooled, tokens = self.clip.visual(self._hide(batch.images, hidden))
        embeddings = self.backbone.project_image(tokens)
        regions = regions.masked_fill(hidden, AMBIGUOUS)

        words = sorted({text for texts in batch.texts for text in texts})
        of_region = torch.tensor([[words.index(text) for text in texts] for texts in batch.texts], device=self.device)
        text_features = self.encode_text([*batch.captions, *words, *states])
        captions, words_of_regions, states_of_patches = text_features.split([len(pooled), len(words), len(states)])
        return {
            "caption": caption_loss(pooled, captions),
            "region": region_loss(embeddings, regions, of_region, words_of_regions),
            "state": STATE_WEIGHT * state_loss(embeddings, regions, states_of_patches),
            "image_state": STATE_WEIGHT * image_state_loss(pooled, batch.regions, states_of_patches),
            "hidden": self._hidden_loss(tokens, batch.images, hidden),
        }

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[LRScheduler]]:
        """Optimise the blocks' matrices with Muon, which needs fewer images, and all else with AdamW.

        The learning rate rises in the first tenth of the steps, and then falls to 0.
        """
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                is_matrix = ".resblocks." in name and parameter.dim() == 2  # noqa: PLR2004
                (matrices if is_matrix else others).append(parameter)
        optimizers = [
            Muon(matrices, self.learning_rate, weight_decay=0.05),
            torch.optim.AdamW(others, self.learning_rate, betas=(0.9, 0.98), weight_decay=0.05),
        ]
        rise = max(0.1, 2 / (self.steps + 1))  # as a share; OneCycleLR divides by the number of steps less one
        schedules: list[LRScheduler] = [
            OneCycleLR(optimizer, self.learning_rate, self.steps, pct_start=rise, cycle_momentum=False)
            for optimizer in optimizers
        ]
        return optimizers, schedules

    def encode_text(self, texts: Iterable[str]) -> torch.Tensor:
        """Embed texts as FB-CLIP embeds its prompts, without a causal mask.

        Args:
            texts (Iterable[str]): N texts.

        Returns:
            torch.Tensor: Normalised text features, shape ``[N, D]``.
        """
        ids = self.tokenizer(list(texts)).to(self.device)
        self.used_tokens.update(ids.unique().tolist())
        states = self.backbone.encode_prompts(self.backbone.token_embedding(ids))
        return self.text_fusion(states, self.backbone.project_text(states), ids.argmax(dim=-1))

    def _hide(self, images: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Paint patches in the mean colour."""
        height, width = images.shape[-2:]
        grid = self.backbone.grid((height, width))
        covered = F.interpolate(hidden.to(images.dtype).unflatten(1, (1, *grid)), size=(height, width))
        return images * (1 - covered)

    def _hidden_loss(self, tokens: torch.Tensor, images: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Predict hidden patches, each scaled by its own mean and contrast."""
        patch_size = self.backbone.patch_size
        patches = F.unfold(images, patch_size, stride=patch_size).mT
        target = (patches - patches.mean(dim=-1, keepdim=True)) / (patches.std(dim=-1, keepdim=True) + 0.1)
        errors = (self.decoder(tokens) - target).square().mean(dim=-1)
        return (errors * hidden).sum() / hidden.sum().clamp(min=1)


@torch.no_grad()
def initialize(clip: open_clip.CLIP, sample: torch.Tensor) -> None:
    """Set where a CLIP that has little to learn from starts.

    Patches are whitened, so that fine texture counts as much as colour; patches that are near each other get positions
    that are alike; the image tower's attention starts near the identity (Trockman and Kolter, Mimetic Initialization of
    Self-Attention Layers, 2023); and tokens get embeddings that outweigh the padding.

    Args:
        clip (open_clip.CLIP): The CLIP, changed in place. Its patches have as many values as its image tokens.
        sample (torch.Tensor): Images, normalised, shape ``[N, 3, H, W]``.
    """
    visual = clip.visual
    visual.conv1.weight.copy_(0.5 * whitening(sample, visual.conv1.kernel_size).view_as(visual.conv1.weight))
    visual.positional_embedding[1:] = 0.7 * waves(visual.grid_size, visual.conv1.out_channels)
    for block in visual.transformer.resblocks:
        _imitate_trained_attention(block.attn)
    clip.token_embedding.weight.normal_(std=0.1)


def whitening(images: torch.Tensor, patch_size: tuple[int, int]) -> torch.Tensor:
    """Find the linear map that makes the values of patches uncorrelated and, but for noise, of variance 1.

    Args:
        images (torch.Tensor): Images, shape ``[N, 3, H, W]``.
        patch_size (tuple[int, int]): Height and width of a patch in pixels.

    Returns:
        torch.Tensor: A row for each new value, a column for each value of a patch, the least variable first.
    """
    patches = F.unfold(images, patch_size, stride=patch_size).mT.flatten(0, 1)
    variances, directions = torch.linalg.eigh(patches.mT @ patches / len(patches))
    return (directions / (variances + NOISE_VARIANCE).sqrt()).mT


def waves(grid: tuple[int, int], width: int) -> torch.Tensor:
    """Give each patch of a grid sines and cosines of its row and of its column, shape ``[L, width]``."""
    rows, columns = grid
    frequencies = 100 ** -torch.linspace(0, 1, width // 4)
    row = torch.arange(rows).repeat_interleave(columns).outer(frequencies)
    column = torch.arange(columns).repeat(rows).outer(frequencies)
    return torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], dim=1)


def _imitate_trained_attention(attention: nn.MultiheadAttention) -> None:
    """Start as trained layers are: each head compares tokens as they are, and a token's own value is taken off."""
    width, head_width = attention.embed_dim, attention.head_dim
    pairs = [
        _factors(0.7 * torch.randn(width, width) / width**0.5 + 0.7 * torch.eye(width), head_width)
        for _ in range(attention.num_heads)
    ]
    output, value = _factors(0.4 * torch.randn(width, width) / width**0.5 - 0.4 * torch.eye(width), width)
    queries, keys = (torch.cat(factors) for factors in zip(*((query.mT, key) for query, key in pairs), strict=True))
    attention.in_proj_weight.copy_(torch.cat([queries, keys, value]))
    attention.out_proj.weight.copy_(output)


def _factors(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split a matrix into two of the given rank, whose product comes nearest to it."""
    left, scale, right = torch.linalg.svd(matrix)
    root = scale[:rank].sqrt()
    return left[:, :rank] * root, root.unsqueeze(1) * right[:rank]


def caption_loss(pooled: torch.Tensor, caption_features: torch.Tensor) -> torch.Tensor:
    """Tell each image's caption from those of the others, and each caption's image, as CLIP does.

    Args:
        pooled (torch.Tensor): Embedded images ``[B, D]``.
        caption_features (torch.Tensor): Their captions ``[B, D]``, normalised.

    Returns:
        torch.Tensor: The loss, a scalar.
    """
    logits = similarity(pooled, caption_features)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.mT, own)) / 2


def region_loss(
    embeddings: torch.Tensor,
    regions: torch.Tensor,
    of_region: torch.Tensor,
    word_features: torch.Tensor,
) -> torch.Tensor:
    """Tell the words of a patch's region from those of all other regions in the batch.

    Args:
        embeddings (torch.Tensor): Embedded patches ``[B, L, D]``.
        regions (torch.Tensor): Region of each patch ``[B, L]``.
        of_region (torch.Tensor): Index of the words of each image's regions ``[B, 3]``.
        word_features (torch.Tensor): The words ``[W, D]``, normalised.

    Returns:
        torch.Tensor: The loss, a scalar.
    """
    target = of_region.gather(1, regions.clamp(min=0))
    losses = F.cross_entropy(similarity(embeddings, word_features).mT, target, reduction="none")
    return balanced_mean(losses, regions)


def state_loss(embeddings: torch.Tensor, regions: torch.Tensor, state_features: torch.Tensor) -> torch.Tensor:
    """Tell defects from all else by the words of the two states.

    Args:
        embeddings (torch.Tensor): Embedded patches ``[B, L, D]``.
        regions (torch.Tensor): Region of each patch ``[B, L]``.
        state_features (torch.Tensor): Words of the normal and of the abnormal state ``[2, D]``, normalised.

    Returns:
        torch.Tensor: The loss, a scalar.
    """
    target = (regions == DEFECT).long()
    return balanced_mean(F.cross_entropy(similarity(embeddings, state_features).mT, target, reduction="none"), regions)


def image_state_loss(pooled: torch.Tensor, regions: torch.Tensor, state_features: torch.Tensor) -> torch.Tensor:
    """Tell images with a defect from those without by the words of the two states.

    Args:
        pooled (torch.Tensor): Embedded images ``[B, D]``.
        regions (torch.Tensor): Background, object or defect of each pixel ``[B, H, W]``.
        state_features (torch.Tensor): Words of the normal and of the abnormal state ``[2, D]``, normalised.

    Returns:
        torch.Tensor: The loss, a scalar.
    """
    anomalous = (regions == DEFECT).flatten(1).any(dim=1).long()
    return F.cross_entropy(similarity(pooled, state_features), anomalous)


def patch_regions(regions: torch.Tensor, patch_size: tuple[int, int]) -> torch.Tensor:
    """Find the region of each patch.

    Args:
        regions (torch.Tensor): Background, object or defect ``[B, H, W]``.
        patch_size (tuple[int, int]): Height and width of a patch in pixels.

    Returns:
        torch.Tensor: Region of each patch, or ``AMBIGUOUS``, shape ``[B, L]``.
    """
    shares = F.avg_pool2d(F.one_hot(regions.long(), 3).permute(0, 3, 1, 2).float(), patch_size).flatten(2)
    result = shares[:, :DEFECT].argmax(dim=1)
    result[shares[:, DEFECT] > TOUCHED] = AMBIGUOUS
    result[shares[:, DEFECT] >= COVERED] = DEFECT
    return result


def hide_patches(regions: torch.Tensor) -> torch.Tensor:
    """Choose patches to hide: none that a defect is in, and in every second image none at all.

    Args:
        regions (torch.Tensor): Region of each patch, shape ``[B, L]``.

    Returns:
        torch.Tensor: Whether a patch is hidden, shape ``[B, L]``.
    """
    share = HIDDEN * torch.rand(len(regions), 1, device=regions.device)
    share *= torch.rand_like(share) < 0.5  # noqa: PLR2004
    chosen = torch.rand(regions.shape, device=regions.device) < share
    return chosen & (regions != DEFECT) & (regions != AMBIGUOUS)


def balanced_mean(losses: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
    """Average losses so that background, object and defect weigh the same, however large they are.

    Args:
        losses (torch.Tensor): Loss of each patch, any shape.
        regions (torch.Tensor): Region of each patch, the same shape; ambiguous ones are left out.

    Returns:
        torch.Tensor: The average, a scalar.
    """
    means = [losses[regions == region].mean() for region in range(3) if (regions == region).any()]
    return torch.stack(means).mean()
