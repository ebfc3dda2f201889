# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The datamodules from the command line and from YAML files."""

from pathlib import Path

import pytest
import yaml
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import AnomalibDataModule, Folder, MVTecAD, Visa
from anomalib.data.datasets.image import mvtecad, visa

from anomalib_fbclip.data import AuxiliaryDataModule, MetaJson

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MODEL = ("--model", "Padim", "--model.pre_trained", "false")


@pytest.fixture(autouse=True)
def _results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def parse(*args: str, subcommand: str = "fit") -> AnomalibDataModule:
    return AnomalibCLI([subcommand, *args], run=False).datamodule


def described(datamodules: list[AnomalibDataModule]) -> list[tuple[type, str, str]]:
    return [(type(datamodule), datamodule.category, Path(datamodule.root).name) for datamodule in datamodules]


class TestAuxiliary:
    @pytest.mark.parametrize(
        ("subcommand", "name"),
        [
            ("fit", "AuxiliaryDataModule"),
            ("fit", "anomalib_fbclip.data.AuxiliaryDataModule"),
            ("test", "AuxiliaryDataModule"),
        ],
    )
    def test_categories(self, subcommand, name):
        datamodule = parse(
            *MODEL,
            *("--data", name, "--data.sources", "MVTecAD", "--data.sources.root", "photos"),
            *("--data.categories", "[bottle, cable]", "--data.val_split_ratio", "0.2", "--data.seed", "3"),
            subcommand=subcommand,
        )
        assert isinstance(datamodule, AuxiliaryDataModule)
        assert described(datamodule.sources) == [(MVTecAD, "bottle", "photos"), (MVTecAD, "cable", "photos")]
        assert (datamodule.val_split_ratio, datamodule.seed, datamodule.train_batch_size) == (0.2, 3, 4)

    def test_one_category(self):
        datamodule = parse(
            *MODEL, "--data", "AuxiliaryDataModule", "--data.sources", "Visa", "--data.categories", "pcb1"
        )
        assert described(datamodule.sources) == [(Visa, "pcb1", "visa")]

    def test_several_sources_and_a_target(self):
        datamodule = parse(
            *MODEL,
            *("--data", "AuxiliaryDataModule"),
            *("--data.sources+", "MVTecAD", "--data.sources.category", "cable"),
            *("--data.sources+", "Visa", "--data.sources.root", "v"),
            *("--data.targets", "Folder", "--data.targets.name", "nuts", "--data.targets.normal_dir", "good"),
        )
        assert described(datamodule.sources) == [(MVTecAD, "cable", "MVTecAD"), (Visa, "capsules", "v")]
        assert [(type(target), target.name) for target in datamodule.targets] == [(Folder, "nuts")]

    def test_yaml(self, tmp_path):
        config = {
            "class_path": "anomalib_fbclip.data.AuxiliaryDataModule",
            "init_args": {
                "sources": [
                    {"class_path": "anomalib.data.MVTecAD", "init_args": {"category": "cable"}},
                    {"class_path": "anomalib_fbclip.data.MetaJson", "init_args": {"root": "desk", "categories": "cup"}},
                ],
                "targets": {
                    "class_path": "anomalib_fbclip.data.AuxiliaryDataModule",
                    "init_args": {
                        "sources": {"class_path": "anomalib.data.Visa"},
                        "categories": ["pcb1", "pcb2"],
                    },
                },
            },
        }
        (tmp_path / "data.yaml").write_text(yaml.safe_dump(config))
        datamodule = parse(*MODEL, "--data", "data.yaml")
        assert datamodule.name == "MVTecAD+desk"
        assert described(datamodule.sources) == [(MVTecAD, "cable", "MVTecAD"), (MetaJson, "cup", "desk")]
        assert described(datamodule.targets[0].sources) == [(Visa, "pcb1", "visa"), (Visa, "pcb2", "visa")]


class TestMetaJson:
    @pytest.mark.parametrize(
        ("categories", "expected"),
        [((), None), (("--data.categories", "cup"), ["cup"]), (("--data.categories", "[cup, pen]"), ["cup", "pen"])],
    )
    def test_arguments(self, categories, expected):
        datamodule = parse(*MODEL, "--data", "MetaJson", "--data.root", "desk", *categories, subcommand="test")
        assert isinstance(datamodule, MetaJson)
        assert (datamodule.root, datamodule.name, datamodule.categories) == (Path("desk"), "desk", expected)


class TestConfigs:
    @pytest.mark.parametrize(
        ("name", "source", "root", "categories"),
        [
            ("train_mvtec.yaml", MVTecAD, "datasets/MVTecAD", mvtecad.CATEGORIES),
            ("train_visa.yaml", Visa, "datasets/visa", visa.CATEGORIES),
        ],
    )
    def test_training(self, name, source, root, categories):
        datamodule = parse("--config", str(CONFIGS / name), *MODEL)
        assert isinstance(datamodule, AuxiliaryDataModule)
        assert [(type(part), part.root, part.category) for part in datamodule.sources] == [
            (source, Path(root), category) for category in categories
        ]
        assert (datamodule.name, datamodule.train_batch_size, datamodule.targets) == (source.__name__, 4, [])

    def test_meta_json(self):
        datamodule = parse(*MODEL, "--data", str(CONFIGS / "data/meta_json.yaml"), subcommand="test")
        assert isinstance(datamodule, MetaJson)
        assert (datamodule.name, datamodule.categories) == ("mvtec", None)

    @pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
    def test_comments(self, path):
        """What ``test_readme.py`` runs."""
        subcommands = {"quickstart": "test", "predict": "predict", "few_shot": "predict", "export": "export"}
        subcommand = subcommands.get(path.stem, "fit")
        assert f"#   anomalib {subcommand} --config configs/{path.name}\n" in path.read_text(encoding="utf-8")
        guide = "".join(page.read_text(encoding="utf-8") for page in CONFIGS.parent.glob("docs/*.md"))
        assert f"anomalib {subcommand} --config configs/{path.name}" in guide
