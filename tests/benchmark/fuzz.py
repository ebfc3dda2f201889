# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Looks for files that end the program with anything but one line, guided by coverage (``pip install atheris``)::

    python tests/benchmark/fuzz.py images -max_total_time=900
    python tests/benchmark/fuzz.py products -max_total_time=900

What comes after the first word is for libFuzzer. A file that ends it is written beside where it was started.
"""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["anomalib_fbclip", "PIL"]):
    import torch
    from PIL import Image
    from safetensors import SafetensorError

    from anomalib_fbclip.cli.product import describe_product
    from anomalib_fbclip.errors import PlainError
    from anomalib_fbclip.images.photographs import Enough, read_photograph, read_reduced
    from anomalib_fbclip.weights.adapters import DIGEST, FORMAT, Adapters, digest_file
    from anomalib_fbclip.weights.tensor_files import read_safetensors, write_safetensors

FORMATS = ("bmp", "gif", "jpeg", "png", "tiff", "webp", "ppm")
LONGEST = 2**16
"""Bytes of a file."""

ENOUGH = Enough(longer=64, shorter=64)


def write_images(folder: Path) -> None:
    """Write an image of each format and depth to begin with."""
    values = torch.arange(3 * 40 * 30, dtype=torch.uint8).reshape(40, 30, 3).numpy()
    images = {"color": Image.fromarray(values), "gray": Image.fromarray(values[..., 0])}
    images["deep"] = Image.fromarray(values[..., 0].astype("uint16") * 257)
    for (name, image), kind in ((pair, kind) for pair in images.items() for kind in FORMATS):
        if name != "deep" or kind in {"png", "tiff"}:
            image.save(folder / f"{name}.{kind}")


def write_product(folder: Path) -> None:
    """Write a small product to begin with."""
    tensors = {"few_shot.memory.patches": torch.rand(2, 3, 4), "photographs.scores": torch.tensor([0.2, 0.3])}
    metadata = {
        "backbone": "fbclip-small",
        "pretrained": None,
        "signature": [0.0],
        "image_size": [224, 224],
        "tiles": [1, 1],
        "feature_layers": [6, 8],
        "version": "0.1.0",
        "source": "drawn images",
        "region": None,
        "photographs": [{"name": f"{index}.png", "size": 1, "digest": "0"} for index in range(2)],
        "used": [0, 1],
        "outliers": [],
        "rotations": 4,
        "white_level": None,
        "arguments": {},
        "thresholds": [None, None],
        "taught": "2026-01-01",
        "changed": "2026-01-01",
    }
    Adapters(tensors, metadata, FORMAT).save(folder / "small.fbclip")


def read_image(path: Path) -> None:
    """Read an image in both ways."""
    read_photograph(path, upright=True)
    read_reduced(path, enough=ENOUGH)


def read_product(path: Path) -> None:
    """Give a product a digest that fits, as whoever knows the format can, read it, and say what it holds."""
    with contextlib.suppress(SafetensorError):
        tensors, texts = read_safetensors(path)
        signed = {name: text for name, text in texts.items() if name not in {"format", DIGEST}}
        write_safetensors(path, tensors, {**texts, DIGEST: digest_file(tensors, signed)})
    product = Adapters.read(path)
    describe_product(path, product)
    _ = product.settled


TARGETS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], str]] = {
    "images": (read_image, write_images, "image.bin"),
    "products": (read_product, write_product, "product.fbclip"),
}


def main() -> None:
    """Run libFuzzer."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"error: give one of {', '.join(TARGETS)}.")
    read, write_seeds, name = TARGETS[sys.argv.pop(1)]
    with TemporaryDirectory() as folder:
        seeds, path = Path(folder, "seeds"), Path(folder, name)
        seeds.mkdir()
        write_seeds(seeds)

        def test(content: bytes) -> None:
            path.write_bytes(content)
            with contextlib.suppress(PlainError, ValueError, OSError):
                read(path)

        atheris.Setup([*sys.argv, f"-max_len={LONGEST}", "-rss_limit_mb=8192", str(seeds)], test)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
