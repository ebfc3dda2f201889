# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Mistakes: one line that says what to do, exit code 2, and nothing left behind."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_fbclip.weights import bundled
from support.command_line import environment, fbclip_to_full_disk
from support.graphs import write_graph
from support.parts import Run, draw_part
from support.photographs import write_png
from support.untrusted import write_pickle

SMALL_DISK = 200_000


def damaged(path: Path) -> Path:
    path.write_bytes(b"this is nothing of the kind")
    return path


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def half_of(source: Path, path: Path) -> Path:
    content = source.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def write_checkpoint(path: Path, content: dict) -> Path:
    torch.save(content, path)
    return path


def write_lone_graph(root: Path) -> Path:
    path = root / "model.xml"
    write_graph(path)
    path.with_suffix(".bin").unlink()
    return path


MISTAKES: dict[str, tuple[Callable[[Path], list[str | Path]], str]] = {
    "wrong path": (lambda _: ["nowhere"], "nowhere does not exist: give a photograph"),
    "nothing": (lambda _: [], "the following arguments are required: photographs"),
    "an empty argument": (lambda _: ["photographs", ""], "argument 2 is empty"),
    "an empty value": (lambda _: ["photographs", "--good="], "argument 2 is empty"),
    "typo": (lambda _: ["photographs", "--treshold", "0.2"], "Did you mean --threshold?"),
    "underscores": (lambda _: ["photographs", "--pixel_threshold", "0.2"], "Did you mean --pixel-threshold?"),
    "threshold above 1": (lambda _: ["photographs", "--threshold", "50"], "must be in 0..1"),
    "pipe": (lambda root: [os.mkfifo(root / "pipe") or "pipe"], "pipe is neither a file nor a folder"),
    "white level": (lambda _: ["photographs", "--white-level", "12bit"], "1 to 65535, such as 4095 for 12 bits"),
    "no white": (lambda _: ["photographs", "--white-level", "0"], "1 to 65535, such as 4095 for 12 bits"),
    "threshold in words": (lambda _: ["photographs", "--threshold", "high"], "'high' is not a number"),
    "pixel threshold below 0": (lambda _: ["photographs", "--pixel-threshold=-1"], "must be in 0..1"),
    "empty folder": (lambda root: [empty(root / "empty")], "has no photographs to inspect"),
    "no images": (lambda root: [damaged(empty(root / "other") / "notes.txt").parent], "has no photographs to inspect"),
    "no good folder": (lambda _: ["photographs", "--good", "nowhere"], "--good nowhere does not exist"),
    "empty good folder": (
        lambda root: ["photographs", "--good", empty(root / "empty")],
        "has no photographs: give a folder of photographs of good parts",
    ),
    "too few good": (
        lambda _: ["photographs", "--good", "photographs/good", "--shots", "8"],
        "has 4 photographs, and --shots is 8",
    ),
    "damaged good": (
        lambda root: ["photographs", "--good", damaged(root / "photographs/good/4.png").parent],
        "4.png can't be read as an image",
    ),
    "shots without good": (lambda _: ["photographs", "--shots", "2"], "--shots needs --good"),
    "no shots": (lambda _: ["photographs", "--good", "photographs/good", "--shots", "0"], "give 1 or more"),
    "unknown backbone": (lambda _: ["photographs", "--backbone", "ViT-foo"], "Unknown backbone 'ViT-foo'"),
    "no weights": (lambda _: ["photographs", "--weights", "mine.safetensors"], "'mine.safetensors' do not exist"),
    "damaged weights": (
        lambda root: ["photographs", "--weights", damaged(root / "mine.safetensors")],
        "mine.safetensors' can't be read",
    ),
    "truncated weights": (
        lambda root: ["photographs", "--weights", half_of(bundled.ADAPTERS_FILE, root / "mine.safetensors")],
        "mine.safetensors' can't be read",
    ),
    "checkpoint of another model": (
        lambda root: ["photographs", "--weights", write_checkpoint(root / "padim.ckpt", {"state_dict": {}})],
        "padim.ckpt' are not a checkpoint of FB-CLIP",
    ),
    "half a checkpoint": (
        lambda root: ["photographs", "--weights", write_checkpoint(root / "mine.ckpt", {"fbclip": {}})],
        "mine.ckpt' can't be read",
    ),
    "weights of another backbone": (lambda _: ["photographs", "--weights", "mvtec"], "fit backbone ViT-L-14-336 only"),
    "no weights for a backbone": (
        lambda _: ["photographs", "--backbone", "ViT-B-32"],
        "fit backbone ViT-L-14-336 only, not 'ViT-B-32'",
    ),
    "malicious pickle": (
        lambda root: ["photographs", "--weights", write_pickle(root / "mine.pth", root / "mark")],
        "which could run code",
    ),
    "no network": (
        lambda _: ["photographs", "--backbone", "ViT-L-14-336"],
        f".cache/clip/ViT-L-14-336px.pt'. Or leave out --backbone and --weights: {bundled.NAME} needs no network.",
    ),
    "a GPU that is not there": (
        lambda _: ["photographs", "--device", "cuda:7"],
        "choose one of auto, cpu",
    ),
    "unknown device": (lambda _: ["photographs", "--device", "abacus"], "choose one of auto, cpu"),
    "unknown precision": (lambda _: ["photographs", "--precision", "int3"], "can't be used: choose one of"),
    "no model": (lambda _: ["photographs", "--model", "model.xml"], "model.xml does not exist"),
    "damaged model": (lambda root: ["photographs", "--model", damaged(root / "model.onnx")], "model.onnx"),
    "half a model": (lambda root: ["photographs", "--model", write_lone_graph(root)], "model.bin"),
    "model and backbone": (
        lambda _: ["photographs", "--model", "model.xml", "--backbone", bundled.NAME],
        "--backbone does not go with --model",
    ),
    "pickle as model": (lambda root: ["photographs", "--model", damaged(root / "model.pt")], "not an exported model"),
    "good with a model": (
        lambda _: ["photographs", "--model", "model.xml", "--good", "photographs/good"],
        "--good does not go with --model",
    ),
    "precision of torch for a model": (
        lambda _: ["photographs", "--model", "model.xml", "--precision", "bfloat16"],
        "give f32 or default",
    ),
    "text as good": (
        lambda root: ["photographs", "--good", damaged(root / "text.jpg")],
        "text.jpg can't be read as an image",
    ),
    "tiles for nothing": (
        lambda root: [damaged(empty(root / "text") / "1.jpg").parent, "--tiles", "auto"],
        "none that can be read: give a number",
    ),
    "a file as output": (
        lambda root: ["photographs", "--output", damaged(root / "file")],
        "give another folder",
    ),
    "output in a file": (
        lambda root: ["photographs", "--output", damaged(root / "file") / "results"],
        "give another folder",
    ),
    "read-only folder": (lambda _: ["photographs", "--output", "/proc/results"], "give another folder"),
    "no camera": (lambda _: ["97"], "Camera 97 can't be opened"),
    "damaged video": (lambda root: [damaged(root / "clip.mp4")], "clip.mp4 can't be opened"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_line(mistake: str, tmp_path: Path, photographs: Path, fbclip: Run) -> None:
    arrange, message = MISTAKES[mistake]
    result = fbclip(*arrange(tmp_path))
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "fbclip-results").exists()


def read_table(root: Path) -> dict[str, dict]:
    lines = (root / "fbclip-results/v0/predictions.jsonl").read_text().splitlines()
    return {Path(row["path"]).name: row for row in map(json.loads, lines)}


def test_photographs_that_cannot_be_read(tmp_path: Path, fbclip: Run) -> None:
    """Each is one line, and the others are inspected."""
    folder = empty(tmp_path / "mixed")
    draw_part(0).save(folder / "fine.png")
    draw_part(0).convert("CMYK").save(folder / "cmyk.jpg")
    values = np.linspace(0, 65535, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint16)
    write_png(folder / "16 bit.png", values)
    write_png(folder / "12 bit.png", values // 16)
    Image.new("RGB", (1, 1)).save(folder / "one pixel.png")
    (folder / "truncated.png").write_bytes((folder / "fine.png").read_bytes()[:900])
    draw_part(0).save(folder / "fine.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "fine.jpg").read_bytes()[:900])
    damaged(folder / "text.jpg")
    (folder / "empty.jpg").touch()
    draw_part(0).convert("L").save(folder / "gray.png")
    draw_part(0).convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(np.asarray(draw_part(0).convert("L"), dtype=np.float32)).save(folder / "0 to 255.tiff")
    result = fbclip("mixed", "--alone")
    assert (result.returncode, result.stderr) == (2, "")
    rows = read_table(tmp_path)
    assert {name for name, row in rows.items() if row["error"]} == {
        "12 bit.png",
        "one pixel.png",
        "truncated.png",
        "truncated.jpg",
        "text.jpg",
        "empty.jpg",
        "0 to 255.tiff",
    }
    lines = result.stdout.splitlines()
    errors = [line for line in lines if line.startswith("error ")]
    assert len(errors) == 7
    assert "7 could not be read" in result.stdout
    assert len(lines) == 2 + len(rows) + 4


def test_nothing_can_be_read(tmp_path: Path, fbclip: Run) -> None:
    damaged(tmp_path / "text.jpg")
    result = fbclip("text.jpg")
    assert (result.returncode, result.stderr) == (2, "")
    assert "1 photograph: 0 anomalous, 0 normal, 1 could not be read" in result.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_108_megapixels(tmp_path: Path, fbclip: Run, suffix: str) -> None:
    """More than Pillow opens without a warning."""
    draw_part(11, defective=True).resize((12000, 9000)).save(tmp_path / f"large.{suffix}")
    result = fbclip(f"large.{suffix}")
    assert result.returncode in {0, 1}
    assert not result.stderr
    (row,) = read_table(tmp_path).values()
    assert (row["error"], row["width"], row["height"]) == (None, 12000, 9000)


def test_full_disk(tmp_path: Path, photographs: Path) -> None:
    """A file that can't grow: what was written before is complete."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_DISK, SMALL_DISK))

    large = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), dtype=np.uint8)
    Image.fromarray(large).save(photographs / "spot.png")
    command = [sys.executable, "-m", "anomalib_fbclip", "photographs"]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False, preexec_fn=limit
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "File too large" in line
    assert "give another folder" in line
    assert list(read_table(tmp_path)) == ["fine.png", "0.png", "1.png", "2.png", "3.png"]
    assert not (tmp_path / "fbclip-results/v0/images/spot.png.jpg").exists()


def test_full_output(tmp_path: Path, photographs: Path) -> None:
    result = fbclip_to_full_disk(tmp_path, "photographs", "--json")
    assert result.returncode == 2
    assert "can't be written" in result.stderr.splitlines()[-1]


def test_traceback(tmp_path: Path, photographs: Path, fbclip: Run) -> None:
    result = fbclip("photographs", "--weights", "mine.safetensors", "--traceback")
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].endswith("Give a file, 'auto', 'mvtec' or 'visa'.")
