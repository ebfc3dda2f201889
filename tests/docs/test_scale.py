# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The examples of ``docs/scale.md`` run as they stand there, but for the server and for more than one machine."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import openvino
import pandas as pd
import pytest
from PIL import Image

from anomalib_fbclip.export.graph import convert_to_openvino, save_openvino
from anomalib_fbclip.exported import EdgeInferencer
from support.graphs import write_graph

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")

DESCRIPTION = {"score_threshold": "0.5", "map_threshold": "0.4"}


def code(language: str, word: str) -> str:
    """Find the block of the page in which a word stands."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (block,) = (block for block in blocks if word in block)
    return block


ONLY_RED = (
    "mean = ReduceMean <keepdims = 0> (input, channel)",
    "red = Constant <value = int64 {0}> ()\n mean = Gather <axis = 1> (input, red)",
)
"""Lets the graph see which channel is which."""


def write_model(path: Path, **kwargs: object) -> Path:
    graph = write_graph(path.with_suffix(".onnx"), ONLY_RED)
    return save_openvino(convert_to_openvino(graph, DESCRIPTION, **kwargs), path, is_half=False)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the examples run, with a model, a good part and one with a red stain."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model.xml")
    (tmp_path / "photographs").mkdir()
    for name, red in ("good", 50), ("stained", 200):
        pixels = np.full((40, 60, 3), 50, dtype=np.uint8)
        pixels[10:25, 20:40, 0] = red
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize("size", [None, (40, 60)])
def test_model_api(size: tuple[int, int] | None, folder: Path) -> None:
    pytest.importorskip("model_api", reason="openvino-model-api is not installed")
    if size:
        write_model(folder / "model.xml", input=[1, 3, *size])
    inferencer = EdgeInferencer(folder / "model.xml")
    for name, verdict in ("good", "normal"), ("stained", "anomalous"):
        path = folder / "photographs" / f"{name}.png"
        names: dict = {}
        *lines, label = code("python", "model_api").replace("part.jpg", str(path)).splitlines()
        exec("\n".join([*lines, f"label = {label}"]), names)
        expected, result = inferencer.predict(path), names["result"]
        assert names["label"] == verdict
        assert result.pred_score == pytest.approx(expected.score)
        assert [tuple(box) for box in result.pred_boxes] == [box for box, _ in expected.regions]
        assert result.anomaly_map == pytest.approx(255 * expected.anomaly_map, abs=1)
        assert (names["model"].params.image_threshold, names["model"].params.pixel_threshold) == (0.5, 0.4)


def test_configuration_of_the_server(folder: Path) -> None:
    (entry,) = json.loads(code("json", "model_config_list"))["model_config_list"]
    config = entry["config"]
    assert config.keys() == {"name", "base_path", "plugin_config"}
    tree = code("text", "model.bin")
    assert config["base_path"] == f"/models/{config['name']}"
    assert all(f"─ {part}\n" in tree for part in (f"{config['name']}/", "1/", "model.bin", "model.xml"))
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", config["plugin_config"])
    for key, value in config["plugin_config"].items():
        assert compiled.get_property(key).get_type_name() == value
    assert f"`{compiled.input(0).any_name}`" in PAGE
    assert all(f"`{output.any_name}`" in PAGE for output in compiled.outputs)


@pytest.mark.slow
def test_ray(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("HOME", str(folder))  # it leaves a file there
    (folder / "photographs" / "broken.png").write_bytes(b"no image")
    monkeypatch.setattr(ray, "init", partial(ray.init, num_cpus=1, include_dashboard=False, log_to_driver=False))
    try:
        exec(code("python", "ray.init"), {"__name__": "__main__"})
    finally:
        ray.shutdown()
    rows = pd.read_parquet(folder / "verdicts").set_index("path").sort_index()
    assert [Path(path).name for path in rows.index] == ["broken.png", "good.png", "stained.png"]
    assert "broken.png" in rows["error"].iloc[0]
    inferencer = EdgeInferencer(folder / "model.xml")
    for path, row in rows[rows["error"].isna()].iterrows():
        prediction = inferencer.predict(path)
        assert (row["score"], row["anomalous"]) == (prediction.score, prediction.is_anomalous)
