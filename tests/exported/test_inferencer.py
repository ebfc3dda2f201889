# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Predictions of small graphs, whose results are known, and of the exported fbclip-small."""

import math
import pickle
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from anomalib.deploy import OpenVINOInferencer
from PIL import Image

from anomalib_fbclip.errors import last_line
from anomalib_fbclip.exported import EdgeError, EdgeInferencer, ImageError, Prediction, read_image
from anomalib_fbclip.exported.runtimes import openvino_core
from support.graphs import EXACT, only_of_width, write_graph
from support.photographs import store

METADATA = {"backbone": "fbclip-small", "image_size": "[128, 128]", "version": "0.1.0"}


@pytest.fixture(params=["OpenVINO .xml", "OpenVINO .onnx", "ONNX Runtime"])
def model_name(request: pytest.FixtureRequest) -> str:
    """A file's name, for each way to run it."""
    if request.param == "ONNX Runtime":
        request.getfixturevalue("without_openvino")
    return "model.xml" if request.param == "OpenVINO .xml" else "model.onnx"


def image(value: int = 51, height: int = 6, width: int = 8, spot: int = 204) -> np.ndarray:
    """A grey image with a spot."""
    pixels = np.full((height, width, 3), value, dtype=np.uint8)
    pixels[2, 3] = spot
    return pixels


def frames(number: int) -> Iterator[np.ndarray]:
    """Images whose scores rise; early ones are large and take longer than those that come after them."""
    for index in range(number):
        side = 600 if index % 3 == 0 else 10
        yield image(0, side, side, spot=10 * index)


def check_one_line(error: Exception) -> None:
    assert str(error)
    assert "\n" not in str(error)


class TestPrediction:
    def test_what_it_holds(self, tmp_path: Path, model_name: str) -> None:
        prediction = EdgeInferencer(write_graph(tmp_path / model_name)).predict(image())
        assert isinstance(prediction, Prediction)
        assert prediction.score == pytest.approx(0.8)
        assert prediction.is_anomalous is True
        assert prediction.anomaly_map.dtype == np.float32
        assert prediction.anomaly_map == pytest.approx(image().mean(axis=2) / 255)
        assert prediction.mask.dtype == bool
        assert np.argwhere(prediction.mask).tolist() == [[2, 3]]
        assert np.array_equal(prediction.image, image())
        assert prediction.path is None
        assert prediction.seconds > 0

    def test_a_file(self, tmp_path: Path, model_name: str) -> None:
        path = tmp_path / "image.png"
        Image.fromarray(image()).save(path)
        inferencer = EdgeInferencer(str(write_graph(tmp_path / model_name)))
        for source in (path, str(path)):
            prediction = inferencer.predict(source)
            assert prediction.path == path
            assert prediction.score == pytest.approx(0.8)

    def test_results_are_kept_when_others_are_computed(self, tmp_path: Path, model_name: str) -> None:
        inferencer = EdgeInferencer(write_graph(tmp_path / model_name))
        first = inferencer.predict(image())
        inferencer.predict(image(0, spot=0))
        assert first.anomaly_map.max() == pytest.approx(0.8)
        assert first.mask.sum() == 1

    @pytest.mark.parametrize(("threshold", "is_anomalous"), [(0.4, True), (0.7999, True), (0.8001, False)])
    def test_threshold(self, tmp_path: Path, threshold: float, is_anomalous: bool) -> None:
        prediction = EdgeInferencer(write_graph(tmp_path / "model.xml"), threshold=threshold).predict(image())
        assert prediction.is_anomalous is is_anomalous
        assert prediction.mask.sum() == is_anomalous

    def test_pixel_threshold(self, tmp_path: Path) -> None:
        prediction = EdgeInferencer(write_graph(tmp_path / "model.xml"), pixel_threshold=0.1).predict(image())
        assert prediction.mask.all()
        assert prediction.is_anomalous is True
        assert prediction.regions == [((0, 0, 8, 6), 48)]

    @pytest.mark.parametrize("settings", [{}, {"threshold": 0.9, "pixel_threshold": 0.1, "white_level": 4095}])
    def test_it_travels_to_other_processes(
        self, tmp_path: Path, model_name: str, settings: dict, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_graph(tmp_path / model_name, metadata=METADATA)
        sent = EdgeInferencer(model_name, "CPU", performance_hint="THROUGHPUT", precision="default", **settings)
        pickled = pickle.dumps(sent)
        monkeypatch.chdir("/")
        arrived = pickle.loads(pickled)
        assert (arrived.runtime, arrived.parallel_requests) == (sent.runtime, sent.parallel_requests)
        assert (arrived.metadata, arrived.white_level) == (sent.metadata, sent.white_level)
        assert arrived.decision_thresholds() == sent.decision_thresholds()
        for spot in 0, 100, 204, 250:
            expected, prediction = sent.predict(image(spot=spot)), arrived.predict(image(spot=spot))
            assert (prediction.score, prediction.is_anomalous) == (expected.score, expected.is_anomalous)
            assert np.array_equal(prediction.mask, expected.mask)

    @pytest.mark.parametrize("pixel_threshold", [None, 0.0, 0.3, 0.9, 1.0])
    @pytest.mark.parametrize("threshold", [None, 0.0, 0.3, 0.9, 1.0])
    @pytest.mark.parametrize("named", [None, "0.9", "0.1"])
    def test_verdict_and_mask_agree(
        self, tmp_path: Path, named: str | None, threshold: float | None, pixel_threshold: float | None
    ) -> None:
        metadata = {} if named is None else {"map_threshold": named}
        model = write_graph(tmp_path / "model.xml", metadata=metadata)
        inferencer = EdgeInferencer(model, threshold=threshold, pixel_threshold=pixel_threshold)
        for pixels in (image(), image(spot=51), image(value=204)):
            prediction = inferencer.predict(pixels)
            assert bool(prediction.regions) is bool(prediction.mask.any()) is prediction.is_anomalous
            used = pixel_threshold if pixel_threshold is not None else float(named or 0.5)
            above = prediction.anomaly_map > used
            if prediction.is_anomalous and above.any():
                assert np.array_equal(prediction.mask, above)
            elif prediction.is_anomalous:
                assert prediction.mask[np.unravel_index(prediction.anomaly_map.argmax(), above.shape)]

    def test_the_mask_is_at_the_threshold_that_the_file_names(self, tmp_path: Path) -> None:
        """The graph's own mask, at 0.5, has one place."""
        model = write_graph(tmp_path / "model.xml", metadata={"map_threshold": "0.1"})
        assert EdgeInferencer(model).predict(image()).mask.all()

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_boxes_are_in_the_upright_photograph(self, tmp_path: Path, orientation: int) -> None:
        upright = image(height=12, width=20)
        upright[2:4, 3:9] = 204
        stored, exif = store(upright, orientation)
        path = tmp_path / "image.png"
        stored.save(path, exif=exif)
        inferencer = EdgeInferencer(write_graph(tmp_path / "model.xml"))
        for source in (path, Image.open(path)):
            prediction = inferencer.predict(source)
            assert prediction.regions == [((3, 2, 9, 4), 12)]
            assert np.array_equal(prediction.image, upright)

    def test_16_bits(self, tmp_path: Path) -> None:
        path = tmp_path / "image.png"
        Image.fromarray(image()[..., 0].astype(np.uint16) * 257).save(path)
        prediction = EdgeInferencer(write_graph(tmp_path / "model.xml")).predict(path)
        assert prediction.score == pytest.approx(0.8)
        assert np.array_equal(prediction.image, image())

    @pytest.mark.parametrize("patch", ["6", "[6, 5]"])
    def test_images_smaller_than_a_patch_are_refused(self, tmp_path: Path, model_name: str, patch: str) -> None:
        inferencer = EdgeInferencer(write_graph(tmp_path / model_name, metadata={"patch_size": patch}))
        path = tmp_path / "image.png"
        Image.fromarray(image(height=5)).save(path)
        assert inferencer.predict(image()).score == pytest.approx(0.8)
        for source, name in ((path, str(path)), (Image.open(path), str(path)), (image(height=5), "The image")):
            with pytest.raises(ImageError, match="each side needs 6 or more") as error:
                inferencer.predict(source)
            assert str(error.value).startswith(f"{name} has 8 x 5 pixels")

    def test_a_score_at_the_threshold_is_normal_as_in_anomalib(self, tmp_path: Path) -> None:
        score = EdgeInferencer(write_graph(tmp_path / "model.xml")).predict(image()).score
        assert (
            EdgeInferencer(write_graph(tmp_path / "model.xml"), threshold=score).predict(image()).is_anomalous is False
        )

    @pytest.mark.parametrize("threshold", [math.nan, math.inf, -math.inf, 1.5, -0.1])
    @pytest.mark.parametrize("name", ["threshold", "pixel_threshold"])
    def test_a_threshold_is_in_the_range_of_the_scores(self, tmp_path: Path, name: str, threshold: float) -> None:
        with pytest.raises(ValueError, match=rf"^{name}.*{threshold}"):
            EdgeInferencer(write_graph(tmp_path / "model.xml"), **{name: threshold})

    def test_sources_of_the_thresholds(self, tmp_path: Path) -> None:
        thresholds = {"score_threshold": "0.5", "map_threshold": "0.25"}
        sources = {"image_threshold_source": "labels", "pixel_threshold_source": "normal images"}
        silent = write_graph(tmp_path / "silent.xml")
        named = write_graph(tmp_path / "named.xml", metadata=thresholds)
        explained = write_graph(tmp_path / "explained.xml", metadata=thresholds | sources)
        assert EdgeInferencer(silent).threshold_sources() == (None, None)
        assert EdgeInferencer(silent, threshold=0.0).threshold_sources() == ("given", None)
        assert EdgeInferencer(named).threshold_sources() == ("exported file", "exported file")
        assert EdgeInferencer(explained).threshold_sources() == ("labels", "normal images")
        assert EdgeInferencer(explained, pixel_threshold=0.5).threshold_sources() == ("labels", "given")

    def test_outputs_with_a_channel(self, tmp_path: Path, model_name: str) -> None:
        path = write_graph(
            tmp_path / model_name, ("keepdims = 0", "keepdims = 1"), ("[n]", "[n, 1, 1, 1]"), ("[n,", "[n, 1,")
        )
        prediction = EdgeInferencer(path).predict(image())
        assert prediction.score == pytest.approx(0.8)
        assert prediction.anomaly_map.shape == prediction.mask.shape == (6, 8)

    def test_a_fixed_input_size(self, tmp_path: Path, model_name: str) -> None:
        path = write_graph(tmp_path / model_name, ("batch, 3, height, width", "1, 3, 12, 16"))
        prediction = EdgeInferencer(path).predict(image(51, spot=51))
        assert prediction.anomaly_map.shape == (12, 16)
        assert prediction.image.shape == (6, 8, 3)
        assert prediction.score == pytest.approx(0.2)

    def test_wrong_shapes_are_refused(self, tmp_path: Path, model_name: str) -> None:
        path = write_graph(tmp_path / model_name, only_of_width(8))
        with pytest.raises(EdgeError, match=r"pred_score has shape \[2\]") as error:
            EdgeInferencer(path).predict(image(height=16))
        check_one_line(error.value)

    def test_what_is_no_number_is_refused(self, tmp_path: Path, model_name: str) -> None:
        path = write_graph(tmp_path / model_name, ("Identity (mean)", "Log (mean)"))
        with pytest.raises(ImageError, match="not a number"):
            EdgeInferencer(path).predict(image(0))

    @pytest.mark.parametrize("source", [None, image() / 255, image()[..., 0]])
    def test_what_is_no_image_is_refused(self, tmp_path: Path, source: object) -> None:
        inferencer = EdgeInferencer(write_graph(tmp_path / "model.xml"))
        with pytest.raises(ValueError, match="uint8"):
            list(inferencer.stream([image(), source], on_failure=print))
        assert inferencer.predict(image()).score == pytest.approx(0.8)


class TestStream:
    @pytest.mark.parametrize("performance_hint", ["LATENCY", "THROUGHPUT"])
    def test_the_order_is_that_of_the_images(self, tmp_path: Path, model_name: str, performance_hint: str) -> None:
        inferencer = EdgeInferencer(write_graph(tmp_path / model_name), performance_hint=performance_hint)
        predictions = list(inferencer.stream(frames(25)))
        assert [prediction.score for prediction in predictions] == pytest.approx([10 * i / 255 for i in range(25)])
        assert [len(prediction.image) for prediction in predictions] == [len(frame) for frame in frames(25)]

    def test_a_stream_without_end_takes_few_images_ahead(self, tmp_path: Path, model_name: str) -> None:
        inferencer = EdgeInferencer(write_graph(tmp_path / model_name), performance_hint="THROUGHPUT")
        taken = 0

        def camera() -> Iterator[np.ndarray]:
            nonlocal taken
            while True:
                taken += 1
                yield image()

        for given, _ in enumerate(islice(inferencer.stream(camera()), 50)):
            assert taken - given <= inferencer.parallel_requests

    def test_no_images(self, tmp_path: Path) -> None:
        assert list(EdgeInferencer(write_graph(tmp_path / "model.xml")).stream([])) == []

    def test_threads_that_predict_first_in_their_process(self, tmp_path: Path) -> None:
        """Two of them waited for each other for ever, about every second time with threads that switch as often."""
        path = write_graph(tmp_path / "model.xml")
        for _ in range(3):
            subprocess.run([sys.executable, "-c", FIRST_IN_THREADS, path], check=True, timeout=60)

    def test_others_in_between_and_a_stream_that_is_left(self, tmp_path: Path, model_name: str) -> None:
        inferencer = EdgeInferencer(write_graph(tmp_path / model_name), performance_hint="THROUGHPUT")
        streams = [inferencer.stream(frames(9)) for _ in range(3)]
        for _ in range(4):
            scores = [next(stream).score for stream in streams]
            assert len(set(scores)) == 1
            assert inferencer.predict(image()).score == pytest.approx(0.8)
        for stream in streams:
            stream.close()
        assert inferencer.predict(image()).score == pytest.approx(0.8)

    def test_images_that_fail_are_reported_in_their_turn(self, tmp_path: Path, model_name: str) -> None:
        model = write_graph(tmp_path / model_name, ("Identity (mean)", "Log (mean)"))
        broken = tmp_path / "broken.png"
        broken.write_text("no image")
        good, no_number = image(), image(0)
        events: list[str] = []

        def fail(source: object, error: ImageError) -> None:
            check_one_line(error)
            events.append("broken" if source is broken else "no number" if source is no_number else "?")

        images = [good, broken, no_number, good, no_number, broken, good, good]
        for prediction in EdgeInferencer(model, performance_hint="THROUGHPUT").stream(images, on_failure=fail):
            assert prediction.score == pytest.approx(math.log(0.8))
            events.append("good")
        assert events == ["good", "broken", "no number", "good", "no number", "broken", "good", "good"]

    def test_a_model_that_fails_ends_the_stream(self, tmp_path: Path, model_name: str) -> None:
        inferencer = EdgeInferencer(write_graph(tmp_path / model_name, only_of_width(8)))
        stream = inferencer.stream([image(height=8), image(0, 9, 9), image(height=8)], on_failure=print)
        assert next(stream).score == pytest.approx(0.8)
        with pytest.raises(EdgeError, match="9 x 9") as error:
            next(stream)
        check_one_line(error.value)

    def test_without_a_handler_a_failure_ends_the_stream(self, tmp_path: Path) -> None:
        stream = EdgeInferencer(write_graph(tmp_path / "model.xml")).stream([
            image(),
            tmp_path / "missing.png",
            image(),
        ])
        next(stream)
        with pytest.raises(ImageError, match=r"missing\.png"):
            next(stream)


class TestModelFile:
    def test_what_it_says_of_itself(self, tmp_path: Path, model_name: str) -> None:
        path = write_graph(tmp_path / model_name, metadata=METADATA)
        inferencer = EdgeInferencer(path, device="CPU")
        assert inferencer.metadata == METADATA
        assert "on CPU" in inferencer.runtime
        words = inferencer.describe()
        assert words.startswith(f"{path}; backbone {METADATA['backbone']}; ")
        assert words.endswith(inferencer.runtime)

    def test_it_may_say_nothing(self, tmp_path: Path, model_name: str) -> None:
        inferencer = EdgeInferencer(write_graph(tmp_path / model_name))
        assert inferencer.metadata == {}

    def test_missing(self, tmp_path: Path) -> None:
        for name in ("model.xml", "model.onnx"):
            with pytest.raises(EdgeError, match=f"{name} does not exist"):
                EdgeInferencer(tmp_path / name)

    def test_missing_weights(self, tmp_path: Path) -> None:
        path = write_graph(tmp_path / "model.xml")
        path.with_suffix(".bin").unlink()
        with pytest.raises(EdgeError, match=r"model\.bin does not exist"):
            EdgeInferencer(path)

    @pytest.mark.parametrize("suffix", [".pt", ".bin", ""])
    def test_of_another_kind(self, tmp_path: Path, suffix: str) -> None:
        path = (tmp_path / "model").with_suffix(suffix)
        path.write_text("content")
        with pytest.raises(EdgeError, match="is not an exported model"):
            EdgeInferencer(path)

    @pytest.mark.parametrize("size", [0, 3, 100, -300])
    def test_truncated(self, tmp_path: Path, model_name: str, size: int, capfd: pytest.CaptureFixture[str]) -> None:
        path = write_graph(tmp_path / model_name)
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(EdgeError, match=path.name) as error:
            EdgeInferencer(path)
        check_one_line(error.value)
        assert not capfd.readouterr().err

    def test_truncated_weights(self, tmp_path: Path) -> None:
        path = write_graph(tmp_path / "model.xml")
        weights = path.with_suffix(".bin")
        weights.write_bytes(weights.read_bytes()[:5])
        with pytest.raises(EdgeError, match=r"model\.xml and model\.bin") as error:
            EdgeInferencer(path)
        check_one_line(error.value)

    def test_no_model_of_anomalib(self, tmp_path: Path, model_name: str) -> None:
        path = write_graph(tmp_path / model_name, ("pred_score", "prediction"))
        with pytest.raises(EdgeError, match="no output pred_score"):
            EdgeInferencer(path)

    def test_without_labels_and_masks_thresholds_are_needed(self, tmp_path: Path, model_name: str) -> None:
        path = write_graph(tmp_path / model_name, ("bool[n] pred_label, ", ""), (", bool[n, h, w] pred_mask", ""))
        with pytest.raises(EdgeError, match=r"pred_label.* threshold"):
            EdgeInferencer(path)
        with pytest.raises(EdgeError, match=r"pred_mask.* pixel threshold"):
            EdgeInferencer(path, threshold=0.5)
        assert EdgeInferencer(path, threshold=0.5, pixel_threshold=0.5).predict(image()).is_anomalous is True

    @pytest.mark.parametrize("shape", ["2, 3, height, width", "batch, 1, height, width"])
    def test_another_input(self, tmp_path: Path, model_name: str, shape: str) -> None:
        path = write_graph(tmp_path / model_name, ("batch, 3, height, width", shape))
        with pytest.raises(EdgeError, match="not single RGB images"):
            EdgeInferencer(path)

    @pytest.mark.parametrize("device", ["TOASTER", "GPU.7", "cpu", ""])
    def test_unknown_device(self, tmp_path: Path, model_name: str, device: str) -> None:
        with pytest.raises(EdgeError, match=r"give one of AUTO, CPU") as error:
            EdgeInferencer(write_graph(tmp_path / model_name), device=device)
        check_one_line(error.value)

    @pytest.mark.parametrize("device", ["AUTO", "CPU", "HETERO:CPU"])
    def test_precision(self, tmp_path: Path, device: str) -> None:
        path = write_graph(tmp_path / "model.xml")
        for precision, tolerance in (("f32", 1e-6), ("default", 0.01)):
            inferencer = EdgeInferencer(path, device=device, precision=precision)
            assert inferencer.predict(image()).score == pytest.approx(0.8, abs=tolerance)

    def test_a_device_that_openvino_refuses(self, tmp_path: Path) -> None:
        with pytest.raises(EdgeError, match="HETERO:TOASTER") as error:
            EdgeInferencer(write_graph(tmp_path / "model.xml"), device="HETERO:TOASTER")
        check_one_line(error.value)

    @pytest.mark.parametrize("version", ["2024.1.0-15008-f4afc983258-releases/2024/1", "2023.3.0"])
    def test_an_openvino_that_computes_other_scores(
        self, tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("openvino.__version__", version)
        with pytest.raises(EdgeError, match=r"openvino>=2024\.3"):
            EdgeInferencer(write_graph(tmp_path / "model.xml"))

    def test_no_library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("anomalib_fbclip.exported.runtimes.find_spec", lambda _: None)
        with pytest.raises(EdgeError, match=r"pip install openvino$"):
            EdgeInferencer(write_graph(tmp_path / "model.xml"))
        with pytest.raises(EdgeError, match="openvino or onnxruntime"):
            EdgeInferencer(write_graph(tmp_path / "model.onnx"))


def test_what_an_error_says() -> None:
    assert last_line(RuntimeError("Exception from core.cpp:1:\nsize: 3, not 128\n\n; \n\n")) == "size: 3, not 128"
    assert last_line(MemoryError()) == "MemoryError"


@pytest.mark.usefixtures("without_openvino")
def test_an_xml_needs_openvino(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"pip install openvino$"):
        EdgeInferencer(write_graph(tmp_path / "model.xml"))


@pytest.mark.slow
class TestBundled:
    def check_parity(self, bundled: Path, images: list[Path]) -> None:
        reference = OpenVINOInferencer(bundled, device="CPU", config=EXACT)
        inferencer = EdgeInferencer(bundled)  # f32 on device AUTO too
        for path in images:
            expected, prediction = reference.predict(path), inferencer.predict(path)
            assert prediction.score == pytest.approx(float(expected.pred_score.item()), abs=1e-6)
            assert prediction.is_anomalous == expected.pred_label.item()
            assert prediction.anomaly_map == pytest.approx(expected.anomaly_map.squeeze(), abs=1e-6)
            assert np.array_equal(prediction.mask, expected.pred_mask.squeeze())
            assert 0.05 < prediction.score < 0.95

    @pytest.fixture(autouse=True)
    def _folder_for_the_cache_of_anomalib(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def test_it_answers_as_in_anomalib(self, bundled: Path, photographs: Path) -> None:
        self.check_parity(bundled, sorted(photographs.rglob("*.*")))

    def test_model_api_answers_as_it_does(self, bundled: Path, photographs: Path) -> None:
        adapters = pytest.importorskip("model_api.adapters", reason="openvino-model-api is not installed")
        from model_api.models import Model

        file = adapters.OpenvinoAdapter(openvino_core(), str(bundled), device="CPU", plugin_config=EXACT)
        model, inferencer = Model.create_model(file), EdgeInferencer(bundled)
        for path in sorted(photographs.rglob("*.*")):
            result, prediction = model(read_image(path)), inferencer.predict(path)
            assert result.pred_score == pytest.approx(prediction.score, abs=1e-6)
            assert result.pred_label == str(prediction.is_anomalous)
            assert result.anomaly_map.shape == prediction.image.shape[:2]

    def test_it_answers_as_in_anomalib_on_real_photographs(self, bundled: Path, real_data: Path) -> None:
        folders = ("hazelnut/test/colour", "cookie/test/cracked", "magnetic_tile/test/break")
        self.check_parity(bundled, [next((real_data / folder).iterdir()) for folder in folders])


FIRST_IN_THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from anomalib_fbclip.exported import EdgeInferencer
sys.setswitchinterval(1e-6)
predict = EdgeInferencer(sys.argv[1], "CPU").predict
with ThreadPoolExecutor(4) as pool:
    assert len(list(pool.map(predict, [np.zeros((48, 64, 3), np.uint8)] * 4))) == 4
"""

LOADED_IN_THREADS = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import openvino
from anomalib_fbclip.exported.runtimes import openvino_core
def create(made=[]):
    time.sleep(0.1)
    made.append(1)
    return len(made)
openvino.Core = create
with ThreadPoolExecutor(4) as pool:
    assert [*pool.map(lambda _: openvino_core(), range(4))] == [1, 1, 1, 1]
"""


def test_threads_that_load_models_share_a_core() -> None:
    subprocess.run([sys.executable, "-c", LOADED_IN_THREADS], check=True)


SIGNAL_AFTER_TWO = """
import signal, subprocess, sys
from anomalib_fbclip.exported import EdgeInferencer
first, second = EdgeInferencer(sys.argv[1]), EdgeInferencer(sys.argv[1])
del first
del second
signal.signal(signal.SIGCHLD, lambda *_: None)
subprocess.run(["true"], check=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a fault of OpenVINO on Linux")
def test_a_signal_after_two_inferencers(tmp_path: Path) -> None:
    """OpenVINO would leave a freed stack for it."""
    path = write_graph(tmp_path / "model.xml")
    result = subprocess.run([sys.executable, "-c", SIGNAL_AFTER_TWO, path], check=False)
    assert result.returncode == 0
