# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Categories that are found on the disk."""

from pathlib import Path

import pytest
from anomalib.data import MPDD, AnomalibDataModule, BTech, Folder, Kolektor, MVTecAD, RealIAD, Visa

from anomalib_fbclip.data import AuxiliaryDataModule, MetaJson
from anomalib_fbclip.errors import CommandError
from anomalib_fbclip.protocol.command import find_categories, name_dataset
from datasets import WRITERS


@pytest.mark.parametrize(
    ("name", "datamodule", "expected"),
    [
        ("mvtec_ad", MVTecAD, ["bottle", "cable"]),
        ("visa", Visa, ["candle", "pcb1"]),
        ("mpdd", MPDD, ["bracket_black", "tubes"]),
        ("btad", BTech, ["01", "02"]),
        ("real_iad", RealIAD, ["audiojack", "toy"]),
        ("kolektor_sdd", Kolektor, ["Kolektor"]),
        ("dagm", MetaJson, ["Class1", "Class10"]),
    ],
)
def test_datasets(tmp_path: Path, name: str, datamodule: type[AnomalibDataModule], expected: list[str]) -> None:
    WRITERS[name](tmp_path)
    assert find_categories(datamodule(root=tmp_path)) == expected
    assert find_categories(datamodule(root=tmp_path), expected[::-1]) == expected[::-1]


def test_visa_after_anomalib_sorted_it(tmp_path: Path) -> None:
    WRITERS["visa"](tmp_path)
    Visa(root=tmp_path, category="candle").prepare_data()
    assert {"candle", "pcb1"} <= set(find_categories(Visa(root=tmp_path)))


def test_folder(tmp_path: Path) -> None:
    datamodule = Folder(name="nuts", root=tmp_path, normal_dir="good")
    assert find_categories(datamodule) == ["nuts"]


@pytest.mark.parametrize(
    ("datamodule", "expected"),
    [
        (MVTecAD(root="datasets/my parts"), "my parts"),
        (MVTecAD(), "MVTecAD"),
        (Kolektor(root="datasets/cracks"), "cracks"),
        (MetaJson(root="datasets/screws"), "screws"),
        (MetaJson(root="datasets/screws", name="bolts"), "bolts"),
        (Folder(name="nuts", root="datasets/x", normal_dir="good"), "nuts"),
        (Folder(name="nuts", normal_dir="good"), "nuts"),
        (AuxiliaryDataModule(MVTecAD(root="datasets/my parts")), "MVTecAD"),
    ],
)
def test_name(datamodule: AnomalibDataModule, expected: str) -> None:
    assert name_dataset(datamodule) == expected


def test_categories_of_the_file(tmp_path: Path) -> None:
    WRITERS["dagm"](tmp_path)
    assert find_categories(MetaJson(root=tmp_path, categories="Class10")) == ["Class10"]


@pytest.mark.parametrize("datamodule", [MVTecAD, MetaJson, Kolektor])
def test_no_folder(tmp_path: Path, datamodule: type[AnomalibDataModule]) -> None:
    with pytest.raises(CommandError, match="nowhere"):
        find_categories(datamodule(root=tmp_path / "nowhere"))


def test_no_categories(tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    with pytest.raises(CommandError, match="no categories"):
        find_categories(MVTecAD(root=tmp_path))
    with pytest.raises(FileNotFoundError, match=r"meta\.json"):
        find_categories(MetaJson(root=tmp_path))


def test_unknown_category(tmp_path: Path) -> None:
    WRITERS["mpdd"](tmp_path)
    with pytest.raises(CommandError, match=r"pill.*bracket_black, tubes"):
        find_categories(MPDD(root=tmp_path), ["tubes", "pill"])
