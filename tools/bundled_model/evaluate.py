# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Accuracy and speed of fbclip-small: the table of its model card.

On the held-out procedural categories, and on photographs, if given::

    python -m tools.bundled_model.evaluate --photographs "[path/to/folder]"

A folder is a category in MVTec AD's layout, or has such categories: ``<category>/test/{good,<defect>}``,
``<category>/ground_truth/<defect>/<name>_mask.png`` and, to compare with, ``<category>/train/good``. Other folders are
ignored.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jsonargparse import auto_cli
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch.nn.functional import max_pool2d
from torchmetrics.functional.classification import binary_auroc
from torchvision import tv_tensors
from torchvision.transforms.v2 import Compose, Transform

from anomalib_fbclip import FBClip
from anomalib_fbclip.images.image_files import IMAGE_SUFFIXES, find_images
from anomalib_fbclip.images.photographs import read_photograph
from anomalib_fbclip.modeling.mvfbe import VIEWS
from anomalib_fbclip.modeling.text_fusion import STRATEGY_WEIGHTS
from anomalib_fbclip.protocol.tables import markdown_lines
from anomalib_fbclip.weights.bundled import NAME
from tools.bundled_model.disturbances import create_disturbances
from tools.bundled_model.images import DEFECT, TrainingImage, draw_training_image
from tools.bundled_model.parts import draw_category
from tools.bundled_model.photographs import VALIDATION_PHOTOGRAPHS
from tools.bundled_model.procedural import HELD_OUT_CATEGORIES, VALIDATION_CATEGORIES, VALIDATION_DEFECTS

VALIDATION_SIZE = 192
"""Side of the drawn images of photographed textures, in pixels."""

PATCH = 14
"""Side of fbclip-small's patches, in pixels."""


class LabeledImage(NamedTuple):
    """An image with its label.

    Attributes:
        path (Path): The image.
        mask_path (Path | None): Its mask; ``None`` for a normal image, and in a category without masks.
    """

    path: Path
    mask_path: Path | None

    @property
    def is_anomalous(self) -> bool:
        """True if it shows a defect, by its folder."""
        return self.path.parent.name != "good"


class Accuracy(NamedTuple):
    """Accuracy of the ranking of a category's images and pixels.

    Attributes:
        image_auroc (float): Area under the ROC curve of the image scores, 0..1.
        pixel_auroc (float): Area under the ROC curve of the anomaly maps at the model's input size, 0..1; NaN without
            masks.
        pointing (float): Share of the anomalous images in which the strongest place lies in the defect, 0..1; NaN
            without masks (:func:`pointing_game`).
    """

    image_auroc: float
    pixel_auroc: float
    pointing: float


def list_images(category: Path) -> list[LabeledImage]:
    """List the test images of a category in MVTec AD's layout, in the order of their names.

    Raises:
        FileNotFoundError: If the folder has no test images, or only some of the masks.
    """
    images = []
    is_marked = (category / "ground_truth").is_dir()
    for path in sorted((category / "test").glob("*/*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        defect = path.parent.name
        mask_path = (
            None if defect == "good" or not is_marked else category / "ground_truth" / defect / f"{path.stem}_mask.png"
        )
        if mask_path and not mask_path.is_file():
            msg = f"{path} has no mask: {mask_path} does not exist."
            raise FileNotFoundError(msg)
        images.append(LabeledImage(path, mask_path))
    if not images:
        msg = f"{category} has no images in test/good and test/<defect>: give a folder in MVTec AD's layout."
        raise FileNotFoundError(msg)
    return images


def evaluate(
    model: FBClip,
    images: Sequence[LabeledImage],
    batch_size: int = 16,
    disturbance: Transform | None = None,
) -> Accuracy:
    """Measure how well a model ranks images and pixels.

    Args:
        model (FBClip): The model.
        images (Sequence[LabeledImage]): Normal and anomalous images of one category.
        batch_size (int, optional): Images in a batch. Defaults to ``16``.
        disturbance (Transform | None, optional): Disturbance of image and mask. Defaults to ``None``.
    """
    model.eval()
    transform = FBClip.configure_pre_processor(model.model.tiling.image_size).transform
    if disturbance:
        transform = Compose([disturbance, transform])
    scores: list[torch.Tensor] = []
    maps: list[torch.Tensor] = []
    masks: list[torch.Tensor] = []
    for batch in batched(track(images, "Images", console=Console(stderr=True), transient=True), batch_size):
        inputs, batch_masks = zip(*(read_input(transform, image) for image in batch), strict=True)
        with torch.inference_mode():
            prediction = model.model(torch.stack(inputs))
        scores.append(prediction.pred_score)
        maps.append(prediction.anomaly_map)
        masks += batch_masks
    return compute_accuracy(images, torch.cat(scores), torch.cat(maps), torch.stack(masks))


def compute_accuracy(
    images: Sequence[LabeledImage], scores: torch.Tensor, anomaly_maps: torch.Tensor, defects: torch.Tensor
) -> Accuracy:
    """Compute the accuracy of predictions.

    Args:
        images (Sequence[LabeledImage]): Normal and anomalous images of one category.
        scores (torch.Tensor): Their scores ``[N]``.
        anomaly_maps (torch.Tensor): Their maps ``[N, H, W]``.
        defects (torch.Tensor): Their masks ``[N, H, W]``, bool.
    """
    labels = torch.tensor([image.is_anomalous for image in images])
    image_auroc = float(binary_auroc(scores, labels.long()))
    if not all(image.mask_path for image in images if image.is_anomalous):
        return Accuracy(image_auroc, math.nan, math.nan)
    pixel_auroc = float(binary_auroc(anomaly_maps.flatten(), defects.flatten().long()))
    return Accuracy(image_auroc, pixel_auroc, pointing_game(anomaly_maps[labels], defects[labels]))


def pointing_game(anomaly_maps: torch.Tensor, defects: torch.Tensor) -> float:
    """Compute the share of images in which the strongest place of the map lies in the defect, or within a patch of it.

    Args:
        anomaly_maps (torch.Tensor): Maps of anomalous images ``[N, H, W]``.
        defects (torch.Tensor): Their masks ``[N, H, W]``, bool.

    Returns:
        float: The share, 0..1.
    """
    near = max_pool2d(defects.float().unsqueeze(1), 2 * PATCH + 1, stride=1, padding=PATCH).flatten(1)
    strongest = anomaly_maps.flatten(1).argmax(dim=1, keepdim=True)
    return float(near.gather(1, strongest).mean())


def read_input(transform: Transform, image: LabeledImage) -> tuple[torch.Tensor, torch.Tensor]:
    """Read an image and its mask as anomalib does for a model: ``[3, H, W]``, normalized, and ``[H, W]``."""
    pixels = torch.from_numpy(read_photograph(image.path, upright=False)).permute(2, 0, 1) / 255
    mask = torch.zeros(pixels.shape[1:])
    if image.mask_path:
        with Image.open(image.mask_path) as file:
            mask = torch.from_numpy(np.array(file.convert("L"))) / 255
    resized, resized_mask = transform(tv_tensors.Image(pixels), tv_tensors.Mask(mask))
    return resized.as_subclass(torch.Tensor), resized_mask.as_subclass(torch.Tensor) > 0.5  # noqa: PLR2004


def batched(items: Iterable[LabeledImage], size: int) -> Iterator[list[LabeledImage]]:
    """Group items; the last group may be smaller."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def draw_unseen_categories(root: Path, images: int = 60, good: int = 0) -> dict[str, list[LabeledImage]]:
    """Draw the held-out procedural categories.

    Args:
        root (Path): Folder for them.
        images (int, optional): Number of normal and of anomalous images of each category. Defaults to ``60``.
        good (int, optional): Number of normal images to compare with. Defaults to ``0``.

    Returns:
        dict[str, list[LabeledImage]]: Test images by category.
    """
    for category in HELD_OUT_CATEGORIES:
        draw_category(root, category, train_images=good, test_images=images)
    return {category: list_images(root / category) for category in HELD_OUT_CATEGORIES}


def draw_validation_sets(root: Path, images: int = 60) -> dict[str, list[LabeledImage]]:
    """Draw validation images, of kinds that are neither trained on nor held out.

    Args:
        root (Path): Folder for them.
        images (int, optional): Number of normal and of anomalous images of each procedural category. There are twice as
            many images of each photographed texture. Defaults to ``60``.

    Returns:
        dict[str, list[LabeledImage]]: Test images by category and by photograph.
    """
    for category in VALIDATION_CATEGORIES:
        draw_category(root, category, train_images=1, test_images=images)
    for photograph in VALIDATION_PHOTOGRAPHS:
        for seed in range(2 * images):
            sample = draw_training_image(seed, VALIDATION_SIZE, [photograph], VALIDATION_DEFECTS, photographed=1.0)
            save_labeled(root / photograph.noun, seed, sample)
    names = [*VALIDATION_CATEGORIES, *(photograph.noun for photograph in VALIDATION_PHOTOGRAPHS)]
    return {name: list_images(root / name) for name in names}


def save_labeled(category: Path, number: int, sample: TrainingImage) -> None:
    """Write an image, and the mask of its defect if it has one, to a category's folder in MVTec AD's layout."""
    mask = sample.regions == DEFECT
    image_path = category / "test" / ("defect" if mask.any() else "good") / f"{number:03}.png"
    mask_path = category / "ground_truth" / "defect" / f"{number:03}_mask.png"
    for path in (image_path, mask_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample.image).save(image_path)
    if mask.any():
        Image.fromarray(mask).save(mask_path)


def variants() -> dict[str, dict[str, Any]]:
    """Return the variants of the ablation: arguments of FBClip by the name of a row."""
    without_view = {f"without {view} view": {"views": [other for other in VIEWS if other != view]} for view in VIEWS}
    without_strategy = {
        f"without {strategy} text strategy": {
            "text_strategies": {name: weight for name, weight in STRATEGY_WEIGHTS.items() if name != strategy}
        }
        for strategy in STRATEGY_WEIGHTS
    }
    return {
        **without_view,
        **without_strategy,
        "image score of the class token": {"image_score": "class_token"},
        "image score of the map": {"image_score": "map"},
        "without background suppression": {"background_suppression": False},
        "untrained adapters": {"weights": None},
    }


def images_per_second(model: FBClip, batch_size: int, repetitions: int = 9) -> float:
    """Measure the model's speed without reading and resizing images: the median of several runs."""
    images = torch.randn(batch_size, 3, *model.image_size, generator=torch.Generator().manual_seed(0))
    durations = []
    with torch.inference_mode():
        model.model(images)
        for _ in range(repetitions):
            start = time.perf_counter()
            model.model(images)
            durations.append(time.perf_counter() - start)
    return batch_size / statistics.median(durations)


def main(
    adapters: list[Path] | None = None,
    pretrained: Path | None = None,
    photographs: list[Path] | None = None,
    drawn: Literal["unseen", "validation", "none"] = "unseen",
    image_sizes: tuple[int, ...] = (224,),
    tiles: tuple[int, ...] = (1,),
    good: int = 0,
    ablation: bool = True,
    disturbances: bool = False,
) -> None:
    """Print the table of fbclip-small's model card, in Markdown.

    Args:
        adapters: Files of adapters of several seeds, of which mean and range are shown (default: the package's).
        pretrained: Weights of their CLIP (default: the package's).
        photographs: Categories in MVTec AD's layout, or folders of them.
        drawn: Drawn images: held-out kinds, validation kinds, or none.
        image_sizes: Sides of the model's input in pixels.
        tiles: Numbers of tiles per side, each measured with each size.
        good: Number of good photographs of ``train/good`` for additional rows with comparison; 0 for no such rows.
        ablation: Whether to also measure the first adapters with each part switched off.
        disturbances: Whether to also measure the first adapters on disturbed images.
    """
    files: list[str | Path] = list(adapters) if adapters else ["auto"]
    own: dict[str, Any] = {
        "backbone": NAME,
        "pretrained": pretrained,
        "weights": files[0],
        "image_size": image_sizes[0],
    }
    rows: dict[str, list[dict[str, Accuracy]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        categories = draw_sets(drawn, Path(folder), good) if drawn != "none" else {}
        drawn_names = list(categories)
        for path in photographs or ():
            folders = [path] if (path / "test").is_dir() else sorted(path.iterdir())
            found = [one for one in folders if (one / "test").is_dir()]
            categories |= {f"{one.name} (photographs)": list_images(one) for one in found}
        for size, count in product(image_sizes, tiles):
            name = f"{NAME}, {size} px" + (f", {count} x {count} tiles" if count > 1 else "")
            models = [
                FBClip(**{**own, "weights": file, "image_size": size, "tiles": count if count > 1 else None})
                for file in files
            ]
            rows[name] = [measure(model, categories) for model in models]
            if good:
                rows[f"{name}, {good} good"] = [measure(model, categories, good=good) for model in models]
        for name, arguments in variants().items() if ablation else ():
            rows[name] = [measure(FBClip(**{**own, **arguments}), categories)]
        for name, disturbance in create_disturbances().items() if disturbances else ():
            torch.manual_seed(0)
            rows[name] = [measure(FBClip(**own), categories, disturbance)]
    print(to_markdown({name: [with_mean(run, drawn_names) for run in runs] for name, runs in rows.items()}))
    for batch_size in (1, 16):
        speed = images_per_second(FBClip(**own), batch_size)
        print(f"\n{speed:.1f} images a second, batch {batch_size}, {torch.get_num_threads()} threads")


def draw_sets(drawn: str, root: Path, good: int) -> dict[str, list[LabeledImage]]:
    """Draw held-out kinds, with good images to compare with, or validation kinds."""
    return draw_unseen_categories(root, good=good) if drawn == "unseen" else draw_validation_sets(root)


def measure(
    model: FBClip,
    categories: Mapping[str, Sequence[LabeledImage]],
    disturbance: Transform | None = None,
    good: int = 0,
) -> dict[str, Accuracy]:
    """Measure a model on several categories.

    Args:
        model (FBClip): The model.
        categories (Mapping[str, Sequence[LabeledImage]]): Test images by category.
        disturbance (Transform | None, optional): Disturbance of image and mask. Defaults to ``None``.
        good (int, optional): Number of good photographs to compare with. Categories with fewer are skipped. Defaults to
            ``0``.

    Returns:
        dict[str, Accuracy]: Accuracy by category; NaN if skipped.
    """
    found = {}
    for name, images in categories.items():
        if good:
            train = images[0].path.parents[2] / "train" / "good"
            references = find_images(train)[:good] if train.is_dir() else []
            if len(references) < good:
                found[name] = Accuracy(math.nan, math.nan, math.nan)
                continue
            model.use_references(references)
        found[name] = evaluate(model, images, disturbance=disturbance)
    return found


def with_mean(run: Mapping[str, Accuracy], names: Sequence[str]) -> dict[str, Accuracy]:
    """Add the mean over categories, if there are several."""
    return {**run, "drawn, mean": mean_accuracy({name: run[name] for name in names})} if len(names) > 1 else dict(run)


def mean_accuracy(run: Mapping[str, Accuracy]) -> Accuracy:
    """Average the accuracy over categories."""
    return Accuracy(*(statistics.mean(values) for values in zip(*run.values(), strict=True)))


def to_markdown(rows: Mapping[str, Sequence[Mapping[str, Accuracy]]]) -> str:
    """Format a Markdown table of accuracies by row, seed and category."""
    categories = next(iter(rows.values()))[0].keys()
    cells = (
        [name, *(" / ".join(map(summarize, zip(*(run[c] for run in runs), strict=True))) for c in categories)]
        for name, runs in rows.items()
    )
    return "\n".join(markdown_lines(["image AUROC / pixel AUROC / pointing", *categories], cells))


def summarize(values: Sequence[float]) -> str:
    """Format the mean of several runs and, if there are several, their range; ``-`` for NaN."""
    if math.isnan(statistics.mean(values)):
        return "-"
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else mean


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
