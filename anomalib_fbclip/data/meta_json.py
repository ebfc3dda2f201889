# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Meta JSON datamodule: datasets in the ``meta.json`` layout of AnomalyCLIP and related projects.

The file ``meta.json`` in the dataset's root lists the images, with paths relative to the root::

    {
        "train": {"bottle": [{"img_path": "bottle/train/good/000.png", "mask_path": "", "anomaly": 0, ...}, ...], ...},
        "test": {
            "bottle": [
                {
                    "img_path": "bottle/test/broken_large/000.png",
                    "mask_path": "bottle/ground_truth/broken_large/000_mask.png",
                    "cls_name": "bottle",
                    "specie_name": "broken_large",
                    "anomaly": 1
                },
                ...
            ],
            ...
        }
    }
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import LabelName, Split, TestSplitMode, ValSplitMode
from pandas import DataFrame
from torchvision.transforms.v2 import Transform

logger = logging.getLogger(__name__)

_LAYOUT = '{"train" | "test": {category: [{"img_path": str, "mask_path": str, "anomaly": 0 | 1}, ...]}}'
_SPLITS = (Split.TRAIN.value, Split.TEST.value)
_LOSSY_SUFFIXES = (".jpg", ".jpeg")


class MetaJsonDataset(AnomalibDataset):
    """Images of a named dataset, in a table of :func:`make_meta_json_dataset`."""

    def __init__(self, name: str, samples: DataFrame) -> None:
        super().__init__()
        self._name = name
        self.samples = samples

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self._name


class MetaJson(AnomalibDataModule):
    """Datamodule of a dataset in the ``meta.json`` layout.

    Either split may be absent or empty. The task is segmentation if anomalous images have masks, otherwise
    classification. Every mask value above 0 is anomalous, so masks must not have lossy compression: anomalib's models
    take its artifacts for defects, and FBClip rejects such masks.

    Args:
        root (Path | str): Folder of the dataset.
        name (str | None, optional): Name of the dataset in results. Defaults to ``None``, for the folder's name.
        categories (list[str] | str | None, optional): Categories to read. Defaults to ``None``, for all.
        meta_file (str, optional): Name of the file that lists the images, in ``root``. Defaults to ``"meta.json"``.
        train_batch_size (int, optional): Batch size of the training data. Defaults to ``32``.
        eval_batch_size (int, optional): Batch size of the validation and test data. Defaults to ``32``.
        num_workers (int, optional): Number of workers of each dataloader. Defaults to ``8``.
        train_augmentations (Transform | None, optional): Augmentations of the training data. Defaults to ``None``.
        val_augmentations (Transform | None, optional): Augmentations of the validation data. Defaults to ``None``.
        test_augmentations (Transform | None, optional): Augmentations of the test data. Defaults to ``None``.
        augmentations (Transform | None, optional): Default for these three. Defaults to ``None``.
        test_split_mode (TestSplitMode | str, optional): Method to create the test set. Defaults to
            ``TestSplitMode.FROM_DIR``: the ``test`` split of the file.
        test_split_ratio (float, optional): Fraction of the training images to test on if the test split has no normal
            image. Defaults to ``0.2``.
        val_split_mode (ValSplitMode | str, optional): Method to create the validation set. Defaults to
            ``ValSplitMode.SAME_AS_TEST``.
        val_split_ratio (float, optional): Fraction of the images to validate on. Defaults to ``0.5``.
        seed (int | None, optional): Seed of the random splits. Defaults to ``None``.

    Raises:
        FileNotFoundError: At setup, if the folder, the file, an image or a mask does not exist.
        ValueError: At setup, if the file has another structure, or if a category is not in it.

    Example:
        >>> datamodule = MetaJson(root="./datasets/mvtec", categories=["bottle", "cable"])
        >>> datamodule.setup()  # doctest: +SKIP
        >>> batch = next(iter(datamodule.test_dataloader()))  # doctest: +SKIP
        >>> batch.gt_mask.shape  # doctest: +SKIP
        torch.Size([32, 900, 900])
    """

    def __init__(
        self,
        root: Path | str,
        name: str | None = None,
        categories: list[str] | str | None = None,
        meta_file: str = "meta.json",
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        self.root = Path(root)
        self._name = name or self.root.resolve().name
        self.categories = [categories] if isinstance(categories, str) else categories
        if self.categories is not None and not self.categories:
            msg = "categories is empty: name at least one, or leave it out to read all."
            raise ValueError(msg)
        self.meta_file = meta_file
        if self.categories is not None and len(self.categories) == 1:
            self.category = self.categories[0]

    @property
    def name(self) -> str:  # type: ignore[override]
        """Name of the dataset in results."""
        return self._name

    def _setup(self, _stage: str | None = None) -> None:
        self.train_data = self._read(Split.TRAIN)
        self.test_data = self._read(Split.TEST)

    def _read(self, split: Split) -> MetaJsonDataset:
        return MetaJsonDataset(self.name, make_meta_json_dataset(self.root, self.categories, self.meta_file, split))


def make_meta_json_dataset(root: Path, categories: list[str] | None, meta_file: str, split: Split) -> DataFrame:
    """Read the table of images of a split, of all categories if they are ``None``.

    It has one row for each image, with the columns ``image_path``, ``mask_path`` (empty without a mask),
    ``label_index`` (0 normal, 1 anomalous), ``category`` and ``split``. For errors, see :class:`MetaJson`.
    """
    path = root / meta_file
    meta = _read_meta(path)
    categories = _choose_categories(meta, categories, path)

    rows = [row for name in _SPLITS for category in categories for row in _read_entries(meta, name, category, path)]
    if not rows:
        msg = f"{path} has no entries for {', '.join(categories) or 'any category'}."
        raise ValueError(msg)
    samples = DataFrame(rows, columns=["image_path", "mask_path", "label_index", "category", "split"])

    anomalous = samples["label_index"] == LabelName.ABNORMAL
    masked = samples["mask_path"].ne("")
    if masked.any() and (anomalous & ~masked).any():
        msg = (
            f"{(anomalous & ~masked).sum()} of {anomalous.sum()} anomalous images in {path} have no mask_path, but the "
            f"others have one; the first is {samples.loc[anomalous & ~masked, 'image_path'].iloc[0]}."
        )
        raise ValueError(msg)

    samples = samples[samples["split"] == split.value].reset_index(drop=True)
    samples["image_path"] = [str(root / image) for image in samples["image_path"]]
    samples["mask_path"] = [str(root / mask) if mask else "" for mask in samples["mask_path"]]
    _check_files(samples, path)
    samples.attrs["task"] = "segmentation" if masked.any() else "classification"
    return samples


def _read_meta(path: Path) -> dict[str, dict[str, Any]]:
    """Read the file, and check its splits."""
    if not path.parent.is_dir():
        msg = f"The folder of the dataset does not exist: {path.parent}"
        raise FileNotFoundError(msg)
    if not path.is_file():
        msg = f"There is no file {path.name} in {path.parent}. It has to list the images of the dataset: {_LAYOUT}."
        raise FileNotFoundError(msg)
    try:
        meta = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        msg = f"{path} is not a JSON file: {error}"
        raise ValueError(msg) from error

    _check_type(meta, dict, str(path))
    if not any(name in meta for name in _SPLITS):
        msg = f"{path} has neither a 'train' nor a 'test' split. It has to be {_LAYOUT}."
        raise ValueError(msg)
    splits = {name: meta.get(name) or {} for name in _SPLITS}
    for name, split in splits.items():
        _check_type(split, dict, f"'{name}' in {path}")
    return splits


def _choose_categories(meta: dict[str, dict[str, Any]], categories: list[str] | None, path: Path) -> list[str]:
    available = list(dict.fromkeys(category for split in meta.values() for category in split))
    if categories is None:
        return available
    unknown = [category for category in categories if category not in available]
    if unknown:
        msg = f"Unknown categories {unknown}: choose from those in {path}: {', '.join(available)}."
        raise ValueError(msg)
    return list(dict.fromkeys(categories))


def _read_entries(
    meta: dict[str, dict[str, Any]], split: str, category: str, path: Path
) -> Iterator[tuple[str, str, int, str, str]]:
    """Read the rows of one category of one split."""
    entries = meta[split].get(category, [])
    where = f"'{split}' / '{category}' in {path}"
    _check_type(entries, list, where)
    for index, entry in enumerate(entries):
        place = f"entry {index} of {where}"
        _check_type(entry, dict, place)
        image, mask, anomaly = entry.get("img_path"), entry.get("mask_path") or "", entry.get("anomaly")
        _check_type(image, str, f"'img_path' in {place}")
        _check_type(mask, str, f"'mask_path' in {place}")
        if not isinstance(anomaly, int) or anomaly not in {0, 1}:
            msg = f"'anomaly' in {place} must be 0 or 1, but is {anomaly!r}."
            raise ValueError(msg)
        # Some of these files were written on Windows. The mask of a normal image is not read.
        yield image.replace("\\", "/"), mask.replace("\\", "/") if anomaly else "", int(anomaly), category, split


def _check_type(value: Any, expected: type, where: str) -> None:  # noqa: ANN401
    if not isinstance(value, expected):
        msg = f"{where} must be a {expected.__name__}, but is a {type(value).__name__}. The file has to be {_LAYOUT}."
        raise ValueError(msg)  # noqa: TRY004 - the file's content is wrong, not the type of an argument


def _check_files(samples: DataFrame, path: Path) -> None:
    for kind in ("image", "mask"):
        listed = [file for file in samples[f"{kind}_path"] if file]
        missing = [file for file in listed if not Path(file).is_file()]
        if missing:
            msg = f"{len(missing)} of {len(listed)} {kind}s listed in {path} do not exist; the first is {missing[0]}."
            raise FileNotFoundError(msg)

    lossy = [file for file in samples["mask_path"] if file.lower().endswith(_LOSSY_SUFFIXES)]
    if lossy:
        logger.warning(
            "%d masks listed in %s are JPEG files, whose compression artifacts count as anomalous: save them as PNG "
            "with 0 and 255. The first is %s.",
            len(lossy),
            path,
            lossy[0],
        )
