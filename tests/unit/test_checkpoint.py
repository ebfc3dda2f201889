# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Files of weights that hold code or are damaged: the code never runs, and one line names the file."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomalib_fbclip.lightning.screen import check_checkpoint
from anomalib_fbclip.weights.adapters import Adapters
from anomalib_fbclip.weights.backbones import resolve_backbone
from anomalib_fbclip.weights.clip_files import create_clip, read_tensors
from support.untrusted import write_pickle, write_torchscript

Reader = Callable[[Path], object]

READERS: dict[str, tuple[Reader, str]] = {
    "adapters": (Adapters.read, ".pth"),
    "backbone": (lambda path: read_tensors(path, f"Pretrained weights {path}"), ".pt"),
    "checkpoint": (check_checkpoint, ".ckpt"),
}
ADVICE = ("weights_only", "safe_globals", "Re-running", "file an issue", "documentation of torch")


def refusal(read: Reader, path: Path) -> str:
    """Read a file that can't be read, and give the message, which is all that a user sees."""
    with pytest.raises(ValueError, match=path.name) as caught:
        read(path)
    assert caught.value.__suppress_context__
    message = str(caught.value)
    assert "\n" not in message
    assert not [advice for advice in ADVICE if advice in message]
    return message


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What only code in a file creates."""
    return tmp_path / "mark"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("reader", READERS)
def test_code_in_a_pickle_never_runs(tmp_path: Path, mark: Path, reader: str, zipped: bool) -> None:
    read, suffix = READERS[reader]
    path = write_pickle(tmp_path / f"weights{suffix}", mark, zipped=zipped)
    message = refusal(read, path)
    assert not mark.exists()
    assert "objects other than tensors and plain data, which could run code" in message
    assert "source that you trust" in message
    torch.load(path, weights_only=False)["code"].close()
    assert mark.exists()


@pytest.mark.parametrize("reader", READERS)
def test_code_in_torchscript_never_runs(tmp_path: Path, mark: Path, reader: str) -> None:
    read, suffix = READERS[reader]
    path = write_torchscript(tmp_path / f"weights{suffix}", mark)
    refusal(read, path)
    assert not mark.exists()
    torch.jit.load(path)
    assert mark.exists()


def test_code_in_the_weights_of_a_clip_never_runs(tmp_path: Path, mark: Path, small_backbone: str) -> None:
    name = resolve_backbone(small_backbone)
    for path in (write_pickle(tmp_path / "a.pt", mark), write_torchscript(tmp_path / "b.pt", mark)):
        message = refusal(lambda path: create_clip(name, str(path)), path)
        assert "could run code" in message
        assert not mark.exists()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "content",
    [b"", b"<html>quota exceeded</html>", b"PK\x03\x04 truncated", b"\x80\x04]\x94."],
)
def test_other_files(tmp_path: Path, reader: str, content: bytes) -> None:
    read, suffix = READERS[reader]
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert "can't be read: " in refusal(read, path)


@pytest.fixture(scope="module", params=[True, False])
def complete(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of torch, as it is saved since 1.6 and as before."""
    path = tmp_path_factory.mktemp("complete") / "weights.pth"
    torch.save({"weight": torch.zeros(64)}, path, _use_new_zipfile_serialization=request.param)
    return path.read_bytes()


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_truncated_files(tmp_path: Path, complete: bytes, reader: str, data: st.DataObject) -> None:
    read, suffix = READERS[reader]
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(complete[: data.draw(st.integers(0, len(complete) - 1))])
    refusal(read, path)


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    assert "not found" in refusal(check_checkpoint, tmp_path / "model.ckpt")


def test_a_good_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "hyper_parameters": {"betas": (0.5, 0.9)}}, path)
    check_checkpoint(path)
