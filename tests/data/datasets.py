# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""A few images of each of the paper's datasets, in the layout that it has where it is published."""

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from layouts import HEIGHT, WIDTH, write_category, write_image, write_mask

Entry = tuple[str, str, int]
"""Image and mask below the root (the mask empty where there is none), and whether the image is anomalous."""


def write_meta(root: Path, entries: dict[str, Iterable[Entry]]) -> None:
    """Write the test images of each category, and the file that lists them."""
    test: dict[str, list[dict[str, object]]] = {}
    for category, listed in entries.items():
        test[category] = []
        for image, mask, anomaly in listed:
            write_image(root / image)
            if mask:
                write_mask(root / mask)
            test[category].append({"img_path": image, "mask_path": mask, "cls_name": category, "anomaly": anomaly})
    (root / "meta.json").write_text(json.dumps({"train": {}, "test": test}))


def write_mvtec_ad(root: Path) -> None:
    for category in ("bottle", "cable"):
        write_category(root / category, "broken", "_mask")


def write_visa(root: Path) -> None:
    """VisA as it is published; anomalib makes ``visa_pytorch`` of it."""
    rows = [["object", "split", "label", "image", "mask"]]
    for category in ("candle", "pcb1"):
        images = f"{category}/Data/Images"
        for split, number in (("train", 0), ("train", 1), ("test", 2)):
            rows.append([category, split, "normal", f"{images}/Normal/{number:04}.JPG", ""])
        for number in range(2):
            mask = f"{category}/Data/Masks/Anomaly/{number:03}.png"
            rows.append([category, "test", "anomaly", f"{images}/Anomaly/{number:03}.JPG", mask])
            write_mask(root / mask, value=1 + number)
    for row in rows[1:]:
        write_image(root / row[3])
    split_file = root / "split_csv" / "1cls.csv"
    split_file.parent.mkdir()
    with split_file.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_mpdd(root: Path) -> None:
    for category, defect in (("bracket_black", "scratches"), ("tubes", "anomalous")):
        write_category(root / category, defect, "_mask")


def write_btad(root: Path) -> None:
    """BTAD after anomalib's conversion to PNG."""
    for category in ("01", "02"):
        for split, label, count in (("train", "ok", 3), ("test", "ok", 3), ("test", "ko", 2)):
            for number in range(count):
                write_image(root / category / split / label / f"{number:04}.png")
        for number in range(2):
            write_mask(root / category / "ground_truth" / "ko" / f"{number:04}.png")


def write_kolektor_sdd(root: Path) -> None:
    for item in range(1, 6):
        for part in range(3):
            path = root / f"kos{item:02}" / f"Part{part}"
            write_image(path.with_suffix(".jpg"))
            write_mask(path.with_name(f"Part{part}_label.bmp"), value=255 if part == 0 and item < 3 else 0)


def write_dagm(root: Path) -> None:
    write_meta(
        root,
        {
            f"Class{number}": [
                *((f"Class{number}/Test/{image:04}.PNG", "", 0) for image in range(3)),
                (f"Class{number}/Test/0003.PNG", f"Class{number}/Test/Label/0003_label.PNG", 1),
            ]
            for number in (1, 10)
        },
    )


def write_dtd_synthetic(root: Path) -> None:
    write_meta(
        root,
        {
            texture: [
                *((f"{texture}/test/good/{image:03}.png", "", 0) for image in range(3)),
                (f"{texture}/test/bad/000.png", f"{texture}/ground_truth/bad/000_mask.png", 1),
            ]
            for texture in ("Blotchy_099", "Woven_001")
        },
    )


def write_real_iad(root: Path) -> None:
    for category in ("audiojack", "toy"):
        listed: dict[str, list[dict[str, str | None]]] = {"train": [], "test": []}
        for split, sample, defect in (("train", 1, "OK"), ("test", 2, "OK"), ("test", 5, "BX")):
            folder = f"OK/S{sample:04}" if defect == "OK" else f"NG/{defect}/S{sample:04}"
            kind = "OK" if defect == "OK" else f"NG_{defect}"
            for camera in range(1, 3):
                stem = f"{folder}/{category}_{sample:04}_{kind}_C{camera}_20231021133219"
                mask = None if defect == "OK" else f"{stem}_mask.png"
                write_image(root / "realiad_1024" / category / f"{stem}.jpg")
                if mask:
                    write_mask(root / "realiad_1024" / category / mask)
                listed[split].append(
                    {"category": category, "anomaly_class": defect, "image_path": f"{stem}.jpg", "mask_path": mask},
                )
        path = root / "realiad_jsons" / "realiad_jsons" / f"{category}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"meta": {"normal_class": "OK", "prefix": f"{category}/"}, **listed}))


def write_head_ct(root: Path) -> None:
    write_meta(root, {"brain": [(f"head_ct/head_ct/{number:03}.png", "", int(number < 2)) for number in range(5)]})
    labels = ["id, hemorrhage", *(f"{number},{int(number < 2)}" for number in range(5))]
    (root / "labels.csv").write_text("\n".join(labels))


def write_brain_mri(root: Path) -> None:
    for name in ("no/1 no.jpeg", "no/2 no.jpeg", "no/no 3.jpg", "yes/Y1.jpg", "yes/Y2.jpg", "yes/Y3.JPG"):
        write_image(root / name)


def write_br35h(root: Path) -> None:
    for number in range(3):
        write_image(root / f"no/no{number}.jpg")
        write_image(root / f"yes/y{number}.jpg")
        write_image(root / f"pred/pred{number}.jpg")


def write_isic(root: Path) -> None:
    part = "ISBI2016_ISIC_Part1_Test"
    names = ("ISIC_0000003", "ISIC_0000012", "ISIC_0000018")
    write_meta(
        root,
        {"skin": [(f"{part}_Data/{name}.jpg", f"{part}_GroundTruth/{name}_Segmentation.png", 1) for name in names]},
    )


def write_cvc_colondb(root: Path) -> None:
    write_meta(root, {"colon": [(f"images/{number}.png", f"masks/{number}.png", 1) for number in range(1, 4)]})


def write_cvc_clinicdb(root: Path) -> None:
    write_meta(root, {"colon": [(f"Original/{number}.tif", f"Ground Truth/{number}.tif", 1) for number in range(1, 4)]})


def write_kvasir(root: Path) -> None:
    write_with_jpeg_masks(root, "colon", "images", "masks", "masks_png", "cju0qkwl35piu0993l0dewei2")


def write_endotect(root: Path) -> None:
    write_with_jpeg_masks(root, "colon", "images", "masks", "masks_png", "ckcu8ty6z00003b5yzfaezbs5")


def write_tn3k(root: Path) -> None:
    write_with_jpeg_masks(root, "thyroid", "test-image", "test-mask", "test-mask-png", "0000")


def write_with_jpeg_masks(root: Path, category: str, images: str, masks: str, converted: str, name: str) -> None:
    """Write an image with a JPEG mask, and the mask as the config has it converted."""
    write_mask(root / masks / f"{name}.jpg")
    mask = np.asarray(Image.open(root / masks / f"{name}.jpg").convert("L"))
    assert mask.shape == (HEIGHT, WIDTH)
    write_meta(root, {category: [(f"{images}/{name}.jpg", f"{converted}/{name}.png", 1)]})
    Image.fromarray(np.where(mask < 128, 0, 255).astype(np.uint8)).save(root / converted / f"{name}.png")


WRITERS: dict[str, Callable[[Path], None]] = {
    "mvtec_ad": write_mvtec_ad,
    "visa": write_visa,
    "mpdd": write_mpdd,
    "btad": write_btad,
    "kolektor_sdd": write_kolektor_sdd,
    "dagm": write_dagm,
    "dtd_synthetic": write_dtd_synthetic,
    "real_iad": write_real_iad,
    "head_ct": write_head_ct,
    "brain_mri": write_brain_mri,
    "br35h": write_br35h,
    "isic": write_isic,
    "cvc_colondb": write_cvc_colondb,
    "cvc_clinicdb": write_cvc_clinicdb,
    "kvasir": write_kvasir,
    "endotect": write_endotect,
    "tn3k": write_tn3k,
}
"""What writes each dataset, by the name of its config."""
