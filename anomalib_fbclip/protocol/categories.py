# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The name and the categories of a dataset."""

import inspect
from collections.abc import Sequence
from pathlib import Path

from anomalib.data import AnomalibDataModule
from anomalib.data.utils import Split

from anomalib_fbclip.data import MetaJson
from anomalib_fbclip.data.labeled_samples import published_categories
from anomalib_fbclip.data.meta_json import make_meta_json_dataset
from anomalib_fbclip.errors import ProtocolError


def argument_of_category(datamodule: type[AnomalibDataModule]) -> str | None:
    """Name the argument by which a datamodule chooses a category; ``None`` if it has no categories."""
    parameters = inspect.signature(datamodule).parameters
    return next((name for name in ("category", "categories") if name in parameters), None)


def name_dataset(datamodule: AnomalibDataModule) -> str:
    """Name the dataset that a datamodule reads, and not the layout in which it lies.

    Args:
        datamodule (AnomalibDataModule): Datamodule of any category of the dataset.

    Returns:
        str: The name that the datamodule was given, or else that of the dataset's folder.
    """
    root = getattr(datamodule, "root", None)
    if root is None or "name" in inspect.signature(type(datamodule)).parameters:
        return datamodule.name
    return Path(root).resolve().name


def find_categories(datamodule: AnomalibDataModule, chosen: Sequence[str] | None = None) -> list[str]:
    """Find the categories of a dataset on the disk.

    Args:
        datamodule (AnomalibDataModule): Datamodule of any category of the dataset.
        chosen (Sequence[str] | None, optional): Those of them to take.
            Defaults to ``None``: all.

    Returns:
        list[str]: Names of the categories; the dataset's own name where it has none.

    Raises:
        ProtocolError: If the folder of the dataset does not exist, has no categories, or not those that are chosen.
    """
    root = Path(getattr(datamodule, "root", None) or ".")
    if not root.is_dir():
        msg = f"The folder of the dataset does not exist: {root}. Give another --data.root"
        raise ProtocolError(msg)
    if isinstance(datamodule, MetaJson):
        found = _listed_categories(datamodule)
    elif argument_of_category(type(datamodule)):
        found = _folders_of_categories(datamodule, root)
    else:
        found = [datamodule.name]
    if not found:
        msg = f"There are no categories of {datamodule.name} in {root}. Give another --data.root"
        raise ProtocolError(msg)
    if unknown := [name for name in chosen or () if name not in found]:
        msg = f"{datamodule.name} has no category {', '.join(unknown)} in {root}. Found: {', '.join(found)}"
        raise ProtocolError(msg)
    return list(dict.fromkeys(chosen)) if chosen else found


def _listed_categories(datamodule: MetaJson) -> list[str]:
    try:
        samples = make_meta_json_dataset(
            datamodule.root,
            categories=datamodule.categories,
            meta_file=datamodule.meta_file,
            split=Split.TEST,
        )
    except (OSError, ValueError) as error:
        raise ProtocolError(str(error)) from error
    return list(samples["category"].unique())


def _folders_of_categories(datamodule: AnomalibDataModule, root: Path) -> list[str]:
    published = published_categories(datamodule)
    # VisA's and Real-IAD's lie in a folder of their own below the root.
    folders = [path for pattern in ("*", "*/*") for path in root.glob(pattern) if path.is_dir()]
    return sorted({path.name for path in folders if path.name in published or (path / "test").is_dir()})
