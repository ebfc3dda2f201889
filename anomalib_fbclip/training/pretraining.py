# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Pre-training of fbclip-nano's CLIP: images, and regions of images, are aligned with their words.

Four terms, all on the same forward pass: whole images against captions, as CLIP does it; patches against the words of
their region; images and patches against the words of the two states; and, without words, hidden patches from what is
around them.
"""

from collections.abc import Iterable
from typing import cast

import lightning.pytorch as pl
import open_clip
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from anomalib_fbclip.modeling.clip import ClipBackbone
from anomalib_fbclip.modeling.prompt_learner import STATES
from anomalib_fbclip.modeling.text_fusion import EndOfTextStrategy, GlobalStrategy, TextFusion

from .batches import TrainingBatch
from .losses import (
    AMBIGUOUS,
    caption_loss,
    hide_patches,
    image_state_loss,
    patch_regions,
    region_loss,
    state_loss,
)
from .muon import Muon

STATE_WORDS = (STATES, ("flawless object.", "damaged object."), ("intact surface.", "defective surface."))
"""Words of the normal and of the abnormal state."""

STATE_WEIGHT = 2.0
"""Weight of the words of the two states, which are the hardest to learn."""


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

    def losses(self, batch: TrainingBatch, state_words: tuple[str, str]) -> dict[str, torch.Tensor]:
        """Compute the terms of the loss of a batch.

        Args:
            batch (TrainingBatch): Images with words.
            state_words (tuple[str, str]): Words of the normal and of the abnormal state.

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
        text_features = self.encode_text([*batch.captions, *words, *state_words])
        captions, region_features, state_features = text_features.split([len(pooled), len(words), len(state_words)])
        return {
            "caption": caption_loss(pooled, captions),
            "region": region_loss(embeddings, regions, of_region, region_features),
            "state": STATE_WEIGHT * state_loss(embeddings, regions, state_features),
            "image_state": STATE_WEIGHT * image_state_loss(pooled, batch.regions, state_features),
            "hidden": self._hidden_loss(tokens, batch.images, hidden),
        }

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[LRScheduler]]:
        """Optimize the blocks' matrices with Muon, which needs fewer images, and all else with AdamW.

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
            torch.Tensor: Normalized text features, shape ``[N, D]``.
        """
        ids = self.tokenizer(list(texts)).to(self.device)
        self.used_tokens.update(ids.unique().tolist())
        hidden_states = self.backbone.encode_prompts(self.backbone.token_embedding(ids))
        return self.text_fusion(hidden_states, self.backbone.project_text(hidden_states), ids.argmax(dim=-1))

    def _hide(self, images: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Paint patches in the mean color."""
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
