# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Writes the meta.json of folders that lie as MVTec AD's, whatever their images and masks are named after.

::

    python docs/photographs/list_photographs.py datasets/photographs

``<category>/{train/good, test/good, test/<defect>}`` hold images, ``<category>/ground_truth/<defect>/<stem>_mask.png``
the masks. A category without ``train`` gives the first eight of its normal images to those that models are trained on,
and they are not tested.
"""

import json
import sys
from pathlib import Path


def list_images(root: Path, category: str) -> dict[str, list[dict[str, str | int]]]:
    """List the images of a category by split, in the form of AnomalyCLIP's meta.json."""
    splits = {split: sorted((root / category / split).glob("*/*")) for split in ("train", "test")}
    if not splits["train"]:
        splits["train"] = [path for path in splits["test"] if path.parent.name == "good"][:8]
        splits["test"] = sorted({*splits["test"]} - {*splits["train"]})
    return {split: [describe(root, category, path) for path in paths] for split, paths in splits.items()}


def describe(root: Path, category: str, image: Path) -> dict[str, str | int]:
    """Say what an image shows, and where its mask is."""
    defect = image.parent.name
    mask = f"{category}/ground_truth/{defect}/{image.stem}_mask.png" if defect != "good" else ""
    return {
        "img_path": image.relative_to(root).as_posix(),
        "mask_path": mask,
        "cls_name": category,
        "specie_name": defect,
        "anomaly": int(defect != "good"),
    }


def main(root: Path) -> None:
    """Write the file."""
    categories = sorted(path.name for path in root.iterdir() if (path / "test").is_dir())
    listed = {name: list_images(root, name) for name in categories}
    meta = {split: {name: images[split] for name, images in listed.items()} for split in ("train", "test")}
    (root / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
