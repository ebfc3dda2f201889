# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""How well photographs without labels are told apart: each alone, and compared with each other::

    python tests/benchmark/unlabeled.py datasets/photographs/cookie datasets/photographs/hazelnut

Each folder is a category in MVTec AD's layout. Of each number of photographs and each share
of defective ones, three draws are taken. Figures are means over the draws, in percent.
"""

import argparse
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchmetrics.functional.classification import binary_auroc

from anomalib_fbclip import FBClip
from anomalib_fbclip.data.image_source import load_image
from anomalib_fbclip.data.unlabeled_set import UnlabeledSet
from anomalib_fbclip.images.image_files import IMAGE_SUFFIXES
from anomalib_fbclip.modeling.decision import IntermediateOutputs

DRAWS = 3
SHARES = 0.0, 0.05, 0.1, 0.2, 0.5
USUAL_SIZE, USUAL_SHARE = 40, 0.2
SIZES = 8, 16, 64, 300
SIDE = 224


class Photograph(NamedTuple):
    """A photograph with what the model finds in it, and the truth."""

    path: Path
    mask: torch.Tensor | None  # None for a defective one without a mask
    is_defective: bool
    image: torch.Tensor
    outputs: IntermediateOutputs


def read(model: FBClip, category: Path) -> list[Photograph]:
    """Read the photographs of a category, and run the towers on each once."""
    paths = [*(category / "train" / "good").glob("*"), *(category / "test").glob("*/*")]
    photographs = []
    for number, path in enumerate(sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)):
        print(f"\r{category.name}: {number + 1}", end="", file=sys.stderr, flush=True)
        image = model._normalize(load_image(path)[None])
        outputs = model.model.intermediate_outputs(image, model.model.text_features())._replace(embeddings=[])
        is_defective = path.parent.name != "good"
        photographs.append(Photograph(path, read_mask(path, category, is_defective), is_defective, image, outputs))
    print(file=sys.stderr)
    return photographs


def read_mask(path: Path, category: Path, is_defective: bool) -> torch.Tensor | None:
    """Read where the defect is, at the size of the anomaly map."""
    if not is_defective:
        return torch.zeros(SIDE, SIDE, dtype=torch.bool)
    found = [*(category / "ground_truth" / path.parent.name).glob(f"{path.stem}*.png")]
    if not found:
        return None
    with Image.open(found[0]) as file:
        mask = torch.from_numpy(np.array(file.convert("L")) > 127)
    return torch.nn.functional.interpolate(mask[None, None].float(), (SIDE, SIDE), mode="area")[0, 0] > 0.5


class Known:
    """The model, whose towers have seen the photographs already."""

    def __init__(self, model: FBClip, photographs: Sequence[Photograph]) -> None:
        self._model = model.model
        self._outputs = {photograph.image.numpy().tobytes(): photograph.outputs for photograph in photographs}
        self.backbone = self
        self.patch_size = model.model.backbone.patch_size
        self.minimum_side = model.model.backbone.minimum_side
        self.anomaly_map_generator = model.model.anomaly_map_generator
        self.tiling = model.model.tiling
        self.zero_shot = self.decision = model.model.zero_shot

    def text_features(self) -> torch.Tensor:
        return self._model.text_features()

    def encode_image(self, image: torch.Tensor) -> tuple[list[torch.Tensor], tuple[int, ...]]:
        outputs = self._outputs[image.numpy().tobytes()]
        return outputs.layer_tokens, outputs.patch_map.shape[-2:]

    def intermediate_outputs(self, image: torch.Tensor, _: torch.Tensor) -> IntermediateOutputs:
        return self._outputs[image.numpy().tobytes()]

    def predict(self, outputs: IntermediateOutputs) -> tuple[float, torch.Tensor]:
        prediction = self._model.conclude([outputs], (SIDE, SIDE), self.decision, None)
        return prediction.pred_score.item(), prediction.anomaly_map[0]


def draw(photographs: Sequence[Photograph], size: int, share: float, seed: int) -> list[Photograph] | None:
    """Draw photographs, of which so many are defective; nothing if there are not enough."""
    stream = random.Random(seed)
    kinds = [[one for one in photographs if one.is_defective == kind] for kind in (False, True)]
    defective = round(size * share)
    numbers = size - defective, defective
    if any(number > len(kind) for kind, number in zip(kinds, numbers, strict=True)):
        return None
    return [one for kind, number in zip(kinds, numbers, strict=True) for one in stream.sample(kind, number)]


def measure(known: Known, model: FBClip, folder: Sequence[Photograph], *, compared: bool) -> dict[str, float]:
    """Predict a folder, and measure scores, maps and verdicts."""
    known.decision = known.zero_shot
    doubt = 0
    if compared:
        chosen = UnlabeledSet([one.path for one in folder], minimum_side=known.minimum_side)
        chosen.fit_model(known, model._normalize)  # type: ignore[arg-type] # it has what is needed
        doubt = chosen.doubt is not None
    scores, maps = zip(*(known.predict(one.outputs) for one in folder), strict=True)
    values, defective = torch.tensor(scores), torch.tensor([one.is_defective for one in folder])
    called = values > 0.5
    masks = [one.mask for one in folder]
    figures = {"false alarms": called[~defective].float().mean().item(), "doubted": float(doubt)}
    if defective.any():
        figures |= {
            "image AUROC": binary_auroc(values, defective.long()).item(),
            "found": called[defective].float().mean().item(),
        }
        if all(mask is not None for mask in masks):
            every_other = (torch.stack(list(part))[:, ::2, ::2].flatten() for part in (maps, masks))
            scored, truth = every_other
            figures["pixel AUROC"] = binary_auroc(scored, truth.long()).item()
    return figures


def rows(model: FBClip, category: Path) -> Iterator[list[str]]:
    """Measure the draws of a category, each alone and compared."""
    photographs = read(model, category)
    known = Known(model, photographs)
    plans = [(USUAL_SIZE, share) for share in SHARES] + [(size, USUAL_SHARE) for size in SIZES]
    for size, share in plans:
        folders = [draw(photographs, size, share, seed) for seed in range(DRAWS)]
        if None in folders:
            continue
        for compared in (False, True):
            found = [measure(known, model, folder, compared=compared) for folder in folders if folder]
            yield [
                category.name,
                str(size),
                f"{share:.0%}",
                "compared" if compared else "alone",
                *(percent([one.get(name) for one in found]) for name in NAMES),
            ]


def percent(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{100 * statistics.fmean(known):.1f}" if known else "-"


NAMES = "image AUROC", "pixel AUROC", "found", "false alarms", "doubted"


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("categories", nargs="+", type=Path)
    model = FBClip("fbclip-small").eval()
    model.model.text_features()
    print("| photographs | number | defective | | " + " | ".join(NAMES) + " |")
    print("|---|---:|---:|---|" + "---:|" * len(NAMES))
    with torch.no_grad():
        for category in parser.parse_args().categories:
            for row in rows(model, category):
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
