# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The terms of the locked-image tuning against their literal definitions, and what it changes."""

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.modeling.prompt_learner import STATES
from anomalib_fbclip.weights.backbones import resolve_backbone
from anomalib_fbclip.weights.bundled import NAME
from tools.bundled_model.batches import TrainingBatches
from tools.bundled_model.images import BACKGROUND, DEFECT, OBJECT
from tools.bundled_model.locked_image_tuning import LEARNED_OF_IMAGE_TOWER, LockedImageTuning
from tools.bundled_model.losses import (
    AMBIGUOUS,
    balanced_mean,
    caption_loss,
    image_state_loss,
    patch_regions,
    region_loss,
    state_loss,
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_regions_of_patches():
    regions = torch.zeros(1, 20, 40, dtype=torch.uint8)
    regions[:, :, 10:] = OBJECT
    regions[0, 0, 20] = DEFECT  # a hundredth
    regions[0, 0, 30:40] = DEFECT  # a tenth
    regions[0, 10:12, 10:20] = DEFECT  # a fifth
    expected = [[BACKGROUND, OBJECT, OBJECT, AMBIGUOUS, BACKGROUND, DEFECT, OBJECT, OBJECT]]
    assert patch_regions(regions, (10, 10)).tolist() == expected


def test_balanced_mean():
    losses = torch.tensor([1.0, 2.0, 3.0, 10.0, 7.0])
    regions = torch.tensor([BACKGROUND, BACKGROUND, BACKGROUND, DEFECT, AMBIGUOUS])
    assert balanced_mean(losses, regions).item() == pytest.approx((2 + 10) / 2)


def cosines(embedding: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    return torch.stack([F.cosine_similarity(embedding, feature, dim=0) for feature in features]) / 0.07


def test_caption_loss():
    images, captions = torch.randn(5, 8), F.normalize(torch.randn(5, 8), dim=-1)
    logits = torch.stack([cosines(image, captions) for image in images])
    expected = -sum(logits[i].log_softmax(dim=0)[i] + logits[:, i].log_softmax(dim=0)[i] for i in range(5)) / 10
    torch.testing.assert_close(caption_loss(images, captions), expected)


def test_image_state_loss():
    images, words = torch.randn(3, 8), F.normalize(torch.randn(2, 8), dim=-1)
    regions = torch.full((3, 4, 4), OBJECT)
    regions[1, 2, 2] = DEFECT
    expected = -sum(cosines(image, words).log_softmax(dim=0)[int(i == 1)] for i, image in enumerate(images)) / 3
    torch.testing.assert_close(image_state_loss(images, regions, words), expected)


def test_region_and_state_loss():
    embeddings, words = torch.randn(2, 6, 8), F.normalize(torch.randn(4, 8), dim=-1)
    regions = torch.tensor([[0, 1, 1, 2, -1, 0], [1, 1, 2, 2, 0, -1]])
    of_region = torch.tensor([[0, 1, 2], [0, 3, 2]])
    by_region = {region: [] for region in range(3)}
    by_state = {region: [] for region in range(3)}
    for image in range(2):
        for patch in range(6):
            region = regions[image, patch].item()
            if region == AMBIGUOUS:
                continue
            scores = cosines(embeddings[image, patch], words).log_softmax(dim=0)
            by_region[region].append(-scores[of_region[image, region]])
            scores = cosines(embeddings[image, patch], words[:2]).log_softmax(dim=0)
            by_state[region].append(-scores[int(region == DEFECT)])
    for losses, found in (
        (by_region, region_loss(embeddings, regions, of_region, words)),
        (by_state, state_loss(embeddings, regions, words[:2])),
    ):
        expected = sum(sum(values) / len(values) for values in losses.values()) / 3
        torch.testing.assert_close(found, expected)


@pytest.fixture(scope="module")
def tuning() -> LockedImageTuning:
    torch.manual_seed(0)
    backbone = resolve_backbone(NAME)
    return LockedImageTuning(open_clip.create_model(backbone), open_clip.get_tokenizer(backbone), steps=10)


def learning_rates(tuning: LockedImageTuning, steps: int) -> list[float]:
    configured = LockedImageTuning(tuning.clip, tuning.tokenizer, steps).configure_optimizers()
    assert configured["lr_scheduler"]["interval"] == "step"
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps - 1):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize("steps", [30, 101])
def test_learning_rate_rises_in_a_tenth_and_falls_to_zero(tuning, steps):
    rates = np.array(learning_rates(tuning, steps))
    highest = rates.argmax()
    assert rates[highest] == pytest.approx(2e-3, rel=0.01)
    assert 0 < highest <= steps / 10
    assert (np.diff(rates[: highest + 1]) > 0).all()
    assert (np.diff(rates[highest:]) < 0).all()
    assert rates[-1] < 1e-6


@pytest.mark.parametrize("steps", [2, 3])
def test_learning_rate_of_few_steps(tuning, steps):
    assert learning_rates(tuning, steps)[-1] < 1e-6


def test_steps_learn_and_leave_the_image_tower_as_it_is(tuning):
    batch = next(iter(TrainingBatches(1, 8, 224, seed=0)))
    before = {name: parameter.detach().clone() for name, parameter in tuning.clip.named_parameters()}
    optimizer = tuning.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    totals = []
    for _ in range(10):
        loss = torch.stack(list(tuning.losses(batch, STATES).values())).sum()
        totals.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert totals[-1] < 0.8 * totals[0]
    unchanged = {name for name, parameter in tuning.clip.named_parameters() if torch.equal(parameter, before[name])}
    image_tower = {name for name in before if name.startswith("visual.")} - LEARNED_OF_IMAGE_TOWER
    assert unchanged == image_tower | {"logit_scale"}


def test_tokens_that_were_read_are_remembered(tuning):
    tuning.encode_text(["object with defect."])
    assert set(tuning.tokenizer(["object with defect."]).unique().tolist()) <= tuning.used_tokens
