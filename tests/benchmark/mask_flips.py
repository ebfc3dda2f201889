# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""How many foreground decisions half precision changes, on photographs, with fbclip-small on a CPU::

    python -m tests.benchmark.mask_flips path/to/folder

The folder holds a folder for each category, in MVTec AD's layout.
"""

import warnings
from contextlib import nullcontext
from itertools import starmap
from pathlib import Path

import torch
from jsonargparse import auto_cli

from anomalib_fbclip import FBClip
from anomalib_fbclip.protocol.tables import markdown_lines
from anomalib_fbclip.weights.backbones import resolve_image_size
from anomalib_fbclip.weights.bundled import NAME
from tools.bundled_model.evaluate import list_images, read_input

BATCH = 32

ROWS = (
    ("bf16-mixed", "float32", torch.bfloat16),
    ("bf16-mixed, kept in bfloat16", "bfloat16", torch.bfloat16),
    ("16-mixed", "float32", torch.float16),
    ("16-mixed, kept in float16", "float16", torch.float16),
)
"""Name, ``backbone_precision``, and type under autocast."""


def foreground_masks(backbone_precision: str, autocast: torch.dtype | None, images: torch.Tensor) -> torch.Tensor:
    """Compute the soft foreground masks of images, shape ``[B, layers, L]``."""
    model = FBClip(NAME, backbone_precision=backbone_precision).eval().model
    batches = []
    with torch.inference_mode(), torch.autocast("cpu", autocast) if autocast else nullcontext():
        for batch in images.split(BATCH):
            layers, _ = model.backbone.encode_image(batch)
            masks = starmap(model.mvfbe.foreground_mask, zip(layers, [None, *layers], strict=False))
            batches.append(torch.stack(list(masks), dim=1).float())
    return torch.cat(batches)


def main(photographs: Path) -> None:
    """Print the table, in Markdown.

    Args:
        photographs: Folder of categories in MVTec AD's layout.
    """
    warnings.filterwarnings("ignore")
    categories = [path for path in sorted(photographs.iterdir()) if (path / "test").is_dir()]
    transform = FBClip.configure_pre_processor(resolve_image_size(NAME, None)).transform
    images = torch.stack([read_input(transform, image)[0] for path in categories for image in list_images(path)])
    exact = foreground_masks("float32", None, images)
    print(f"{len(images)} photographs, {exact.numel()} decisions\n")
    rows = (
        (name, f"{100 * (foreground_masks(backbone_precision, dtype, images) != exact).float().mean():.3f} %")
        for name, backbone_precision, dtype in ROWS
    )
    print(*markdown_lines(["", "decisions that differ from float32"], rows), sep="\n")


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
