# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""FBClip in anomalib's engine, as anomalib's own generic model test runs every model, and what is special to it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule, Folder, MVTecAD, PredictDataset
from anomalib.deploy import ExportType, TorchInferencer
from anomalib.engine import Engine
from anomalib.models import get_model
from PIL import Image

from anomalib_fbclip import FBClip
from anomalib_fbclip.data import AuxiliaryDataModule
from anomalib_fbclip.weights.adapters import adapter_tensors
from support.small import write_backbone


def make_engine(root: Path, **arguments: object) -> Engine:
    return Engine(default_root_dir=root, max_epochs=1, devices=1, accelerator="cpu", **arguments)


def make_mvtec(root: Path, category: str = "bottle") -> MVTecAD:
    return MVTecAD(root=root, category=category, train_batch_size=2, eval_batch_size=2, num_workers=0)


def make_auxiliary(root: Path, **arguments: object) -> AuxiliaryDataModule:
    return AuxiliaryDataModule(
        sources=make_mvtec(root),
        categories=["bottle", "cable"],
        train_batch_size=4,
        eval_batch_size=4,
        num_workers=0,
        seed=0,
        **arguments,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_backbone: str, mvtec: Path) -> tuple[FBClip, Path]:
    """A model after a training, and its checkpoint."""
    engine = make_engine(tmp_path_factory.mktemp("fit"))
    model = FBClip(backbone=small_backbone, weights=None, learning_rate=1e-3)
    engine.fit(model, datamodule=make_auxiliary(mvtec))
    return model, Path(engine.best_model_path)


class TestGenericModelTest:
    """The steps of anomalib's integration test of all models, for ``f_b_clip``."""

    @pytest.fixture(scope="class")
    def project(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("project")

    @pytest.fixture
    def parts(self, small_backbone: str, small_adapters: Path, mvtec: Path, project: Path) -> tuple:
        return self.make_parts(small_backbone, small_adapters, mvtec, project)

    @pytest.fixture(scope="class")
    def checkpoint(self, small_backbone: str, small_adapters: Path, mvtec: Path, project: Path) -> Path:
        """What ``fit`` leaves, which the other steps begin with."""
        model, datamodule, engine = self.make_parts(small_backbone, small_adapters, mvtec, project)
        engine.fit(model=model, datamodule=datamodule)
        return project / "FBClip" / "MVTecAD" / "bottle" / "v0" / "weights" / "lightning" / "model.ckpt"

    @staticmethod
    def make_parts(backbone: str, adapters: Path, mvtec: Path, project: Path) -> tuple:
        model = get_model("f_b_clip", backbone=backbone, weights=adapters)
        return model, make_mvtec(mvtec), make_engine(project)

    def test_fit(self, checkpoint: Path) -> None:
        assert checkpoint.is_file()

    def test_test(self, parts: tuple, checkpoint: Path) -> None:
        model, datamodule, engine = parts
        (results,) = engine.test(model=model, datamodule=datamodule, ckpt_path=checkpoint)
        assert {"image_AUROC", "image_AUPR", "pixel_AUROC", "pixel_AUPRO"} == results.keys()
        assert all(0 <= value <= 1 for value in results.values())

    def test_train(self, parts: tuple, checkpoint: Path) -> None:
        model, datamodule, engine = parts
        engine.train(model=model, datamodule=datamodule, ckpt_path=checkpoint)

    def test_validate(self, parts: tuple, checkpoint: Path) -> None:
        model, datamodule, engine = parts
        engine.validate(model=model, datamodule=datamodule, ckpt_path=checkpoint)

    def test_predict(self, parts: tuple, checkpoint: Path) -> None:
        model, datamodule, engine = parts
        assert engine.predict(model=model, datamodule=datamodule, ckpt_path=checkpoint)

    def test_export(
        self, parts: tuple, project: Path, checkpoint: Path, mvtec: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, _, engine = parts
        path = engine.export(model=model, ckpt_path=checkpoint, export_type=ExportType.TORCH, export_root=project)
        monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
        image = next((mvtec / "bottle" / "test" / "hole").iterdir())
        prediction = TorchInferencer(path).predict(image)
        assert 0 <= float(prediction.pred_score) <= 1
        assert prediction.anomaly_map.shape[-2:] == (56, 56)


def test_zero_shot_test_fits_thresholds(tmp_path: Path, small_backbone: str, small_adapters: Path, mvtec: Path) -> None:
    model = FBClip(backbone=small_backbone, weights=small_adapters)
    make_engine(tmp_path).test(model, datamodule=make_mvtec(mvtec))
    assert model.post_processor.image_threshold.isfinite()
    assert model.post_processor.pixel_min.isfinite()


def test_predict_without_any_labels(
    tmp_path: Path,
    small_backbone: str,
    small_adapters: Path,
    mvtec: Path,
) -> None:
    model = FBClip(backbone=small_backbone, weights=small_adapters)
    folder = mvtec / "bottle" / "test" / "hole"
    predictions = make_engine(tmp_path).predict(model, data_path=folder)
    assert len(predictions) == 4
    for prediction in predictions:
        expected = model.model(model.pre_processor.transform(PredictDataset(prediction.image_path[0])[0].image[None]))
        torch.testing.assert_close(prediction.pred_score, expected.pred_score)
        assert bool(prediction.pred_label) == bool(expected.pred_score > 0.5)
        torch.testing.assert_close(prediction.anomaly_map, expected.anomaly_map)
    heatmaps = list(tmp_path.rglob("images/**/*.png"))
    assert len(heatmaps) == 4


@pytest.mark.parametrize(
    ("mode", "size"),
    [("L", (40, 30)), ("RGBA", (40, 30)), ("I;16", (40, 30)), ("RGB", (50, 14)), ("RGB", (900, 20))],
)
def test_predict_unusual_images(
    tmp_path: Path,
    small_backbone: str,
    small_adapters: Path,
    mode: str,
    size: tuple[int, int],
) -> None:
    color = {"L": 200, "I;16": 200 * 257}.get(mode, (200,) * len(mode))
    Image.new(mode, size, color).save(tmp_path / "image.png")
    model = FBClip(backbone=small_backbone, weights=small_adapters)
    (prediction,) = make_engine(tmp_path / "results").predict(model, data_path=tmp_path / "image.png")
    assert prediction.pred_score.isfinite().all()


def test_mixed_precision(tmp_path: Path, small_backbone: str, mvtec: Path) -> None:
    model = FBClip(backbone=small_backbone, weights=None, learning_rate=1e-3)
    make_engine(tmp_path, precision="bf16-mixed").fit(model, datamodule=make_auxiliary(mvtec))
    folder = mvtec / "bottle" / "test" / "hole"
    predictions = [
        make_engine(tmp_path / precision, precision=precision).predict(model, data_path=folder)
        for precision in ("bf16-mixed", "32-true")
    ]
    for mixed, single in zip(*predictions, strict=True):
        torch.testing.assert_close(mixed.anomaly_map.float(), single.anomaly_map, atol=0.05, rtol=0)


class TestTraining:
    """The adapters are trained on labelled images of another dataset."""

    def test_it_learns(self, trained: tuple[FBClip, Path], small_backbone: str) -> None:
        model, _ = trained
        untrained = FBClip(backbone=small_backbone, weights=None)
        before = adapter_tensors(untrained.model)
        moved = {name for name, tensor in adapter_tensors(model.model).items() if not torch.equal(tensor, before[name])}
        # Moving all logits of a softmax together changes nothing, so the last bias of the selector has no gradient
        # but rounding errors.
        assert moved >= before.keys() - {"text_fusion.strategies.attention.selector.2.bias"}
        untrained.model.backbone.load_text_tower()  # training needs it, inference doesn't
        frozen = untrained.model.backbone.state_dict()
        assert all(torch.equal(tensor, frozen[name]) for name, tensor in model.model.backbone.state_dict().items())
        assert not any(parameter.grad is not None for parameter in model.model.backbone.parameters())

    def test_it_is_zero_shot_afterwards(self, trained: tuple[FBClip, Path]) -> None:
        model, _ = trained
        assert model.learning_type == LearningType.ZERO_SHOT
        assert model.source == "MVTecAD"

    def test_losses_and_learning_rate_are_logged(self, tmp_path: Path, small_backbone: str, mvtec: Path) -> None:
        engine = make_engine(tmp_path, log_every_n_steps=1)
        engine.fit(FBClip(backbone=small_backbone, weights=None), datamodule=make_auxiliary(mvtec))
        parts = {"image_focal", "pixel_focal", "pixel_dice", "consistency"}
        logged = engine.trainer.logged_metrics
        assert {"train_loss_epoch", "learning_rate"} | {f"train_loss_{part}_step" for part in parts} <= logged.keys()
        assert float(logged["learning_rate"]) == pytest.approx(5e-5)
        total = sum(logged[f"train_loss_{part}_epoch"] for part in parts)
        torch.testing.assert_close(logged["train_loss_epoch"], total)

    def test_same_seed_same_adapters(self, tmp_path: Path, small_backbone: str, mvtec: Path) -> None:
        results = []
        for run in range(2):
            torch.manual_seed(run)
            model = FBClip(backbone=small_backbone, weights=None)
            make_engine(tmp_path / str(run)).fit(model, datamodule=make_auxiliary(mvtec))
            results.append(adapter_tensors(model.model))
        assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])

    def test_data_without_anomalous_images(self, tmp_path: Path, small_backbone: str, mvtec: Path) -> None:
        """A target's own training split is normal images only."""
        model = FBClip(backbone=small_backbone, weights=None)
        with pytest.raises(ValueError, match="AuxiliaryDataModule"):
            make_engine(tmp_path).fit(model, datamodule=make_mvtec(mvtec))

    def test_validation_on_a_target(self, tmp_path: Path, small_backbone: str, mvtec: Path) -> None:
        model = FBClip(backbone=small_backbone, weights=None)
        datamodule = AuxiliaryDataModule(
            sources=make_mvtec(mvtec),
            targets=make_mvtec(mvtec, "cable"),
            train_batch_size=4,
            eval_batch_size=4,
            num_workers=0,
        )
        make_engine(tmp_path).fit(model, datamodule=datamodule)
        assert model.post_processor.image_threshold.isfinite()


class TestCheckpoint:
    """It holds the adapters only."""

    def test_content(self, trained: tuple[FBClip, Path]) -> None:
        model, path = trained
        checkpoint = torch.load(path, weights_only=True)
        adapters = {f"model.{name}" for name in adapter_tensors(model.model)}
        others = set(checkpoint["state_dict"]) - adapters
        assert all(name.startswith("post_processor.") for name in others)
        assert adapters <= set(checkpoint["state_dict"])
        assert checkpoint["fbclip"]["source"] == "MVTecAD"
        averages = [value for state in checkpoint["optimizer_states"][0]["state"].values() for value in state.values()]
        assert {average.dtype for average in averages if average.ndim} == {torch.bfloat16}

    def test_saving_leaves_the_training_as_it_is(self, trained: tuple[FBClip, Path]) -> None:
        (state, *_) = trained[0].optimizers(use_pl_optimizer=False).state.values()
        assert state["exp_avg"].dtype == torch.float32

    def test_load_from_checkpoint(self, trained: tuple[FBClip, Path]) -> None:
        model, path = trained
        loaded = FBClip.load_from_checkpoint(path)
        assert loaded.learning_type == LearningType.ZERO_SHOT
        images = torch.randn(1, 3, 56, 56)
        assert torch.equal(loaded.model(images).anomaly_map, model.model(images).anomaly_map)

    @pytest.mark.usefixtures("published_adapters_fit")
    @pytest.mark.parametrize("weights", ["auto", "mvtec", None])
    def test_nothing_is_fetched(
        self,
        tmp_path: Path,
        trained: tuple[FBClip, Path],
        small_backbone: str,
        mvtec: Path,
        monkeypatch: pytest.MonkeyPatch,
        weights: str | None,
    ) -> None:
        def fail(*args: object) -> None:
            raise AssertionError(args)

        monkeypatch.setattr("anomalib_fbclip.weights.source.fetch_published", fail)
        model = FBClip(backbone=small_backbone, weights=weights)
        engine = make_engine(tmp_path)
        engine.test(model, datamodule=make_mvtec(mvtec), ckpt_path=trained[1])
        engine.predict(model, datamodule=make_mvtec(mvtec), ckpt_path=trained[1])
        expected = adapter_tensors(trained[0].model)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in adapter_tensors(model.model).items())

    def test_resume(self, tmp_path: Path, trained: tuple[FBClip, Path], small_backbone: str, mvtec: Path) -> None:
        model = FBClip(backbone=small_backbone, weights=None, learning_rate=1e-3)
        engine = Engine(default_root_dir=tmp_path, max_epochs=2, devices=1, accelerator="cpu")
        engine.fit(model, datamodule=make_auxiliary(mvtec), ckpt_path=trained[1])
        assert engine.trainer.current_epoch == 2
        assert Path(engine.best_model_path).is_file()
        (state, *_) = engine.trainer.optimizers[0].state.values()
        assert state["exp_avg"].dtype == torch.float32
        assert int(state["step"]) == 8

    def test_a_resumed_training_ends_as_an_uninterrupted_one(
        self, tmp_path: Path, small_backbone: str, mvtec: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """But for the rounding of Adam's averages, which a checkpoint holds in 16 bits."""
        monkeypatch.setattr("anomalib_fbclip.lightning.saving.halve_averages", lambda state: state)

        def train(name: str, epochs: int, checkpoint: str | None = None) -> tuple[FBClip, str]:
            model = FBClip(backbone=small_backbone, weights=None, learning_rate=1e-3)
            engine = Engine(default_root_dir=tmp_path / name, max_epochs=epochs, accelerator="cpu", logger=False)
            engine.fit(model, datamodule=make_auxiliary(mvtec), ckpt_path=checkpoint)
            return model, engine.best_model_path

        whole, _ = train("whole", epochs=2)
        resumed, _ = train("resumed", epochs=2, checkpoint=train("begun", epochs=1)[1])
        expected = adapter_tensors(whole.model)
        for name, tensor in adapter_tensors(resumed.model).items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)

    def test_of_another_backbone(self, tmp_path: Path, trained: tuple[FBClip, Path], mvtec: Path) -> None:
        model = FBClip(backbone=write_backbone(tmp_path, "fbclip-test-other"), weights=None)
        with pytest.raises(ValueError, match=r"fbclip-test-small.*fbclip-test-other"):
            make_engine(tmp_path).test(model, datamodule=make_mvtec(mvtec), ckpt_path=trained[1])

    def test_of_another_model(
        self,
        tmp_path: Path,
        trained: tuple[FBClip, Path],
        small_backbone: str,
        mvtec: Path,
    ) -> None:
        checkpoint = torch.load(trained[1], weights_only=True)
        del checkpoint["fbclip"]
        torch.save(checkpoint, tmp_path / "other.ckpt")
        with pytest.raises(ValueError, match="not one of FBClip"):
            make_engine(tmp_path).test(
                FBClip(backbone=small_backbone, weights=None),
                datamodule=make_mvtec(mvtec),
                ckpt_path=tmp_path / "other.ckpt",
            )


class TestWarnings:
    """What is not zero-shot, or not trained, is said."""

    @pytest.fixture
    def said_by_test(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Callable[..., str]:
        """Test a model, and give what was logged."""

        def run(model: FBClip, datamodule: AnomalibDataModule) -> str:
            make_engine(tmp_path).test(model, datamodule=datamodule)
            return caplog.text

        return run

    def test_tested_on_what_it_was_trained_on(
        self, said_by_test: Callable[..., str], trained: tuple[FBClip, Path], mvtec: Path
    ) -> None:
        said = said_by_test(trained[0], make_mvtec(mvtec))
        assert "trained on MVTecAD, which is now tested: the result is not zero-shot" in said

    def test_tested_on_another_dataset(
        self, said_by_test: Callable[..., str], trained: tuple[FBClip, Path], mvtec: Path
    ) -> None:
        assert "zero-shot" not in said_by_test(trained[0], make_folder(mvtec, "parts"))

    def test_tested_on_the_targets_of_a_training(
        self, said_by_test: Callable[..., str], trained: tuple[FBClip, Path], mvtec: Path
    ) -> None:
        datamodule = make_auxiliary(mvtec, targets=make_folder(mvtec, "parts"))
        assert "not zero-shot" not in said_by_test(trained[0], datamodule)

    def test_untrained(self, said_by_test: Callable[..., str], small_backbone: str, mvtec: Path) -> None:
        said = said_by_test(FBClip(backbone=small_backbone, weights=None), make_mvtec(mvtec))
        assert "The adapters are untrained (weights=None)" in said

    def test_fit_with_trained_adapters(
        self,
        tmp_path: Path,
        small_backbone: str,
        small_adapters: Path,
        mvtec: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A zero-shot model is not trained by 'fit', which is not what auxiliary data is for."""
        model = FBClip(backbone=small_backbone, weights=small_adapters)
        make_engine(tmp_path).fit(model, datamodule=make_auxiliary(mvtec, val_split_ratio=0.5))
        assert "trained already, so 'fit' does not train them on MVTecAD: to do so, set weights to null" in caplog.text


def make_folder(root: Path, name: str) -> Folder:
    return Folder(
        name=name,
        root=root / "bottle",
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir="test/hole",
        mask_dir="ground_truth/hole",
        train_batch_size=2,
        eval_batch_size=2,
        num_workers=0,
    )


@pytest.mark.usefixtures("published_adapters_fit")
@pytest.mark.parametrize(("name", "expected"), [("MVTecAD", "visa"), ("mvtec", "visa"), ("parts", "mvtec")])
def test_auto_is_the_papers_protocol(
    tmp_path: Path,
    small_backbone: str,
    small_adapters: Path,
    mvtec: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    expected: str,
) -> None:
    """Adapters of VisA test MVTec AD, and those of MVTec AD test all else."""
    asked = []
    monkeypatch.setattr(
        "anomalib_fbclip.weights.source.fetch_published",
        lambda name, folder: asked.append(name) or small_adapters,
    )
    datamodule = make_mvtec(mvtec) if name == "MVTecAD" else make_folder(mvtec, name)
    make_engine(tmp_path).test(FBClip(backbone=small_backbone), datamodule=datamodule)
    assert asked == [expected]
