# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Locked-image tuning (LiT): aligns a text tower and a projection to a frozen image tower.

The loss compares whole images with captions, as CLIP does; patches with the words of their region, as dino.txt does;
and images and patches with the words of the two states.
"""

from collections.abc import Iterable

import lightning.pytorch as pl
import open_clip
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.optim.lr_scheduler import OneCycleLR

from anomalib_fbclip.modeling.clip import ClipBackbone
from anomalib_fbclip.modeling.prompt_learner import STATES
from anomalib_fbclip.modeling.text_fusion import EndOfTextStrategy, GlobalStrategy, TextFusion
from tools.bundled_model.batches import TrainingBatch
from tools.bundled_model.losses import caption_loss, image_state_loss, patch_regions, region_loss, state_loss

STATE_WORDS = (STATES, ("flawless object.", "damaged object."), ("intact surface.", "defective surface."))
"""Words of the normal and of the abnormal state."""

STATE_WEIGHT = 2.0
"""Weight of the loss of the two states, which are the hardest to learn."""

LEARNED_OF_IMAGE_TOWER = {"visual.proj", "visual.ln_post.weight", "visual.ln_post.bias"}
"""Trained parameters of the image side: those after the tower's blocks."""


LEARNING_RATE = 2e-3
"""Highest learning rate."""


class LockedImageTuning(pl.LightningModule):
    """Contrastive training of a text tower and of the projections, with a frozen image tower.

    Args:
        clip (open_clip.CLIP): The CLIP, whose text tower and projections are trained in place.
        tokenizer (open_clip.SimpleTokenizer): Its tokenizer.
        steps (int): Number of steps.
    """

    def __init__(self, clip: open_clip.CLIP, tokenizer: open_clip.SimpleTokenizer, steps: int) -> None:
        super().__init__()
        self.clip = clip
        self.backbone = ClipBackbone(clip, [len(clip.visual.transformer.resblocks)])
        for name, parameter in clip.named_parameters():
            parameter.requires_grad = not name.startswith("visual.") or name in LEARNED_OF_IMAGE_TOWER
        self.clip.logit_scale.requires_grad = False  # FB-CLIP has a fixed temperature
        self.tokenizer = tokenizer
        # As FB-CLIP reads prompts, but without the attention, which is one of its adapters.
        self.text_fusion = TextFusion(
            strategies={"global": GlobalStrategy(), "end_of_text": EndOfTextStrategy()},
            weights={"global": 1.0, "end_of_text": 0.5},
        )
        self.steps = steps
        self.used_tokens: set[int] = set()

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> torch.Tensor:
        """Compute the loss of a batch, given its number."""
        losses = self.losses(batch, STATE_WORDS[batch_idx % len(STATE_WORDS)])
        self.log_dict(dict(losses), prog_bar=True)
        return torch.stack(list(losses.values())).sum()

    def losses(self, batch: TrainingBatch, state_words: tuple[str, str]) -> dict[str, torch.Tensor]:
        """Compute the terms of the loss of a batch.

        Args:
            batch (TrainingBatch): Images with words.
            state_words (tuple[str, str]): Words of the normal and of the abnormal state.

        Returns:
            dict[str, torch.Tensor]: The weighted terms by name, scalars.
        """
        (tokens,), _ = self.backbone.encode_image(batch.images)
        embeddings = self.backbone.project_image(self.clip.visual.ln_post(tokens))
        pooled, patches = embeddings[:, 0], embeddings[:, 1:]
        regions = patch_regions(batch.regions, self.backbone.patch_size)

        words = sorted({text for texts in batch.texts for text in texts})
        of_region = torch.tensor([[words.index(text) for text in texts] for texts in batch.texts], device=self.device)
        text_features = self.encode_text([*batch.captions, *words, *state_words])
        captions, region_features, state_features = text_features.split([len(pooled), len(words), len(state_words)])
        return {
            "caption": caption_loss(pooled, captions),
            "region": region_loss(patches, regions, of_region, region_features),
            "state": STATE_WEIGHT * state_loss(patches, regions, state_features),
            "image_state": STATE_WEIGHT * image_state_loss(pooled, batch.regions, state_features),
        }

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Use AdamW, with a learning rate that rises during the first tenth of the steps, and then falls to 0."""
        learned = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learned, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
        rise = max(0.1, 2 / (self.steps + 1))  # as a share; OneCycleLR divides by the number of steps minus one
        schedule = OneCycleLR(optimizer, LEARNING_RATE, self.steps, pct_start=rise, cycle_momentum=False)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def encode_text(self, texts: Iterable[str]) -> torch.Tensor:
        """Embed N texts as FB-CLIP embeds its prompts, without a causal mask: normalized features ``[N, D]``."""
        ids = self.tokenizer(list(texts)).to(self.device)
        self.used_tokens.update(ids.unique().tolist())
        hidden_states = self.backbone.encode_prompts(self.backbone.token_embedding(ids))
        return self.text_fusion(hidden_states, self.backbone.project_text(hidden_states), ids.argmax(dim=-1))
