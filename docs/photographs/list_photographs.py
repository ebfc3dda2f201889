# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Writes the meta.json of folders that lie as MVTec AD's, whatever their images and masks are named after.

::

    python docs/photographs/list_photographs.py datasets/photographs

``<category>/{train/good, test/good, test/<defect>}`` hold images, ``<category>/ground_truth/<defect>/<stem>_mask.png``
the masks.
"""

import json
import sys
from pathlib import Path


def list_images(root: Path, category: str, split: str) -> list[dict[str, str | int]]:
    """List the images of a category, in the form of AnomalyCLIP's meta.json."""
    entries: list[dict[str, str | int]] = []
    for path in sorted((root / category / split).glob("*/*")):
        defect = path.parent.name
        mask = f"{category}/ground_truth/{defect}/{path.stem}_mask.png" if defect != "good" else ""
        entries.append({
            "img_path": path.relative_to(root).as_posix(),
            "mask_path": mask,
            "cls_name": category,
            "specie_name": defect,
            "anomaly": int(defect != "good"),
        })
    return entries


def main(root: Path) -> None:
    """Write the file."""
    categories = sorted(path.name for path in root.iterdir() if (path / "test").is_dir())
    meta = {split: {name: list_images(root, name, split) for name in categories} for split in ("train", "test")}
    (root / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
