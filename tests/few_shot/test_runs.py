# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Few-shot in anomalib's engine: as WinClip's ``k_shot``, and with thresholds from good photographs."""

import copy
import json
import logging
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import Folder, MVTecAD
from anomalib.engine import Engine
from anomalib.models import get_model
from PIL import Image

from anomalib_fbclip import FBClip
from anomalib_fbclip.data import AuxiliaryDataModule
from support.schema import read_schema

REFERENCES = "good photographs"


def make_engine(root: Path, **arguments: object) -> Engine:
    return Engine(default_root_dir=root, max_epochs=1, accelerator="cpu", enable_progress_bar=False, **arguments)


def make_mvtec(root: Path, **arguments: object) -> MVTecAD:
    options = {"train_batch_size": 2, "eval_batch_size": 2, "num_workers": 0, "category": "bottle"} | arguments
    return MVTecAD(root=root, **options)


def read_table(root: Path) -> list[dict]:
    path = max(root.rglob("predictions.jsonl"), key=lambda path: path.parent.name)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        jsonschema.validate(row, read_schema())
    return rows


def sources(root: Path) -> set[tuple[str, str]]:
    return {(row["threshold_source"], row["pixel_threshold_source"]) for row in read_table(root)}


def scores(model: FBClip, photographs: Path) -> list[float]:
    """Predict a folder without the engine."""
    found = []
    for path in sorted(photographs.iterdir()):
        with Image.open(path) as image, torch.no_grad():
            pixels = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32)).permute(2, 0, 1) / 255
            found.append(model.eval()(pixels.unsqueeze(0)).pred_score.item())
    return found


class TestLearningType:
    def test_with_and_without_photographs(self, arguments: dict, good: Path) -> None:
        assert FBClip(**arguments).learning_type == LearningType.ZERO_SHOT
        assert FBClip(**arguments, few_shot_source=good).learning_type == LearningType.FEW_SHOT
        assert FBClip(**arguments, k_shot=1).learning_type == LearningType.FEW_SHOT

    def test_untrained_adapters_are_to_be_trained(self, arguments: dict, good: Path) -> None:
        assert FBClip(**arguments | {"weights": None}, few_shot_source=good).learning_type == LearningType.ONE_CLASS

    def test_photographs_that_are_handed_in(self, arguments: dict, good: Path) -> None:
        model = FBClip(**arguments)
        model.use_references(sorted(good.iterdir()))
        assert model.learning_type == LearningType.FEW_SHOT
        model.forget_references()
        assert not model.model.decision.k_shot


class TestChoice:
    """Which photographs are taken."""

    def test_all_of_a_folder(self, arguments: dict, good: Path) -> None:
        model = FBClip(**arguments, few_shot_source=good)
        model.prepare_references()
        assert model.references == sorted(good.iterdir())
        assert model.model.decision.k_shot == 5

    def test_some_of_a_folder_the_same_for_a_seed(self, arguments: dict, good: Path) -> None:
        chosen = set()
        for seed in range(8):
            first, second = (FBClip(**arguments, few_shot_source=good, k_shot=2, seed=seed) for _ in range(2))
            paths = first.reference_choice.find(None)
            assert paths == second.reference_choice.find(None) == sorted(set(paths))
            assert len(paths) == 2
            assert {path.parent for path in paths} == {good}
            chosen.add(tuple(paths))
        assert len(chosen) > 2

    def test_of_the_training_split(self, tmp_path: Path, arguments: dict, mvtec: Path) -> None:
        model = FBClip(**arguments, k_shot=2)
        make_engine(tmp_path).test(model, datamodule=make_mvtec(mvtec))
        assert len(model.references) == 2
        assert {path.parent for path in model.references} == {mvtec / "bottle" / "train" / "good"}

    def test_of_another_product(self, tmp_path: Path, arguments: dict, mvtec: Path) -> None:
        model = FBClip(**arguments, k_shot=2)
        for category in ("bottle", "cable"):
            make_engine(tmp_path / category).test(model, datamodule=make_mvtec(mvtec, category=category))
            assert {path.parents[2].name for path in model.references} == {category}

    def test_they_stay_where_there_is_no_datamodule(
        self, tmp_path: Path, arguments: dict, mvtec: Path, photographs: Path
    ) -> None:
        model = FBClip(**arguments, k_shot=2)
        make_engine(tmp_path).validate(model, datamodule=make_mvtec(mvtec))
        decision, references = model.model.decision, model.references
        make_engine(tmp_path).predict(model, data_path=photographs)
        assert model.model.decision is decision
        assert model.references == references
        assert model.description()["k_shot"] == "2"

    def test_tested_images_are_left_out(self, tmp_path: Path, arguments: dict, mvtec: Path) -> None:
        """They are in both splits here, under other names in the test split."""
        shutil.copytree(mvtec / "bottle", tmp_path / "bottle")
        for name in ("000", "002"):
            shutil.copy(tmp_path / f"bottle/train/good/{name}.png", tmp_path / f"bottle/test/good/1{name}.png")
        datamodule = make_mvtec(tmp_path)
        for seed in range(4):
            paths = FBClip(**arguments, k_shot=2, seed=seed).reference_choice.find(datamodule)
            assert {path.name for path in paths} == {"001.png", "003.png"}
        assert len(FBClip(**arguments, k_shot=3).reference_choice.find(datamodule)) == 3  # two are too few

    def test_normal_images_only(self, tmp_path: Path, arguments: dict, mvtec: Path) -> None:
        """The training split of auxiliary data has anomalous ones, too."""
        datamodule = AuxiliaryDataModule(sources=make_mvtec(mvtec), categories=["bottle"], num_workers=0)
        datamodule.setup("fit")
        model = FBClip(**arguments, k_shot=4)
        assert {path.parent.name for path in model.reference_choice.find(datamodule)} == {"good"}


class TestReferencesThatAreTested:
    """One warning with their number."""

    @staticmethod
    def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
        return [record.message for record in caplog.records if "among the good ones" in record.message]

    @pytest.mark.parametrize("run", ["test", "predict"])
    def test_few_shot_source_in_the_test_split(
        self, tmp_path: Path, arguments: dict, mvtec: Path, caplog: pytest.LogCaptureFixture, run: str
    ) -> None:
        model = FBClip(**arguments, few_shot_source=mvtec / "bottle/test/good")
        getattr(make_engine(tmp_path), run)(model, datamodule=make_mvtec(mvtec))
        (warning,) = self.warnings(caplog)
        assert ": 4 of 8." in warning

    def test_data_that_holds_them(
        self, tmp_path: Path, arguments: dict, good: Path, photographs: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Each is named in its row."""
        data = Path(shutil.copytree(photographs, tmp_path / "data"))
        shutil.copy(good / "3.png", data / "again.png")
        make_engine(tmp_path / "results").predict(FBClip(**arguments, few_shot_source=good), data_path=data)
        (warning,) = self.warnings(caplog)
        assert ": 1 of 5." in warning
        same = {Path(row["path"]).name: row["same_as"] for row in read_table(tmp_path / "results")}
        assert same.pop("again.png") == (good / "3.png").as_posix()
        assert set(same.values()) == {None}

    def test_no_word_where_none_is(
        self, tmp_path: Path, arguments: dict, mvtec: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        make_engine(tmp_path).test(FBClip(**arguments, k_shot=2), datamodule=make_mvtec(mvtec))
        assert not self.warnings(caplog)


def test_gray_photographs_and_good_ones_in_color(
    tmp_path: Path, arguments: dict, good: Path, photographs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").mkdir()
    with Image.open(photographs / "0.png") as image:
        image.convert("L").save(tmp_path / "data/gray.png")
    for data in (photographs, tmp_path / "data"):
        make_engine(tmp_path / "results").predict(FBClip(**arguments, few_shot_source=good), data_path=data)
    (warning,) = [record.message for record in caplog.records if "Gray" in record.message]
    assert "in color: 1 of 1." in warning


class TestRuns:
    """What WinClip's tests do with ``k_shot``."""

    @pytest.mark.parametrize("run", ["test", "validate", "predict"])
    def test_by_name(self, tmp_path: Path, arguments: dict, good: Path, mvtec: Path, run: str) -> None:
        model = get_model("FBClip", **arguments, few_shot_source=good, k_shot=3)
        result = getattr(make_engine(tmp_path), run)(model, datamodule=make_mvtec(mvtec))
        assert len(result) == (8 // 2 if run == "predict" else 1)
        assert model.model.decision.k_shot == 3

    def test_fit_only_validates(self, tmp_path: Path, arguments: dict, good: Path, mvtec: Path) -> None:
        model = FBClip(**arguments, few_shot_source=good)
        before = copy.deepcopy(model.model.state_dict())
        make_engine(tmp_path).fit(model, datamodule=make_mvtec(mvtec))
        after = model.model.state_dict()  # with a text tower, which is loaded once it is needed
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
        assert model.model.decision.k_shot

    @pytest.mark.parametrize("maps", [["references"], ["text"], ["references", "text"]])
    def test_maps(self, tmp_path: Path, arguments: dict, good: Path, photographs: Path, maps: list[str]) -> None:
        model = FBClip(**arguments, few_shot_source=good, few_shot_maps=maps)
        make_engine(tmp_path).predict(model, data_path=photographs)
        assert list(model.model.decision.merge.spreads) == maps

    def test_predictions_do_not_depend_on_what_runs_them(
        self, tmp_path: Path, arguments: dict, good: Path, photographs: Path
    ) -> None:
        model = FBClip(**arguments, few_shot_source=good)
        make_engine(tmp_path).predict(model, data_path=photographs)
        found = [row["score"] for row in read_table(tmp_path)]
        fresh = FBClip(**arguments, few_shot_source=good)  # it has run nothing yet
        assert scores(fresh, photographs) == pytest.approx(found, abs=1e-5)
        handed_in = FBClip(**arguments)
        zero_shot = scores(handed_in, photographs)
        handed_in.use_references([Image.open(path) for path in sorted(good.iterdir())])
        assert scores(handed_in, photographs) == pytest.approx(found, abs=1e-5)
        assert zero_shot != pytest.approx(found, abs=0.05)

    def test_what_comes_of_a_run_is_of_use_outside(
        self, tmp_path: Path, arguments: dict, good: Path, mvtec: Path
    ) -> None:
        """Lightning runs tests in inference mode, whose tensors autograd does not take."""
        model = FBClip(**arguments, few_shot_source=good)
        make_engine(tmp_path).test(model, datamodule=make_mvtec(mvtec))
        assert not any(tensor.is_inference() for tensor in model.model.decision.tensors().values())
        distances = torch.rand(1, 1, 4, 4, requires_grad=True)
        model.model.decision.merge(distances, distances).sum().backward()
        assert (distances.grad > 0).all()

    def test_predictions_take_no_memory(self, tmp_path: Path, arguments: dict, good: Path, photographs: Path) -> None:
        model = FBClip(**arguments, few_shot_source=good)
        sizes = []
        for _ in range(2):
            make_engine(tmp_path).predict(model, data_path=photographs)
            sizes.append({name: tensor.shape for name, tensor in model.model.named_buffers()})
        assert sizes[0] == sizes[1]


class TestThresholds:
    def test_without_labels(self, tmp_path: Path, arguments: dict, good: Path, photographs: Path) -> None:
        model = FBClip(**arguments, few_shot_source=good)
        make_engine(tmp_path).predict(model, data_path=photographs)
        rows = read_table(tmp_path)
        assert sources(tmp_path) == {(REFERENCES, REFERENCES)}
        assert {(row["threshold"], row["pixel_threshold"]) for row in rows} == {(0.5, 0.5)}
        assert {Path(row["path"]).stem: row["verdict"] for row in rows}["defect"] == "anomalous"
        for row in rows:
            assert row["verdict"] == ("anomalous" if row["score"] > 0.5 else "normal")
        told = model.description()
        assert (told["k_shot"], told["image_threshold_source"], told["pixel_threshold_source"]) == (
            "5",
            REFERENCES,
            REFERENCES,
        )
        assert [float(told[name]) for name in ("score_threshold", "map_threshold")] == pytest.approx([0.5, 0.5])

    def test_labels_decide(self, tmp_path: Path, arguments: dict, good: Path, mvtec: Path) -> None:
        model = FBClip(**arguments, few_shot_source=good)
        make_engine(tmp_path).predict(model, datamodule=make_mvtec(mvtec, val_split_mode="same_as_test"))
        assert sources(tmp_path) == {("labels", "masks")}
        assert model.description()["image_threshold_source"] == "labels"

    def test_given_ones_override_both(
        self, tmp_path: Path, arguments: dict, good: Path, photographs: Path, mvtec: Path
    ) -> None:
        model = FBClip(**arguments, few_shot_source=good, image_threshold=0.7)
        make_engine(tmp_path / "photographs").predict(model, data_path=photographs)
        assert sources(tmp_path / "photographs") == {("given", REFERENCES)}
        assert {row["threshold"] for row in read_table(tmp_path / "photographs")} == {0.7}
        make_engine(tmp_path / "labels").predict(model, datamodule=make_mvtec(mvtec, val_split_mode="same_as_test"))
        assert sources(tmp_path / "labels") == {("given", "masks")}
        assert {row["threshold"] for row in read_table(tmp_path / "labels")} == {0.7}

    def test_those_of_other_scores_are_forgotten(
        self, tmp_path: Path, arguments: dict, good: Path, photographs: Path, mvtec: Path
    ) -> None:
        model = FBClip(**arguments)
        make_engine(tmp_path / "zero").test(model, datamodule=make_mvtec(mvtec))
        assert model.post_processor.image_threshold.isfinite()
        model.use_references(sorted(good.iterdir()))
        assert not model.post_processor.image_threshold.isfinite()
        make_engine(tmp_path / "few").predict(model, data_path=photographs)
        assert sources(tmp_path / "few") == {(REFERENCES, REFERENCES)}
        model.forget_references()
        make_engine(tmp_path / "none").predict(model, data_path=photographs)
        assert sources(tmp_path / "none") == {("default", "default")}


class TestCheckpoint:
    @pytest.fixture(scope="class")
    def checkpoint(
        self, tmp_path_factory: pytest.TempPathFactory, small_backbone: str, mvtec: Path, good: Path
    ) -> tuple[FBClip, Path]:
        """Trained with photographs asked for, with thresholds of zero-shot scores."""
        root = tmp_path_factory.mktemp("training")
        model = FBClip(small_backbone, weights=None, few_shot_source=good, k_shot=2, reference_rotations=2)
        engine = make_engine(root)
        data = AuxiliaryDataModule(sources=make_mvtec(mvtec), categories=["bottle"], num_workers=0, train_batch_size=4)
        engine.fit(model, datamodule=data)
        return model, Path(engine.best_model_path)

    def test_it_carries_no_photographs(self, checkpoint: tuple[FBClip, Path], small_backbone: str, mvtec: Path) -> None:
        state = torch.load(checkpoint[1], weights_only=True)
        assert not [name for name in state["state_dict"] if "few_shot" in name]
        assert state["hyper_parameters"]["few_shot_source"] is None
        assert state["hyper_parameters"]["k_shot"] == 0
        assert FBClip.load_from_checkpoint(checkpoint[1]).learning_type == LearningType.ZERO_SHOT

    def test_the_training_ignores_them(
        self, tmp_path: Path, checkpoint: tuple[FBClip, Path], small_backbone: str, mvtec: Path
    ) -> None:
        model = FBClip(small_backbone, weights=None)
        engine = make_engine(tmp_path)
        data = AuxiliaryDataModule(sources=make_mvtec(mvtec), categories=["bottle"], num_workers=0, train_batch_size=4)
        torch.manual_seed(0)
        engine.fit(model, datamodule=data)
        assert engine.trainer.global_step == 2
        assert model.state_dict().keys() == checkpoint[0].state_dict().keys()

    def test_without_labels(
        self, tmp_path: Path, arguments: dict, checkpoint: tuple[FBClip, Path], good: Path, photographs: Path
    ) -> None:
        model = FBClip(**arguments, few_shot_source=good)
        make_engine(tmp_path).predict(model, data_path=photographs, ckpt_path=checkpoint[1])
        assert sources(tmp_path) == {(REFERENCES, REFERENCES)}
        expected = FBClip.load_from_checkpoint(checkpoint[1])
        expected.use_references(sorted(good.iterdir()))
        found = [row["score"] for row in read_table(tmp_path)]
        assert found == pytest.approx(scores(expected, photographs), abs=1e-5)

    @pytest.mark.parametrize("run", ["test", "predict"])
    def test_a_test_without_labeled_validation_images(
        self, tmp_path: Path, arguments: dict, checkpoint: tuple[FBClip, Path], mvtec: Path, run: str
    ) -> None:
        model = FBClip(**arguments, k_shot=2)
        data = Folder(
            name="parts",
            root=mvtec / "bottle",
            normal_dir="train/good",
            normal_test_dir="test/good",
            abnormal_dir="test/hole",
            mask_dir="ground_truth/hole",
            val_split_mode="none",
            num_workers=0,
        )
        getattr(make_engine(tmp_path), run)(model, datamodule=data, ckpt_path=checkpoint[1])
        assert model.post_processor.image_threshold_source == REFERENCES
        assert not model.post_processor.image_threshold.isfinite()

    @pytest.mark.parametrize("run", ["test", "validate", "predict"])
    def test_labels_decide(
        self, tmp_path: Path, arguments: dict, checkpoint: tuple[FBClip, Path], good: Path, mvtec: Path, run: str
    ) -> None:
        thresholds = []
        for name, path in (("checkpoint", checkpoint[1]), ("model", None)):
            start = arguments if path else arguments | {"weights": None}
            model = FBClip(**start, few_shot_source=good)
            if path is None:  # the same adapters, from the same training
                model.load_state_dict(checkpoint[0].state_dict(), strict=False)
                model.source = "auxiliary"
            data = make_mvtec(mvtec, val_split_mode="same_as_test")
            getattr(make_engine(tmp_path / name), run)(model, datamodule=data, ckpt_path=path)
            assert model.post_processor.image_threshold_source == "labels"
            thresholds.append(model.post_processor.image_threshold.item())
        assert thresholds[0] == pytest.approx(thresholds[1], abs=1e-5)

    def test_photographs_that_were_handed_in_stay(
        self, tmp_path: Path, arguments: dict, checkpoint: tuple[FBClip, Path], good: Path, photographs: Path
    ) -> None:
        model = FBClip(**arguments)
        model.use_references([np.asarray(Image.open(path)) for path in sorted(good.iterdir())])
        make_engine(tmp_path).predict(model, data_path=photographs, ckpt_path=checkpoint[1])
        assert sources(tmp_path) == {(REFERENCES, REFERENCES)}
        expected = FBClip.load_from_checkpoint(checkpoint[1])
        expected.use_references(sorted(good.iterdir()))
        found = [row["score"] for row in read_table(tmp_path)]
        assert found == pytest.approx(scores(expected, photographs), abs=1e-5)

    def test_training_forgets_them(self, tmp_path: Path, small_backbone: str, good: Path, mvtec: Path) -> None:
        model = FBClip(small_backbone, weights=None)
        model.use_references(sorted(good.iterdir()))
        data = AuxiliaryDataModule(sources=make_mvtec(mvtec), categories=["bottle"], num_workers=0, train_batch_size=4)
        engine = make_engine(tmp_path)
        engine.fit(model, datamodule=data)
        assert model.model.decision is model.model.zero_shot
        make_engine(tmp_path).test(model, datamodule=make_mvtec(mvtec))  # with the adapters as they are now
        assert model.model.decision.k_shot == 5


class TestFileOfAdapters:
    @pytest.fixture(scope="class")
    def file(
        self, tmp_path_factory: pytest.TempPathFactory, small_backbone: str, small_adapters: Path, good: Path
    ) -> tuple[FBClip, Path]:
        path = tmp_path_factory.mktemp("adapters") / "with_references.safetensors"
        model = FBClip(small_backbone, weights=small_adapters, few_shot_source=good)
        model.save_adapters(path, with_references=True)
        return model, path

    def test_round_trip(
        self, tmp_path: Path, file: tuple[FBClip, Path], small_backbone: str, photographs: Path
    ) -> None:
        model = FBClip(small_backbone, weights=file[1])
        assert model.learning_type == LearningType.FEW_SHOT
        make_engine(tmp_path).predict(model, data_path=photographs)
        assert [row["score"] for row in read_table(tmp_path)] == pytest.approx(scores(file[0], photographs), abs=1e-5)
        assert sources(tmp_path) == {(REFERENCES, REFERENCES)}
        told = model.description()
        assert (told["k_shot"], told["image_threshold_source"]) == ("5", REFERENCES)

    def test_again(self, tmp_path: Path, file: tuple[FBClip, Path], small_backbone: str, photographs: Path) -> None:
        FBClip(small_backbone, weights=file[1]).save_adapters(tmp_path / "again.safetensors", with_references=True)
        again = FBClip(small_backbone, weights=tmp_path / "again.safetensors")
        assert scores(again, photographs) == pytest.approx(scores(file[0], photographs), abs=1e-6)

    def test_without_them(self, tmp_path: Path, file: tuple[FBClip, Path], small_backbone: str) -> None:
        file[0].save_adapters(tmp_path / "without.safetensors")
        model = FBClip(small_backbone, weights=tmp_path / "without.safetensors")
        assert model.learning_type == LearningType.ZERO_SHOT
        with pytest.raises(ValueError, match="no good photographs to save"):
            model.save_adapters(tmp_path / "nothing.safetensors", with_references=True)

    def test_other_photographs_than_the_files(
        self, file: tuple[FBClip, Path], small_backbone: str, good: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = FBClip(small_backbone, weights=file[1], few_shot_source=good, k_shot=2)
        assert "replace those of" in caplog.text
        model.prepare_references()
        assert model.model.decision.k_shot == 2

    def test_other_feature_layers(self, file: tuple[FBClip, Path], small_backbone: str) -> None:
        with pytest.raises(ValueError, match=r"photographs.*feature_layers") as raised:
            FBClip(small_backbone, weights=file[1], feature_layers=[4])
        assert "\n" not in str(raised.value)


class TestTorch:
    @pytest.fixture
    def model(self, arguments: dict, good: Path) -> FBClip:
        model = FBClip(**arguments)
        model.use_references(sorted(good.iterdir()))
        return model.eval()

    def test_state_dict_is_that_of_zero_shot(self, arguments: dict, model: FBClip) -> None:
        assert model.state_dict().keys() == FBClip(**arguments).state_dict().keys()

    def test_copy(self, model: FBClip, photographs: Path) -> None:
        assert scores(copy.deepcopy(model), photographs) == scores(model, photographs)

    def test_another_type(self, model: FBClip) -> None:
        image = torch.rand(1, 3, 56, 56, generator=torch.manual_seed(0))
        with torch.no_grad():
            expected = model.model(image)
            found = model.model.double()(image.double())
        assert found.anomaly_map.dtype == torch.float64
        assert torch.allclose(found.anomaly_map.float(), expected.anomaly_map, atol=1e-4)

    def test_another_device(self, model: FBClip) -> None:
        assert {buffer.device.type for buffer in model.model.decision.to("meta").buffers()} == {"meta"}

    def test_mixed_precision(self, model: FBClip) -> None:
        """What is compared is of 32 bits, though the tokens come from fewer."""
        image = torch.rand(1, 3, 56, 56, generator=torch.manual_seed(0))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            outputs = model.model.intermediate_outputs(image, model.model.text_features())
            found = model.model.decision(outputs)
        assert found.dtype == torch.float32
        full = outputs._replace(layer_tokens=[tokens.float() for tokens in outputs.layer_tokens])
        assert torch.equal(found, model.model.decision(full))

    @pytest.mark.slow
    def test_compiled(self, arguments: dict, good: Path) -> None:
        model = FBClip(**arguments, feature_layers=[4], views=["identity"]).eval()  # each map is compiled for long
        model.use_references(sorted(good.iterdir()))
        image = torch.rand(2, 3, 56, 56, generator=torch.manual_seed(0))
        with torch.no_grad():
            expected = model.model(image)
            found = torch.compile(model.model)(image)
        for name in ("pred_score", "anomaly_map"):
            assert torch.allclose(getattr(found, name), getattr(expected, name), atol=1e-4)


def test_a_defective_photograph_is_named(tmp_path: Path, arguments: dict, caplog: pytest.LogCaptureFixture) -> None:
    """Photographs of the same texture, and one with a spot of another."""
    stream = np.random.default_rng(0)
    for index in range(8):
        pixels = stream.integers(110, 130, (56, 56, 3), dtype=np.uint8)
        if index == 5:
            pixels[10:40, 10:40] = stream.integers(0, 255, (30, 30, 3))
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    model = FBClip(**arguments, few_shot_source=tmp_path)
    with caplog.at_level(logging.INFO):
        model.prepare_references()
    (warning,) = [record.getMessage() for record in caplog.records if "unlike" in record.getMessage()]
    assert warning.startswith(f"{tmp_path / '5.png'} is unlike the other good photographs")
    (told,) = [record.getMessage() for record in caplog.records if "Compared with" in record.getMessage()]
    assert "about" in told


def test_few_photographs_are_warned_of(arguments: dict, good: Path, caplog: pytest.LogCaptureFixture) -> None:
    for k_shot in (1, 3, 4):
        FBClip(**arguments, few_shot_source=good, k_shot=k_shot).prepare_references()
        assert ("at least 4" in caplog.text) == (k_shot < 4)
        caplog.clear()
