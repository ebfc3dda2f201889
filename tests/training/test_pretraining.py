# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The terms of the pre-training against their literal definitions."""

import open_clip
import pytest
import torch
from anomalib_fbclip.training.initialization import initialize, whitening
from anomalib_fbclip.training.muon import Muon, orthogonalize
from anomalib_fbclip.training.pretraining import Pretraining
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.bundled import NAME
from anomalib_fbclip.checkpoints.registry import resolve_backbone
from anomalib_fbclip.modeling.prompt_learner import STATES
from anomalib_fbclip.training.batches import TrainingBatches
from anomalib_fbclip.training.images import BACKGROUND, DEFECT, OBJECT
from anomalib_fbclip.training.losses import (
    AMBIGUOUS,
    balanced_mean,
    caption_loss,
    hide_patches,
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


def test_hidden_patches_have_no_defect():
    regions = torch.randint(-1, 3, (200, 100))
    hidden = hide_patches(regions)
    assert not hidden[(regions == DEFECT) | (regions == AMBIGUOUS)].any()
    shares = hidden.float().mean(dim=1)
    assert 0.3 < (shares > 0).float().mean() < 0.6
    assert shares.max() < 0.4


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
def pretraining() -> Pretraining:
    torch.manual_seed(0)
    backbone = resolve_backbone(NAME)
    clip = open_clip.create_model(backbone)
    initialize(clip, torch.randn(8, 3, 128, 128))
    return Pretraining(clip, open_clip.get_tokenizer(backbone), steps=10)


def test_near_patches_have_like_positions(pretraining):
    positions = pretraining.clip.visual.positional_embedding[1:].reshape(16, 16, -1)
    near = F.cosine_similarity(positions[8, 8], positions[8, 9], dim=0)
    far = F.cosine_similarity(positions[8, 8], positions[2, 15], dim=0)
    assert near > 0.9
    assert far < 0.7


def test_whitened_patches_are_uncorrelated():
    images = torch.randn(64, 3, 16, 24).cumsum(dim=-1)  # neighbours are alike
    patches = F.unfold(images, (4, 8), stride=(4, 8)).mT.flatten(0, 1)
    whitened = patches @ whitening(images, (4, 8)).mT
    torch.testing.assert_close(whitened.mT @ whitened / len(patches), torch.eye(96), atol=0.1, rtol=0)


def test_attention_starts_near_the_identity(pretraining):
    """Tokens attend to what is like them, and the values take them off."""
    for block in pretraining.clip.visual.transformer.resblocks:
        query, key, value = block.attn.in_proj_weight.chunk(3)
        for head in range(block.attn.num_heads):
            rows = slice(64 * head, 64 * head + 64)
            assert (query[rows].mT @ key[rows]).diagonal().mean() > 0.2
        assert (block.attn.out_proj.weight @ value).diagonal().mean().item() == pytest.approx(-0.4, abs=0.03)


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_muon_steps_as_that_of_torch_does_in_half_precision(shape):
    start, gradients = torch.randn(shape), torch.randn(3, *shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = (
        Muon([ours], lr=0.01, weight_decay=0.05),
        torch.optim.Muon([theirs], lr=0.01, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
    )
    for gradient in gradients:
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
            assert torch.equal(parameter.grad, gradient)
    moved, expected = ours - start, theirs - start
    assert (moved - expected).norm() < 0.02 * expected.norm()


def test_muon_passes_over_what_has_no_gradient():
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    Muon([parameter], lr=0.01, weight_decay=0.05).step()
    assert torch.equal(parameter, torch.ones(2, 3))


def test_muon_calls_its_closure_first():
    parameter = torch.nn.Parameter(torch.eye(3))

    def closure() -> float:
        loss = parameter.square().sum()
        loss.backward()
        return loss.item()

    assert Muon([parameter], lr=0.01, weight_decay=0.0).step(closure) == 3
    assert parameter.diagonal().max() < 1


def test_orthogonalized_matrices_have_singular_values_near_one():
    matrix = torch.randn(40, 30)
    values = torch.linalg.svdvals(orthogonalize(matrix))
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize("steps", [2, 3, 30])
def test_learning_rate_rises_and_falls(pretraining, steps):
    schedules = Pretraining(pretraining.clip, pretraining.tokenizer, steps).configure_optimizers()[1]
    assert all(schedule.total_steps == steps for schedule in schedules)


def test_matrices_of_blocks_go_to_muon(pretraining):
    (muon, adam), _ = pretraining.configure_optimizers()
    names = {id(parameter): name for name, parameter in pretraining.named_parameters()}
    of_muon, of_adam = (
        {names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]}
        for optimizer in (muon, adam)
    )
    assert "clip.visual.transformer.resblocks.0.attn.in_proj_weight" in of_muon
    assert {"clip.visual.conv1.weight", "clip.token_embedding.weight", "clip.visual.proj"} <= of_adam
    assert not of_muon & of_adam
    trained = {name for name, parameter in pretraining.named_parameters() if parameter.requires_grad}
    assert of_muon | of_adam == trained


def test_steps_learn(pretraining):
    batch = next(iter(TrainingBatches(1, 8, 128, seed=0)))
    optimizer = torch.optim.AdamW(pretraining.parameters(), lr=3e-4)
    totals = []
    for _ in range(16):
        torch.manual_seed(0)
        loss = torch.stack(list(pretraining.losses(batch, STATES).values())).sum()
        totals.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert totals[-1] < 0.8 * totals[0]
    # Every part of both towers takes part, but for FB-CLIP's fixed temperature.
    without = [name for name, parameter in pretraining.named_parameters() if parameter.grad is None]
    assert without == ["clip.logit_scale"]


def test_hidden_loss(pretraining):
    tokens, images = torch.randn(2, 256, 192), torch.randn(2, 3, 128, 128)
    hidden = torch.zeros(2, 256, dtype=torch.bool)
    assert pretraining._hidden_loss(tokens, images, hidden).item() == 0
    hidden[1, 17] = hidden[0, 3] = True
    errors = []
    for image, row, column in ((1, 1, 1), (0, 0, 3)):
        patch = images[image, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].flatten()
        target = (patch - patch.mean()) / (patch.std() + 0.1)
        errors.append((pretraining.decoder(tokens[image, 16 * row + column]) - target).square().mean())
    torch.testing.assert_close(pretraining._hidden_loss(tokens, images, hidden), sum(errors) / 2)


def test_tokens_that_were_read_are_remembered(pretraining):
    pretraining.encode_text(["object with defect."])
    assert set(pretraining.tokenizer(["object with defect."]).unique().tolist()) <= pretraining.used_tokens
