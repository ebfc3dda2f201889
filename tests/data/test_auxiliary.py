# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The labelled test split of other datamodules as training data."""

import logging
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule, Folder, ImageBatch, MVTec3D, MVTecAD, MVTecAD2, Visa
from anomalib.engine import Engine
from anomalib.models import AnomalibModule
from anomalib.pre_processing import PreProcessor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.transforms.v2 import RandomCrop, RandomHorizontalFlip, Resize

from anomalib_fbclip.data import AuxiliaryDataModule
from layouts import HEIGHT, MASKED, WIDTH, write_category, write_image, write_mask


def read(*args, **kwargs) -> AuxiliaryDataModule:
    """Set a datamodule up, outside a trainer."""
    datamodule = AuxiliaryDataModule(*args, num_workers=0, **kwargs)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def images(dataset, root: Path) -> list[str]:
    return [Path(path).relative_to(root.resolve()).as_posix() for path in dataset.samples["image_path"]]


def order(datamodule: AuxiliaryDataModule, epochs: int = 1) -> list[list[str]]:
    loader = datamodule.train_dataloader()
    return [[path for batch in loader for path in batch.image_path] for _ in range(epochs)]


def labelled(*categories: str, defect: str = "broken") -> list[str]:
    """The test images of the datasets in conftest."""
    return sorted(
        f"{category}/test/{image}"
        for category in categories
        for image in (
            *(f"good/{index:03}.png" for index in range(3)),
            *(f"{defect}/{index:03}.png" for index in (0, 1)),
        )
    )


class TestTrainingData:
    def test_categories_of_one_source(self, mvtec):
        datamodule = read(MVTecAD(root=mvtec), categories=["bottle", "cable"])
        assert images(datamodule.train_data, mvtec) == labelled("bottle", "cable")
        assert datamodule.train_data.samples["label_index"].value_counts().to_dict() == {0: 6, 1: 4}
        assert datamodule.train_data.task == "segmentation"

    def test_category_by_its_name(self, mvtec):
        assert images(read(MVTecAD(root=mvtec), categories="cable").train_data, mvtec) == labelled("cable")

    def test_source_as_it_is(self, mvtec):
        assert images(read(MVTecAD(root=mvtec, category="cable")).train_data, mvtec) == labelled("cable")

    def test_visa(self, visa):
        datamodule = read(Visa(root=visa), categories=["candle", "pcb1"])
        assert images(datamodule.train_data, visa / "visa_pytorch") == labelled("candle", "pcb1", defect="bad")

    def test_several_sources(self, mvtec, visa):
        datamodule = read([
            MVTecAD(root=mvtec),
            MVTecAD(root=mvtec, category="cable"),
            Visa(root=visa, category="pcb1"),
        ])
        assert len(datamodule.train_data) == 15
        assert datamodule.name == "MVTecAD+Visa"
        assert not datamodule.category

    @pytest.mark.parametrize("val_split_mode", ["none", "same_as_test", "from_test", "from_train"])
    def test_is_the_whole_test_split_however_the_source_validates(self, mvtec, val_split_mode):
        datamodule = read(MVTecAD(root=mvtec, val_split_mode=val_split_mode))
        assert images(datamodule.train_data, mvtec) == labelled("bottle")

    def test_image_of_two_sources_is_taken_once(self, mvtec):
        datamodule = read([MVTecAD(root=mvtec), MVTecAD(root=mvtec)])
        assert images(datamodule.train_data, mvtec) == labelled("bottle")

    def test_sources_of_one_name(self, nuts, tmp_path):
        write_image(tmp_path / "good/0.png")
        write_image(tmp_path / "cracked/0.png")
        write_mask(tmp_path / "masks/0.png")
        arguments = {"normal_dir": "good", "normal_test_dir": "good", "abnormal_dir": "cracked", "mask_dir": "masks"}
        datamodule = read([nuts, Folder(name="nuts", root=tmp_path, **arguments)])
        assert datamodule.name == "nuts"
        assert datamodule.train_data.samples["label_index"].value_counts().to_dict() == {0: 2 + 1, 1: 3 + 1}

    def test_folder_gives_what_it_tests_on(self, nuts):
        datamodule = read(nuts)
        assert datamodule.name == "nuts"
        # Without normal test images, Folder moves a fifth of the normal images from its train to its test split.
        assert datamodule.train_data.samples["label_index"].value_counts().to_dict() == {0: 2, 1: 3}

    def test_random_split_of_a_source_follows_the_seed(self, nuts, folder):
        torch.manual_seed(0)
        first = images(read(nuts, seed=1).train_data, folder)
        torch.manual_seed(1)
        assert images(read(nuts, seed=1).train_data, folder) == first
        assert images(read(nuts, seed=2).train_data, folder) != first

    def test_normal_images_of_mvtec_ad_2(self, tmp_path):
        # MVTecAD2's `test_data` lacks them, what it tests on does not.
        root = tmp_path / "MVTec_AD_2"
        for image in ("train/good/0", "validation/good/0", "test_public/good/0", "test_public/bad/0"):
            write_image(root / "can" / f"{image}.png")
        write_mask(root / "can/test_public/ground_truth/bad/0_mask.png")
        datamodule = read(MVTecAD2(root=root), categories=["can"])
        assert images(datamodule.train_data, root) == ["can/test_public/bad/0.png", "can/test_public/good/0.png"]

    def test_no_normal_image_warns(self, tmp_path, caplog):
        write_category(tmp_path / "bottle", defect="broken", mask_suffix="_mask", normal=0)
        with caplog.at_level(logging.WARNING):
            datamodule = read(MVTecAD(root=tmp_path, test_split_mode="none"))
        assert images(datamodule.train_data, tmp_path) == ["bottle/test/broken/000.png", "bottle/test/broken/001.png"]
        assert "no normal image to train on in the test split of MVTecAD 'bottle'" in caplog.text

    def test_source_stays_as_it_was(self, mvtec):
        source = MVTecAD(root=mvtec)
        read(source, categories=["cable"], seed=3)
        assert (source.category, source.seed, hasattr(source, "test_data")) == ("bottle", None, False)

    def test_source_that_was_used_before(self, mvtec):
        source = MVTecAD(root=mvtec, num_workers=0)
        Engine(**QUIET).test(Recorder(), datamodule=source)
        assert images(read(source, categories=["cable"]).train_data, mvtec) == labelled("cable")

    def test_items(self, mvtec):
        for batch in read(MVTecAD(root=mvtec), train_batch_size=2).train_dataloader():
            assert batch.image.shape[1:] == (3, HEIGHT, WIDTH)
            assert batch.gt_label.dtype == torch.bool
            assert batch.gt_mask.dtype == torch.bool
            assert torch.equal(batch.gt_mask.sum((1, 2)), batch.gt_label * MASKED**2)

    def test_image_whose_defect_is_cropped_off_is_normal(self, mvtec):
        datamodule = read(MVTecAD(root=mvtec), train_batch_size=1, train_augmentations=RandomCrop((HEIGHT // 2, 4)))
        batches = [batch for _ in range(20) for batch in datamodule.train_dataloader()]
        broken = [batch for batch in batches if "/broken/" in batch.image_path[0]]
        assert {bool(batch.gt_label) for batch in broken} == {False, True}
        assert all(bool(batch.gt_label) == bool(batch.gt_mask.any()) for batch in batches)


class TestEvaluationData:
    def test_none(self, mvtec):
        datamodule = read(
            MVTecAD(root=mvtec),
            train_augmentations=RandomHorizontalFlip(),
            test_augmentations=Resize((8, 8)),
        )
        assert datamodule.val_dataloader() == []
        assert images(datamodule.test_data, mvtec) == images(datamodule.train_data, mvtec) == labelled("bottle")
        assert isinstance(datamodule.train_data.augmentations, RandomHorizontalFlip)
        assert isinstance(datamodule.test_data.augmentations, Resize)

    def test_held_out_part(self, mvtec):
        datamodule = read(MVTecAD(root=mvtec), categories=["bottle", "cable"], val_split_ratio=0.4)
        held_out = images(datamodule.val_data, mvtec)
        assert Counter(Path(image).parent.name for image in held_out) == {"good": 2, "broken": 1}
        assert sorted(held_out + images(datamodule.train_data, mvtec)) == labelled("bottle", "cable")
        assert images(datamodule.test_data, mvtec) == held_out
        assert sum(len(batch) for batch in datamodule.val_dataloader()) == 3
        assert sum(len(batch) for batch in datamodule.test_dataloader()) == 3

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(ratio=st.floats(0.2, 0.95), seed=st.integers(0, 2**31))
    def test_held_out_part_is_a_partition_that_the_seed_decides(self, mvtec, ratio, seed):
        def split() -> tuple[list[str], list[str]]:
            datamodule = read(MVTecAD(root=mvtec), categories=["bottle", "cable"], val_split_ratio=ratio, seed=seed)
            return images(datamodule.train_data, mvtec), images(datamodule.val_data, mvtec)

        torch.manual_seed(random.randrange(1000))
        train, held_out = split()
        assert sorted(train + held_out) == labelled("bottle", "cable")
        assert any("/broken/" in image for image in train)
        assert split() == (train, held_out)

    def test_targets(self, mvtec, visa, nuts):
        datamodule = read(MVTecAD(root=mvtec), targets=[Visa(root=visa, category="pcb1"), nuts])
        assert images(datamodule.train_data, mvtec) == labelled("bottle")
        for dataset, loader in (
            (datamodule.val_data, datamodule.val_dataloader()),
            (datamodule.test_data, datamodule.test_dataloader()),
        ):
            assert Counter(Path(path).parts[-2] for path in dataset.samples["image_path"]) == {
                "bad": 2,
                "cracked": 3,
                "good": 5,
            }
            assert sum(int(batch.gt_mask.any((1, 2)).sum()) for batch in loader) == 5
        assert datamodule.name == "MVTecAD"

    def test_target_with_categories(self, mvtec, visa):
        datamodule = read(
            MVTecAD(root=mvtec), targets=AuxiliaryDataModule(Visa(root=visa), categories=["candle", "pcb1"])
        )
        assert images(datamodule.val_data, visa / "visa_pytorch") == labelled("candle", "pcb1", defect="bad")

    def test_targets_without_masks(self, mvtec, folder):
        target = Folder(name="nuts", root=folder, normal_dir="good", abnormal_dir="cracked")
        datamodule = read(MVTecAD(root=mvtec), targets=target)
        assert datamodule.val_data.task == "classification"
        assert sum(int(batch.gt_label.sum()) for batch in datamodule.val_dataloader()) == 3


class TestOrder:
    def test_depends_on_the_seed_alone(self, mvtec):
        def epochs(seed: int) -> list[list[str]]:
            return order(read(MVTecAD(root=mvtec), categories=["bottle", "cable"], seed=seed), epochs=2)

        torch.manual_seed(0)
        first = epochs(seed=1)
        torch.manual_seed(1)
        assert epochs(seed=1) == first
        assert epochs(seed=2) != first
        assert first[0] != first[1]
        assert sorted(first[0]) == sorted(first[1])

    def test_depends_on_the_epoch_and_not_on_those_before(self, mvtec):
        datamodule = read(MVTecAD(root=mvtec), categories=["bottle", "cable"], seed=1)
        _, second = order(datamodule, epochs=2)
        loader = datamodule.train_dataloader()
        loader.sampler.set_epoch(1)  # as Lightning does
        assert [path for batch in loader for path in batch.image_path] == second

    def test_without_seed_depends_on_the_global_state(self, mvtec):
        datamodule = read(MVTecAD(root=mvtec), categories=["bottle", "cable"], seed=None)
        torch.manual_seed(0)
        first = order(datamodule)
        assert order(datamodule) != first
        torch.manual_seed(0)
        assert order(datamodule) == first


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"sources": []}, ValueError, "sources"),
            ({"sources": "MVTecAD"}, TypeError, "sources .*'MVTecAD'"),
            ({"sources": MVTecAD(), "targets": []}, ValueError, "targets"),
            ({"sources": MVTecAD(), "targets": ["Visa"]}, TypeError, "targets .*'Visa'"),
            ({"sources": MVTecAD(), "categories": []}, ValueError, "categories"),
            (
                {"sources": [MVTecAD(), Visa()], "categories": ["bottle"]},
                ValueError,
                "'bottle'.* one source.* 2",
            ),
            (
                {"sources": Folder(name="nuts", normal_dir="good"), "categories": ["bottle"]},
                ValueError,
                "nuts: .* 'category'",
            ),
            ({"sources": MVTecAD(), "val_split_ratio": 1.0}, ValueError, "below 1, but is 1.0"),
            ({"sources": MVTecAD(), "val_split_ratio": -0.1}, ValueError, "at least 0 .* but is -0.1"),
            (
                {"sources": MVTecAD(), "targets": Visa(), "val_split_ratio": 0.1},
                ValueError,
                "targets or val_split_ratio",
            ),
        ],
    )
    def test_arguments(self, arguments, error, message):
        with pytest.raises(error, match=message):
            AuxiliaryDataModule(**arguments)

    @pytest.mark.parametrize("step", ["prepare_data", "setup"])
    @pytest.mark.parametrize("argument", ["sources", "targets"])
    def test_unknown_category_before_any_download(self, mvtec, monkeypatch, step, argument):
        monkeypatch.setattr(MVTecAD, "prepare_data", lambda _: pytest.fail("nothing must be downloaded"))
        arguments = {"sources": MVTecAD(root=mvtec), argument: MVTecAD(root=mvtec, category="botle")}
        with pytest.raises(ValueError, match=r"'botle'.*bottle, cable"):
            getattr(AuxiliaryDataModule(**arguments), step)()

    def test_own_category_in_a_published_layout(self, tmp_path):
        write_category(tmp_path / "my_nut", defect="broken", mask_suffix="_mask")
        assert len(read(MVTecAD(root=tmp_path), categories=["my_nut"]).train_data) == 5

    def test_category_that_is_not_on_the_disk(self, mvtec):
        datamodule = AuxiliaryDataModule(MVTecAD(root=mvtec), categories=["bottle", "zipper"])
        with pytest.raises(ValueError, match="'zipper' cannot be read"):
            datamodule.setup()

    def test_downloads_are_left_to_sources_and_targets(self, monkeypatch):
        prepared = []
        monkeypatch.setattr(MVTecAD, "prepare_data", lambda self: prepared.append(self.category))
        monkeypatch.setattr(Visa, "prepare_data", lambda self: prepared.append(self.category))
        AuxiliaryDataModule(MVTecAD(), categories=["bottle", "cable"], targets=Visa(category="pcb1")).prepare_data()
        assert prepared == ["bottle", "cable", "pcb1"]

    def test_source_without_masks(self, mvtec, folder):
        source = Folder(name="nuts", root=folder, normal_dir="good", abnormal_dir="cracked")
        with pytest.raises(ValueError, match=r"3 of 3 .*nuts.* mask.*cracked"):
            read([MVTecAD(root=mvtec), source])

    def test_target_without_masks_beside_one_with_masks(self, mvtec, visa, folder):
        targets = [
            Visa(root=visa, category="pcb1"),
            Folder(name="nuts", root=folder, normal_dir="good", abnormal_dir="cracked"),
        ]
        with pytest.raises(ValueError, match=r"3 of 3 .*nuts.* mask"):
            read(MVTecAD(root=mvtec), targets=targets)

    def test_mvtec_without_ground_truth(self, tmp_path):
        write_category(tmp_path / "bottle", defect="broken", mask_suffix="_mask")
        (tmp_path / "bottle/ground_truth/broken/001_mask.png").unlink()
        with pytest.raises(ValueError, match="'bottle' cannot be read"):
            read(MVTecAD(root=tmp_path))

    def test_mask_file_that_is_gone(self, mvtec, monkeypatch):
        def lose_masks(self: MVTecAD, stage: str | None = None) -> None:
            setup(self, stage)
            self.test_data.samples["mask_path"] = self.test_data.samples["mask_path"].str.replace("_mask", "_lost")

        setup = MVTecAD.setup
        monkeypatch.setattr(MVTecAD, "setup", lose_masks)
        with pytest.raises(ValueError, match=r"2 of 2 mask.*'bottle'.*000_lost\.png"):
            read(MVTecAD(root=mvtec))

    def test_no_anomalous_image(self, tmp_path, mvtec):
        write_category(tmp_path / "bottle", defect="broken", mask_suffix="_mask", anomalous=0)
        with pytest.raises(ValueError, match=r"no anomalous image.*'bottle'"):
            read(MVTecAD(root=tmp_path))
        # One category without is no error.
        assert read([MVTecAD(root=tmp_path), MVTecAD(root=mvtec)]).train_data.has_anomalous

    def test_synthetic_test_split(self, mvtec):
        with pytest.raises(ValueError, match="synthetic"):
            read(MVTecAD(root=mvtec, test_split_mode="synthetic"))

    def test_images_without_label(self, tmp_path):
        root = tmp_path / "MVTec_AD_2"
        for image in ("train/good/0", "validation/good/0", "test_public/good/0", "test_private/0", "test_private/1"):
            write_image(root / "can" / f"{image}.png")
        with pytest.raises(ValueError, match=r"2 of 2 .*'can'.* label"):
            read(MVTecAD2(root=root, category="can", test_type="private"))

    def test_dataset_that_reads_its_own_items(self, tmp_path, mvtec):
        for part in ("train/good", "validation/good", "test/good", "test/hole"):
            write_image(tmp_path / "bagel" / part / "rgb/000.png")
            (tmp_path / "bagel" / part / "xyz").mkdir()
            (tmp_path / "bagel" / part / "xyz/000.tiff").touch()
            write_mask(tmp_path / "bagel" / part / "gt/000.png")
        with pytest.raises(TypeError, match=r"'bagel'.*MVTec3DDataset"):
            read([MVTecAD(root=mvtec), MVTec3D(root=tmp_path)])

    def test_ratio_that_holds_nothing_out(self, mvtec):
        with pytest.raises(ValueError, match=r"val_split_ratio=0\.01"):
            read(MVTecAD(root=mvtec), val_split_ratio=0.01)


QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "barebones": True}
SIZE = (16, 20)


class Recorder(AnomalibModule):
    """A model that learns nothing and keeps the batches that it is given."""

    def __init__(self) -> None:
        super().__init__(
            pre_processor=PreProcessor(transform=Resize(SIZE, antialias=True)),
            post_processor=False,
            evaluator=False,
            visualizer=False,
        )
        self.model = nn.Linear(1, 1)
        self.batches: dict[str, list[ImageBatch]] = {"train": [], "val": [], "test": []}

    @property
    def learning_type(self) -> LearningType:
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, int]:
        return {"max_epochs": 1, "num_sanity_val_steps": 0}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch: ImageBatch) -> torch.Tensor:
        self.batches["train"].append(batch)
        return self.model(torch.ones(1, 1)).sum()

    def validation_step(self, batch: ImageBatch) -> ImageBatch:
        self.batches["val"].append(batch)
        return batch

    def test_step(self, batch: ImageBatch) -> ImageBatch:
        self.batches["test"].append(batch)
        return batch

    def images(self, subset: str) -> int:
        return sum(len(batch) for batch in self.batches[subset])


class TestEngine:
    @pytest.fixture(autouse=True)
    def _results(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def run(self, datamodule: AnomalibDataModule) -> Recorder:
        model = Recorder()
        Engine(**QUIET).train(model, datamodule=datamodule)
        return model

    def test_without_validation(self, mvtec):
        model = self.run(AuxiliaryDataModule(MVTecAD(root=mvtec), num_workers=0))
        assert [len(batch) for batch in model.batches["train"]] == [4, 1]
        assert (model.images("val"), model.images("test")) == (0, 5)

    @pytest.mark.parametrize("validation", ["held_out", "targets"])
    def test_models_size_reaches_images_and_masks(self, mvtec, nuts, validation):
        arguments = {"held_out": {"val_split_ratio": 0.4}, "targets": {"targets": nuts}}[validation]
        model = self.run(
            AuxiliaryDataModule(
                MVTecAD(root=mvtec), ["bottle", "cable"], num_workers=0, train_batch_size=2, **arguments
            )
        )
        expected = {"held_out": (7, 3, 3), "targets": (10, 5, 5)}[validation]
        assert tuple(model.images(subset) for subset in ("train", "val", "test")) == expected
        for batch in (batch for batches in model.batches.values() for batch in batches):
            assert batch.image.shape[1:] == (3, *SIZE)
            assert batch.gt_mask.shape[1:] == SIZE
            assert batch.gt_mask.dtype == batch.gt_label.dtype == torch.bool
            assert torch.equal(batch.gt_mask.any((1, 2)), batch.gt_label)

    def test_resizes_before_collating(self, mvtec):
        datamodule = AuxiliaryDataModule(MVTecAD(root=mvtec), num_workers=0)
        self.run(datamodule)
        item = datamodule.train_data[0]
        assert (item.image.shape[1:], item.gt_mask.shape) == (SIZE, SIZE)
        assert item.gt_mask.unique().tolist() == [0, 1]

    def test_error_before_the_first_step(self, folder):
        model = Recorder()
        source = Folder(name="nuts", root=folder, normal_dir="good", abnormal_dir="cracked")
        with pytest.raises(ValueError, match="no mask"):
            Engine(**QUIET).fit(model, datamodule=AuxiliaryDataModule(source, num_workers=0))
        assert model.images("train") == 0
