# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The libraries that run an exported graph: OpenVINO and ONNX Runtime."""

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from anomalib_fbclip.errors import EdgeError, last_line

if TYPE_CHECKING:
    import openvino

NAMESPACE = "fbclip"
"""Section of OpenVINO's rt_info, and prefix of ONNX's properties, that hold the metadata."""

PerformanceHint = Literal["LATENCY", "THROUGHPUT"]

Precision = Literal["f32", "default"]

XML_START = b"<?xml"

MINIMUM_OPENVINO = (2024, 3)
"""Oldest supported version. Earlier ones give different scores, or can't read an ``.onnx``, without an error."""


def load(
    path: Path, device: str, performance_hint: PerformanceHint, precision: Precision
) -> "OpenVinoRuntime | OnnxRuntime":
    """Load an ``.xml`` or ``.onnx`` file with OpenVINO or, if that is not installed, an ``.onnx`` with ONNX Runtime.

    Device, hint and precision are OpenVINO's. ONNX Runtime uses only the CPU. What is missing or can't be used is an
    ``EdgeError``.
    """
    if path.suffix not in {".xml", ".onnx"}:
        msg = f"{path} is not an exported model: give the .xml of 'anomalib export --export_type openvino' or a .onnx."
        raise EdgeError(msg)
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    for file in files:
        if not file.is_file():
            msg = f"{file} does not exist: an exported model is a .onnx, or a .xml and the .bin beside it."
            raise EdgeError(msg)
    if find_spec("openvino"):
        return OpenVinoRuntime(path, device, performance_hint, precision)
    if path.suffix == ".onnx" and find_spec("onnxruntime"):
        return OnnxRuntime(path, device)
    msg = f"{path} needs a library to run it: pip install openvino" + (" or onnxruntime" * (path.suffix == ".onnx"))
    raise EdgeError(msg)


class OpenVinoRuntime:
    """A graph in OpenVINO. See :func:`load`.

    Attributes:
        name (str): The library, its version and the device.
        input_shape (tuple[int | None, ...]): Shape of the graph's first input; ``None`` for a dimension of any size.
        parallel_requests (int): Number of computations that run at the same time.
    """

    def __init__(self, path: Path, device: str, performance_hint: PerformanceHint, precision: Precision) -> None:
        import openvino

        check_openvino(openvino.__version__)
        core = openvino_core()
        check_device(device, core.available_devices)
        model = read_openvino_model(path)
        if not model.inputs:  # an empty ONNX file
            raise unreadable(path, "it holds no model")
        config: dict[str, str] = {"PERFORMANCE_HINT": performance_hint}
        if precision == "f32":
            config["INFERENCE_PRECISION_HINT"] = "f32"  # otherwise OpenVINO may compute in 16 bits
        try:
            compiled = core.compile_model(model, device, config)
        except RuntimeError as error:
            msg = f"{path} can't be run on device {device}: {last_line(error)}"
            raise EdgeError(msg) from error
        devices = ", ".join(compiled.get_property("EXECUTION_DEVICES"))
        self.name = f"OpenVINO {openvino.__version__.partition('-')[0]} on {devices}"
        self.input_shape = tuple(
            size.get_length() if size.is_static else None for size in model.inputs[0].get_partial_shape()
        )
        self.output_names = frozenset(name for output in model.outputs for name in output.get_names())
        self.metadata = read_openvino_metadata(model)
        self.parallel_requests: int = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._compiled = compiled
        self._idle: list[openvino.InferRequest] = []

    def run(self, batch: NDArray[np.float32]) -> dict[str, NDArray]:
        """Compute the graph's outputs by name. Several threads may do so at once. A failure is an ``EdgeError``."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            outputs = request.infer({0: batch})
            return {name: outputs[name] for name in self.output_names}
        except RuntimeError as error:
            raise rejected(batch, error) from error
        finally:
            self._idle.append(request)


class OnnxRuntime:
    """A graph in ONNX Runtime, on the CPU, with the attributes of :class:`OpenVinoRuntime`."""

    def __init__(self, path: Path, device: str) -> None:
        import onnxruntime

        check_device(device, ["CPU"])
        try:
            self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no narrower base class
            raise unreadable(path, last_line(error)) from error
        graph_input = self._session.get_inputs()[0]
        self.name = f"ONNX Runtime {onnxruntime.__version__} on CPU"
        self.input_shape = tuple(size if isinstance(size, int) else None for size in graph_input.shape)
        self.output_names = [output.name for output in self._session.get_outputs()]
        self.metadata = without_namespace(self._session.get_modelmeta().custom_metadata_map)
        self.parallel_requests = 1  # one computation uses all cores
        self._input_name = graph_input.name

    def run(self, batch: NDArray[np.float32]) -> dict[str, NDArray]:
        """Compute the graph's outputs by name. See :meth:`OpenVinoRuntime.run`."""
        try:
            outputs = self._session.run(self.output_names, {self._input_name: batch})
        except Exception as error:  # its errors have no narrower base class
            raise rejected(batch, error) from error
        return dict(zip(self.output_names, outputs, strict=True))


def openvino_core() -> "openvino.Core":
    """Return the process's only Core: with several (OpenVINO 2026.4), a signal handler's stack is freed too early."""
    with _CREATING:
        return _create_core()


_CREATING = Lock()


@cache
def _create_core() -> "openvino.Core":
    import openvino

    # Python's side of a tensor is set up at its first use. If two threads do that at once, they wait for each other.
    _ = openvino.Tensor(np.zeros(1, np.float32)).data
    return openvino.Core()


def check_openvino(version: str) -> None:
    """Raise an error if OpenVINO is too old: the package may be installed without its dependencies."""
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_OPENVINO:
        minimum = ".".join(map(str, MINIMUM_OPENVINO))
        msg = f"OpenVINO {version.partition('-')[0]} gives other scores. Upgrade: pip install 'openvino>={minimum}'"
        raise EdgeError(msg)


def check_device(device: str, available: list[str]) -> None:
    """Raise an error unless a device is AUTO, available, or a combination of OpenVINO such as ``HETERO:GPU,CPU``."""
    names = {"AUTO", *available, *(name.partition(".")[0] for name in available)}
    if device.partition(":")[0] not in {*names, "HETERO", "MULTI"}:
        msg = f"Device {device} is not available: give one of {', '.join(sorted(names))}."
        raise EdgeError(msg)


def read_openvino_model(path: Path) -> "openvino.Model":
    """Read a graph from an ``.xml`` or ``.onnx`` file. One that can't be read is an ``EdgeError``."""
    from openvino.frontend import FrontEndManager, GeneralFailure

    # Core.read_model tries all frontends on an unknown kind of file, and some write to the screen.
    try:
        if path.suffix == ".onnx":
            frontend = FrontEndManager().load_by_framework("onnx")
            return frontend.convert(frontend.load(path))
        with path.open("rb") as file:
            is_xml = file.read(len(XML_START)) == XML_START
        if is_xml:
            return openvino_core().read_model(path)
    except (OSError, RuntimeError, GeneralFailure) as error:
        raise unreadable(path, last_line(error)) from error
    raise unreadable(path, "it is not XML")


def read_openvino_metadata(model: "openvino.Model") -> dict[str, str]:
    """Read a graph's metadata. OpenVINO keeps that of ONNX files under ``framework``."""
    sections = dict(model.get_rt_info().items())
    own = {key: value.astype(str) for key, value in sections.get(NAMESPACE, {}).items()}
    onnx = {key: value.astype(str) for key, value in sections.get("framework", {}).items()}
    return own or without_namespace(onnx)


def without_namespace(metadata: Mapping[str, str]) -> dict[str, str]:
    """Select the properties of an ONNX file that have our prefix, and remove it."""
    prefix = f"{NAMESPACE}."
    return {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}


def unreadable(path: Path, reason: str) -> EdgeError:
    """Create the error for a model that can't be read."""
    files = f"{path} and {path.with_suffix('.bin').name}" if path.suffix == ".xml" else path
    return EdgeError(f"{path} can't be read as a model: copy {files} again, or export again ({reason}).")


def rejected(batch: NDArray[np.float32], error: Exception) -> EdgeError:
    """Create the error for a graph that failed on a batch."""
    height, width = batch.shape[2:]
    return EdgeError(f"The model failed on an image of {width} x {height} pixels: {last_line(error)}")
