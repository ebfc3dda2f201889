# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""FB-CLIP's definitions, taken literally: slow, and written to be compared with the paper rather than to be used."""

import math

import torch


def cosine(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return first @ second / (first.norm() * second.norm())


def foreground_score(tokens: torch.Tensor, previous: torch.Tensor | None) -> torch.Tensor:
    """Smoothed score of each patch of one image, from tokens ``[1 + L, C]``."""
    class_token, patches = tokens[0], tokens[1:]
    count, width = patches.shape
    mean = patches.mean(dim=0)
    cues = {"local": [], "center": [], "class": [], "change": []}
    for index in range(count):
        neighbors = torch.zeros(width, dtype=patches.dtype)
        for position in (index - 1, index, index + 1):
            if 0 <= position < count:
                neighbors += patches[position]
        cues["local"].append((patches[index] - neighbors / 3).norm())
        cues["center"].append((patches[index] - mean).norm())
        cues["class"].append(1 - cosine(patches[index], class_token))
        earlier = patches[index] if previous is None else previous[index + 1]
        cues["change"].append((patches[index] - earlier).norm())
    score = torch.zeros(count, dtype=patches.dtype)
    for name, weight in (("local", 0.30), ("center", 0.30), ("class", 0.30), ("change", 0.10)):
        values = torch.stack(cues[name]).to(patches.dtype)
        score += weight * (values - values.min()) / max(float(values.max() - values.min()), 1e-6)
    smoothed = torch.zeros_like(score)
    for index in range(count):
        for offset in range(-2, 3):
            position = abs(index + offset)
            position = 2 * (count - 1) - position if position >= count else position
            smoothed[index] += score[position] / 5
    return smoothed


def semantic_view(tokens: torch.Tensor, foreground_mask: torch.Tensor) -> torch.Tensor:
    """Compute the semantic view of one image, with both softmaxes over all pairs of patches."""
    class_token, patches = tokens[0], tokens[1:]
    background_mask = 1 - foreground_mask
    stability = torch.stack([cosine(patch, class_token) for patch in patches])
    information = 1 - stability
    foreground = (information[:, None] * foreground_mask[:, None] * foreground_mask[None]).softmax(dim=-1) @ patches
    background = (stability[:, None] * background_mask[:, None] * background_mask[None]).softmax(dim=-1) @ patches
    attended = foreground_mask[:, None] * foreground + (1 - foreground_mask[:, None]) * background
    return torch.cat([tokens[:1], 0.6 * attended + 0.4 * patches])


def spatial_view(tokens: torch.Tensor, foreground_mask: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Compute the spatial view of one image, one neighborhood of 25 entries after the other."""
    class_token, patches = tokens[0], tokens[1:]
    rows, columns = grid
    outside = (torch.zeros_like(patches[0]), 0.0)
    result = []
    for row in range(rows):
        for column in range(columns):
            entries = []
            for row_offset in range(-2, 3):
                for column_offset in range(-2, 3):
                    near_row, near_column = row + row_offset, column + column_offset
                    inside = 0 <= near_row < rows and 0 <= near_column < columns
                    index = near_row * columns + near_column
                    entries.append((patches[index], float(foreground_mask[index])) if inside else outside)
            features = torch.stack([feature for feature, _ in entries])
            foreground = torch.tensor([mask for _, mask in entries], dtype=patches.dtype)
            result.append(
                _foreground_branch(features, foreground, class_token)
                + _background_branch(features, 1 - foreground, class_token),
            )
    return torch.cat([tokens[:1], torch.stack(result)])


def _foreground_branch(features: torch.Tensor, mask: torch.Tensor, class_token: torch.Tensor) -> torch.Tensor:
    masked = mask[:, None] * features
    mean = masked.mean(dim=0)
    similarity = torch.stack([cosine(entry, class_token) for entry in masked]).nan_to_num(0.0)
    weights = ((1 - similarity) * (masked - mean).norm(dim=-1)).softmax(dim=0)
    return weights @ masked / mask.sum().clamp(min=1e-8)


def _background_branch(features: torch.Tensor, mask: torch.Tensor, class_token: torch.Tensor) -> torch.Tensor:
    masked = mask[:, None] * features
    similarity = torch.stack([cosine(entry, class_token) for entry in masked]).nan_to_num(0.0)
    weights = (similarity * masked.norm(dim=-1)).softmax(dim=0)
    return weights @ masked / mask.sum().clamp(min=1e-8)


def attention_branch(tokens: torch.Tensor, state: dict[str, torch.Tensor], num_heads: int) -> torch.Tensor:
    """Self-attention of one image, one head after the other."""
    mean, variance = tokens.mean(dim=-1, keepdim=True), tokens.var(dim=-1, keepdim=True, unbiased=False)
    normalized = (tokens - mean) / (variance + 1e-5).sqrt() * state["norm.weight"] + state["norm.bias"]
    query, key, value = (normalized @ state[f"to_{kind}.weight"].T for kind in "qkv")
    width = query.shape[-1] // num_heads
    outputs = []
    for head in range(num_heads):
        part = slice(head * width, (head + 1) * width)
        weights = (query[:, part] @ key[:, part].T * state["scale"]).softmax(dim=-1)
        outputs.append(weights @ value[:, part])
    return torch.cat(outputs, dim=-1) @ state["to_out.weight"].T + state["to_out.bias"]


def attention(tokens: torch.Tensor, state: dict[str, torch.Tensor], num_heads: int) -> torch.Tensor:
    """Foreground-background attention of one image."""
    hidden = (tokens @ state["gate.0.weight"].T + state["gate.0.bias"]).clamp(min=0)
    gate = 1 / (1 + (-(hidden @ state["gate.2.weight"].T + state["gate.2.bias"])).exp())
    total = torch.zeros_like(tokens)
    for branch, share in (("foreground", gate), ("background", 1 - gate)):
        own = {name.removeprefix(f"{branch}."): value for name, value in state.items() if name.startswith(branch)}
        total += attention_branch(share * tokens, own, num_heads)
    mean, variance = total.mean(dim=-1, keepdim=True), total.var(dim=-1, keepdim=True, unbiased=False)
    return (total - mean) / (variance + 1e-5).sqrt() * state["norm.weight"] + state["norm.bias"]


def suppress(maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """Background suppression in the maps of one image."""
    first_halves = torch.cat([tokens[: len(tokens) // 2] for tokens in maps])
    prototype = 0.5 * first_halves.mean(dim=0) + 0.5 * first_halves.max(dim=0).values
    return [
        torch.stack([0.5 * token + 0.5 * (1 - cosine(token, prototype)) * (token - prototype) for token in tokens])
        for tokens in maps
    ]


def abnormal_probability(maps: list[torch.Tensor], text: torch.Tensor, scale_weights: torch.Tensor) -> torch.Tensor:
    """Abnormal probability of each token of one image."""
    weights = scale_weights.softmax(dim=0)
    total = torch.zeros(len(maps[0]), 2, dtype=text.dtype)
    for index, tokens in enumerate(maps):
        for position, token in enumerate(tokens):
            for state in range(2):
                total[position, state] += weights[index // 3] * cosine(token, text[state]) / 0.07
    return total.exp()[:, 1] / total.exp().sum(dim=-1)


def consistency(embedding: torch.Tensor, text: torch.Tensor) -> float:
    """Semantic consistency regularization of a batch, weighted as in the paper."""
    entropies, margins = [], []
    for image in embedding:
        mean = image.mean(dim=0)
        similarity = [float(cosine(mean, state)) / 0.07 for state in text]
        normalizer = sum(math.exp(value) for value in similarity)
        probabilities = [math.exp(value) / normalizer for value in similarity]
        entropies.append(-sum(value * math.log(value + 1e-8) for value in probabilities))
        margins.append(max(0.0, 1 - abs(similarity[1] - similarity[0])))
    return 0.15 * (sum(entropies) + 0.5 * sum(margins)) / len(entropies)


def focal_loss(probability: list[float], target: list[float]) -> float:
    losses = []
    for predicted, wanted in zip(probability, target, strict=True):
        of_target = predicted if wanted == 1 else 1 - predicted
        losses.append(-math.log(of_target) * (1 - of_target) ** 4)
    return sum(losses) / len(losses)


def dice_loss(probability: torch.Tensor, target: torch.Tensor) -> float:
    coefficients = [
        float((2 * (image * mask).sum() + 1) / (image.sum() + mask.sum() + 1))
        for image, mask in zip(probability, target, strict=True)
    ]
    return 1 - sum(coefficients) / len(coefficients)
