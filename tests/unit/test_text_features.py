# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The text features for inference, which are kept, and the compiled model, which begins after them."""

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from anomalib.data import ImageBatch, PredictDataset
from anomalib.engine import Engine
from torchvision.tv_tensors import Image as TVImage

from anomalib_fbclip import FBClip, FBClipModel
from anomalib_fbclip.modeling.prompt_learner import PromptLearner
from support.images import write_mvtec_category

GRAD_MODES = {"grad": nullcontext, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


@pytest.fixture
def model(small_backbone: str) -> FBClip:
    return FBClip(small_backbone, weights=None, seed=7, feature_layers=[4], views=["identity"]).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[FBClipModel]:
    """A note of each run of the text tower."""
    calls: list[FBClipModel] = []
    encode_text = FBClipModel.encode_text
    monkeypatch.setattr(FBClipModel, "encode_text", lambda model: calls.append(model) or encode_text(model))
    return calls


@pytest.fixture(autouse=True)
def _compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_prompt_learner() -> None:
    """Its vectors begin small, and it finds the end of prompts of different lengths."""
    torch.manual_seed(0)
    learner = PromptLearner(torch.tensor([[7, 3, 9, 0], [7, 9, 0, 0]]), 512)
    for context in (learner.normal_context, learner.abnormal_context):
        assert context.std().item() == pytest.approx(0.02, rel=0.1)
        assert context.mean().item() == pytest.approx(0, abs=0.002)
    assert learner.end_positions.tolist() == [2, 1]


class TestKept:
    def test_computed_once_in_all_grad_modes(self, model: FBClip, images: torch.Tensor, encoded: list) -> None:
        for mode in (torch.inference_mode, torch.no_grad, nullcontext, torch.inference_mode):
            with mode():
                model.model(images)
        assert len(encoded) == 1

    def test_no_parameter_is_compared(
        self, model: FBClip, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model.model(images)
        # Each is a synchronization of the device, but for the one look at the scores.
        monkeypatch.setattr(torch, "equal", lambda *values: pytest.fail(f"compared {values}"))
        monkeypatch.setattr(torch.nn.Module, "parameters", lambda *call: pytest.fail(f"looked at {call}"))
        model.model(images)

    def test_of_use_outside_of_the_modes_in_which_they_are_computed(self, model: FBClip, images: torch.Tensor) -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            features = model.model.text_features()
        assert not features.is_inference()
        assert not features.requires_grad
        assert features.dtype == torch.float32
        model.model(images).anomaly_map.sum().backward()
        assert model.model.mvfbe.attention.norm.weight.grad is not None


class TestForgotten:
    def test_after_a_training_step(self, small_backbone: str, images: torch.Tensor) -> None:
        model = FBClip(small_backbone, weights=None, learning_rate=0.01)
        optimizer = model.configure_optimizers()
        mask = torch.zeros(2, 56, 56)
        mask[0, 10:20, 10:20] = 1
        before = model.model(images)
        for _ in range(2):  # and between the steps
            with pytest.warns(UserWarning, match="trainer"):
                loss = model.training_step(ImageBatch(image=images, gt_label=torch.tensor([1, 0]), gt_mask=mask))
            loss.backward()
            optimizer.step()
            after = model.model(images)
            assert not torch.allclose(before.pred_score, after.pred_score, rtol=0, atol=1e-6)
            with torch.no_grad():  # open_clip 3 takes another path with a graph
                assert torch.equal(model.model.text_features(), model.model.encode_text())
            before = after

    def test_when_other_parameters_are_loaded(self, model: FBClip, small_backbone: str, images: torch.Tensor) -> None:
        other = FBClip(small_backbone, weights=None, seed=3, feature_layers=[4], views=["identity"]).eval()
        model.model(images)
        model.load_state_dict(other.state_dict())
        assert torch.equal(model.model.text_features(), other.model.text_features())
        assert torch.equal(model.model(images).anomaly_map, other.model(images).anomaly_map)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_when_parameters_are_converted(self, model: FBClip, dtype: torch.dtype) -> None:
        before = model.model.text_features()
        network = model.model.to(dtype)
        after = network.text_features()
        assert after.dtype == network.prompt_learner.normal_context.dtype == dtype
        assert not after.is_inference()
        torch.testing.assert_close(after.double(), before.double(), atol=0.02, rtol=0)

    def test_when_a_part_is_replaced(self, model: FBClip) -> None:
        before = model.model.text_features()
        learner = model.model.prompt_learner
        model.model.prompt_learner = PromptLearner(learner.token_ids, learner.normal_context.shape[1])
        assert not torch.allclose(model.model.text_features(), before)

    def test_when_the_user_says_so(self, model: FBClip) -> None:
        before = model.model.text_features()
        model.model.prompt_learner.normal_context.data += 1
        model.model.forget_text_features()
        assert not torch.allclose(model.model.text_features(), before)

    def test_a_copy_has_its_own(self, model: FBClip) -> None:
        before = model.model.text_features()
        changed = copy.deepcopy(model)
        changed.double()
        assert changed.model.text_features().dtype == torch.float64
        assert model.model.text_features() is before


class TestCompiled:
    @pytest.mark.parametrize("mode", GRAD_MODES)
    def test_fresh_model(self, model: FBClip, images: torch.Tensor, encoded: list, mode: str) -> None:
        expected = copy.deepcopy(model).model(images)
        encoded.clear()
        graphs: list[torch.fx.GraphModule] = []
        compiled = torch.compile(model.model, backend=lambda graph, _: graphs.append(graph) or graph.forward)
        for _ in range(2):
            with GRAD_MODES[mode]():
                actual = compiled(images)
            torch.testing.assert_close(actual.anomaly_map, expected.anomaly_map, atol=1e-5, rtol=0)
            torch.testing.assert_close(actual.pred_score, expected.pred_score, atol=1e-5, rtol=0)
            assert len(graphs) == 1  # whole, and not compiled once more
        assert len(encoded) == 1

    def test_fresh_model_in_one_mode_after_the_other(self, model: FBClip, images: torch.Tensor) -> None:
        expected = copy.deepcopy(model).model(images).anomaly_map
        compiled = torch.compile(model.model, backend="aot_eager")
        for mode in (torch.inference_mode, nullcontext, torch.no_grad):
            with mode():
                torch.testing.assert_close(compiled(images).anomaly_map, expected, atol=1e-5, rtol=0)

    def test_gradients(self, model: FBClip, images: torch.Tensor) -> None:
        eager = copy.deepcopy(model).model
        eager(images).pred_score.sum().backward()
        torch.compile(model.model, backend="aot_eager")(images).pred_score.sum().backward()
        for expected, actual in zip(eager.parameters(), model.model.parameters(), strict=True):
            torch.testing.assert_close(actual.grad, expected.grad, atol=1e-5, rtol=1e-3)

    def test_a_model_that_was_used_is_one_graph(self, model: FBClip, images: torch.Tensor) -> None:
        expected = model.model(images).anomaly_map
        actual = torch.compile(model.model, backend="aot_eager", fullgraph=True)(images).anomaly_map
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)

    def test_other_parameters_after_the_compilation(
        self, model: FBClip, small_backbone: str, images: torch.Tensor
    ) -> None:
        compiled = torch.compile(model.model, backend="aot_eager")
        compiled(images)
        other = FBClip(small_backbone, weights=None, seed=3, feature_layers=[4], views=["identity"]).eval()
        model.load_state_dict(other.state_dict())
        torch.testing.assert_close(compiled(images).anomaly_map, other.model(images).anomaly_map, atol=1e-5, rtol=0)

    def test_images_of_torchvision(self, model: FBClip, images: torch.Tensor) -> None:
        expected = model.model(images).anomaly_map
        actual = torch.compile(model.model, backend="aot_eager")(TVImage(images)).anomaly_map
        assert type(actual) is torch.Tensor
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("in_place", [True, False])
    def test_in_the_engine(self, small_backbone: str, small_adapters: Path, tmp_path: Path, in_place: bool) -> None:
        category = write_mvtec_category(tmp_path / "data", "bottle", seed=1) / "bottle"

        def predict(model: FBClip) -> list[torch.Tensor]:
            engine = Engine(accelerator="cpu", default_root_dir=tmp_path / "results", logger=False)
            batches = engine.predict(model, dataset=PredictDataset(category / "test" / "good"))
            return [batch.anomaly_map for batch in batches]

        arguments = {"feature_layers": [4], "views": ["identity"]}
        expected = predict(FBClip(small_backbone, weights=small_adapters, **arguments))
        model = FBClip(small_backbone, weights=small_adapters, **arguments)
        if in_place:
            model.model.compile(backend="aot_eager")
        else:
            model.model = torch.compile(model.model, backend="aot_eager")
        torch.testing.assert_close(predict(model), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("is_strict", [True, False])
def test_in_a_program_of_torch_export_they_are_constants(
    model: FBClip, images: torch.Tensor, encoded: list, is_strict: bool
) -> None:
    expected = model.model(images)
    with torch.no_grad():
        program = torch.export.export(model.model, (images,), strict=is_strict)
    assert len(encoded) == 1
    torch.testing.assert_close(program.module()(images).anomaly_map, expected.anomaly_map, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("published_adapters_fit")
def test_compiled_before_the_published_adapters_are_loaded(
    small_backbone: str, small_adapters: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomalib_fbclip.weights.source.fetch_published", lambda *_: small_adapters)
    arguments = {"feature_layers": [4], "views": ["identity"]}
    published = FBClip(small_backbone, weights="mvtec", **arguments).eval()
    expected = FBClip(small_backbone, weights=small_adapters, **arguments).eval()
    with torch.no_grad():
        prediction = torch.compile(published.model, backend="eager")(images)
        torch.testing.assert_close(prediction.pred_score, expected.model(images).pred_score, atol=1e-5, rtol=0)
