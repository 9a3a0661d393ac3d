"""Adapter of TensorRT and TensorRT-RTX, 8.5 to 11, through their Python packages.

``build_engine.py`` builds engines, ``run_engine.py`` runs them; both are in the same folder. Names that only some
versions have are guarded by ``hasattr``. An engine is executable code: only one that was built here is loaded.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING or __package__:
    from edgeres.backends.bundle import device
    from edgeres.backends.bundle.device import BundleError
else:  # on the device, where this file is in the same folder
    import device
    from device import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PLAN, SIDECAR = "model.plan", "model.plan.json"
WEIGHTED = ("conv", "gemm", "matrix", "fullyconnected")  # parts of the inspector's names of weighted layers
ELSEWHERE = "copy the bundle to the device and type a command of its README.md there"


def load_tensorrt() -> Any:
    """The ``tensorrt`` module."""
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError, RuntimeError) as failure:
        raise BundleError(
            f"TensorRT does not load here ({failure}): JetPack has it as the package python3-libnvinfer; "
            f"on any other machine {ELSEWHERE}",
            3,
        ) from failure


def recorder(trt: Any) -> Any:
    """A TensorRT logger that collects warnings and errors in ``problems``."""

    class Recorder(trt.ILogger):  # type: ignore[misc]  # the base class is known only once TensorRT is loaded
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.problems: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR", "WARNING"):
                self.problems.append((severity.name, message))

        def errors(self) -> str:
            return "; ".join(message for name, message in self.problems if name != "WARNING") or "no reason given"

    return Recorder()


class Cuda:
    """The CUDA driver through ctypes, because JetPack has no Python package for it."""

    def __init__(self) -> None:
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
            self.call("cuInit", 0)
        except (OSError, BundleError) as failure:
            raise BundleError(f"no NVIDIA GPU here ({failure}): {ELSEWHERE}", 3) from failure
        self._device, context, self.stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(self._device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self.call("cuCtxSetCurrent", context)
        self.call("cuStreamCreate", ctypes.byref(self.stream), 0)

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a driver function; anything but success raises."""
        status = getattr(self._driver, name)(*arguments)
        if status != 0:
            raise BundleError(f"{name} failed with CUDA driver error {status}")

    def facts(self) -> dict[str, Any]:
        """Name, compute capability and driver version of the GPU."""
        name, version = ctypes.create_string_buffer(128), ctypes.c_int()
        self.call("cuDeviceGetName", name, 128, self._device)
        self.call("cuDriverGetVersion", ctypes.byref(version))
        capability = []
        for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
            value = ctypes.c_int()
            self.call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
            capability.append(str(value.value))
        return {"gpu": name.value.decode(), "sm": ".".join(capability), "driver": version.value}

    def allocate(self, size: int) -> int:
        """Address of that many bytes on the GPU."""
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def release(self, address: int) -> None:
        """Frees memory from ``allocate``."""
        self.call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: Any) -> None:
        """Copies a contiguous array to the GPU."""
        source = ctypes.c_void_p(array.ctypes.data)
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), source, ctypes.c_size_t(array.nbytes))

    def download(self, array: Any, address: int) -> None:
        """Copies from the GPU into a contiguous array."""
        into = ctypes.c_void_p(array.ctypes.data)
        self.call("cuMemcpyDtoH_v2", into, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))

    def wait(self) -> None:
        """Returns once the stream is done."""
        self.call("cuStreamSynchronize", self.stream)


class Runner:
    """An engine with one float32 or uint8 input and one float32 output, loaded on the GPU."""

    def __init__(self, trt: Any, plan: bytes, log: Any) -> None:
        self.trt, self.cuda = trt, Cuda()
        self.runtime = trt.Runtime(log)
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise BundleError(f"TensorRT {trt.__version__} cannot load the engine: {log.errors()}")
        self.context = self.engine.create_execution_context()
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        modes = {name: self.engine.get_tensor_mode(name) for name in names}
        self.input = next(name for name in names if modes[name] == trt.TensorIOMode.INPUT)
        self.output = next(name for name in names if modes[name] == trt.TensorIOMode.OUTPUT)
        static = self.engine.get_tensor_shape(self.input)[0]
        self.fixed = static != -1
        self.batch = static if self.fixed else self.engine.get_tensor_profile_shape(self.input, 0)[2][0]

    def run(self, images: Any) -> Any:
        """Logits float32 ``[N,classes]`` of images ``[N,C,H,W]``, or as the network takes them."""
        return np.concatenate([self._batch(images[i : i + self.batch]) for i in range(0, len(images), self.batch)])

    def latency(self, images: Any, seconds: float = device.SECONDS) -> dict[str, Any]:
        """Latency of one image, from launch to the end of the stream, without copies, by ``device.timed``."""
        with self._bound(images[:1]) as (launch, _):
            return device.timed(launch, seconds)

    def layer_counts(self) -> dict[str, Any]:
        """Layer counts by TensorRT's engine inspector."""
        inspector = self.engine.create_engine_inspector()
        return layer_counts(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON))

    def _batch(self, images: Any) -> Any:
        with self._bound(images) as (launch, read):
            launch()
            return read()[: len(images)]

    @contextmanager
    def _bound(self, images: Any) -> Iterator[tuple[Callable[[], None], Callable[[], Any]]]:
        """Uploads images; returns functions that launch the engine and wait, and that read the logits."""
        if self.fixed and len(images) < self.batch:
            images = np.concatenate([images, np.repeat(images[-1:], self.batch - len(images), axis=0)])
        images = np.ascontiguousarray(images)
        self.context.set_input_shape(self.input, images.shape)
        logits = np.empty(tuple(self.context.get_tensor_shape(self.output)), np.float32)
        addresses = [self.cuda.allocate(images.nbytes), self.cuda.allocate(logits.nbytes)]

        def launch() -> None:
            if not self.context.execute_async_v3(self.cuda.stream.value):
                raise BundleError("TensorRT could not run the engine")
            self.cuda.wait()

        def read() -> Any:
            self.cuda.download(logits, addresses[1])
            return logits

        try:
            self.context.set_tensor_address(self.input, addresses[0])
            self.context.set_tensor_address(self.output, addresses[1])
            self.cuda.upload(addresses[0], images)
            yield launch, read
        finally:
            for address in addresses:
                self.cuda.release(address)


def layer_counts(information: str) -> dict[str, Any]:
    """Number of weighted layers, and of those that read int8, from the JSON of TensorRT's engine inspector."""
    kernels: dict[str, int] = {}
    weighted = integer = 0
    for layer in json.loads(information)["Layers"]:
        if isinstance(layer, dict):  # a plain name does not identify the kernel
            kind = str(layer.get("ParameterType") or layer.get("LayerType"))
            inputs = layer.get("Inputs") or [{}]
            int8 = "int8" in str(inputs[0].get("Format/Datatype", "")).lower()
            key = f"{kind} int8" if int8 else kind
            kernels[key] = kernels.get(key, 0) + 1
            if any(word in f"{kind} {layer.get('LayerType')}".lower() for word in WEIGHTED):
                weighted += 1
                integer += int8
    return {"weighted": weighted, "integer": integer, "kernels": kernels}


def identity(folder: Path, plan: bytes, trt: Any, facts: dict[str, Any]) -> dict[str, Any]:
    """Identity of an engine: its bundle, TensorRT and GPU, which the sidecar stores."""
    manifest = device.sha256((folder / "manifest.json").read_bytes())
    return {"plan_sha256": device.sha256(plan), "manifest_sha256": manifest, "tensorrt": trt.__version__, **facts}


def own_plan(folder: Path, trt: Any, facts: dict[str, Any]) -> bytes:
    """The engine's bytes, if its sidecar says that it was built from this bundle, on this GPU, by this TensorRT."""
    again = "type 'python3 build_engine.py'"
    try:
        plan = (folder / PLAN).read_bytes()
        written = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        expected = {key: written[key] for key in identity(folder, plan, trt, facts)}
    except (OSError, ValueError, KeyError, TypeError) as failure:
        raise BundleError(f"{PLAN} was not built by build_engine.py here ({failure!r}): {again}", 2) from failure
    for key, value in identity(folder, plan, trt, facts).items():
        if expected[key] != value:
            what = f"{key} is {value!r} and was {expected[key]!r}"
            raise BundleError(f"{PLAN} is not the engine that was built here ({what}): {again}", 2)
    return plan


def examine(folder: Path, manifest: dict[str, Any], runner: Runner, plan: bytes, seconds: float) -> dict[str, Any]:
    """Sections of ``device.json`` that need no images of the user: golden outputs, layers, latency, conditions."""
    runtime = {"name": "tensorrt", "version": runner.trt.__version__, "threads": 1}
    sections = device.examined(folder, manifest, runner.run, lambda images: runner.latency(images, seconds), runtime)
    facts = identity(folder, plan, runner.trt, runner.cuda.facts())
    return {**sections, "engine": {**facts, "census": runner.layer_counts()}}


def finish(folder: Path, manifest: dict[str, Any], sections: dict[str, Any], say: Callable[[str], None]) -> None:
    """Writes ``device.json`` and prints its contents."""
    whole, counts = device.report(folder, manifest, sections), sections["engine"]["census"]
    say(f"{PLAN}: {counts['integer']} of {counts['weighted']} weighted layers run in int8")
    device.finish(whole, say, "this engine")


class Bar:
    """A progress bar with the remaining time on a terminal; elsewhere one line per label."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._label, self._start, self._drawn = clock, "", 0.0, 0.0

    def show(self, label: str, share: float) -> None:
        """Draws the bar; ``share`` is the completed share, from 0 to 1."""
        time_s = self._clock()
        if label != self._label:
            self._label, self._start, self._drawn = label, time_s, time_s - 1
            if not sys.stderr.isatty():
                print(f"  ...  {label}", file=sys.stderr)  # noqa: T201 - a command's bar
        if not sys.stderr.isatty() or (time_s - self._drawn < 0.2 and share < 1):
            return
        self._drawn = time_s
        left = (time_s - self._start) * (1 - share) / share if share > 0.01 else None
        eta = "eta -:--" if left is None else f"eta {int(left) // 60}:{int(left) % 60:02d}"
        filled = "#" * int(30 * share)
        print(f"\r  {label} [{filled:.<30}] {share:4.0%} {eta} ", end="", file=sys.stderr, flush=True)  # noqa: T201

    def done(self) -> None:
        """Ends the line."""
        if sys.stderr.isatty() and self._label:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)  # noqa: T201
        self._label = ""
