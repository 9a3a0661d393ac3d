"""Builds a TensorRT engine from the bundle this file lies in, on the device it lies on, and checks its answers.

    python3 build_engine.py                 verify, build model.plan, compare golden answers, measure latency
    python3 build_engine.py --check-only    verify the files and say whether TensorRT and a GPU are here

Needs TensorRT 8.5 or newer, numpy, and Python 3.8 or newer; nothing else, and no network.
Exit codes: 0 done, 1 the build failed or golden answers differ, 2 the bundle is damaged, 3 no TensorRT or no GPU here.
"""
# ruff: noqa: T201 - this file is a command of its own and speaks to whoever runs it on the device

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

PLAN, SIDECAR, CACHE = "model.plan", "model.plan.json", "timing.cache"
WEIGHTED = ("conv", "gemm", "matrix", "fullyconnected")  # parts of the inspector's names for weighted layers


class BundleError(Exception):
    """What went wrong, with the exit code that tells it."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def sha256(data: bytes) -> str:
    """sha256 as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def check_files(folder: Path) -> dict[str, Any]:
    """The bundle's manifest, once every file in it has the sha256 written there.

    Raises:
        BundleError: A file is missing or was changed.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        listed = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as failure:
        raise BundleError(f"manifest.json cannot be read ({failure}): copy the bundle again", 2) from failure
    for name, expected in listed.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise BundleError(f"{name} is missing: copy the bundle again", 2)
        if sha256(path.read_bytes()) != expected:
            raise BundleError(f"{name} is damaged (its sha256 is not the manifest's): copy the bundle again", 2)
    return manifest


def load_tensorrt() -> Any:
    """The ``tensorrt`` module."""
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError, RuntimeError) as failure:
        raise BundleError(
            f"TensorRT does not load here ({failure}): JetPack has it as the package python3-libnvinfer", 3
        ) from failure


def recorder(trt: Any) -> Any:
    """A TensorRT logger that keeps warnings and errors in ``problems`` instead of printing everything."""

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


def parse(trt: Any, builder: Any, model: bytes, log: Any, *, strong: bool = False) -> tuple[Any, Any]:
    """``(network, parser)`` of an ONNX file; weights live as long as the parser does.

    ``strong`` asks for strong typing where a version has both, as 10 has.

    Raises:
        BundleError: The parser refused it; the message has its words and the node.
    """
    flags = trt.NetworkDefinitionCreationFlag
    weak = hasattr(trt.BuilderFlag, "INT8") and not strong  # TensorRT 11 and TensorRT-RTX know strong typing alone
    explicit = getattr(flags, "EXPLICIT_BATCH", None)  # needed by TensorRT 8, the only way later
    creation = 1 << int(explicit) if weak and explicit is not None else 0
    network = builder.create_network(creation if weak else 1 << int(flags.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        words = "; ".join(_parser_error(parser.get_error(index)) for index in range(parser.num_errors))
        raise BundleError(f"TensorRT {trt.__version__} refused the graph: {words or log.errors()}")
    return network, parser


def _parser_error(error: Any) -> str:
    # Without a GPU the shape query behind an error appends a CUDA line of its own, which says nothing about the graph.
    words = " ".join(line for line in error.desc().splitlines() if "catchCudaError" not in line)
    node = error.node_name() if hasattr(error, "node_name") else ""
    return f"node {node}: {words}" if node else f"node number {error.node()}: {words}" if error.node() >= 0 else words


def build_plan(trt: Any, model: bytes, build: dict[str, Any], log: Any, tune: Callable[[Any], None]) -> bytes:
    """The serialized engine of an ONNX file.

    Args:
        trt: The ``tensorrt`` or ``tensorrt_rtx`` module.
        model: Bytes of the ONNX file.
        build: The manifest's ``build`` section.
        log: What ``recorder`` made.
        tune: Called with the builder configuration before the build, for what only one runtime or caller has.

    Raises:
        BundleError: Parser or builder refused; the message has their words.
    """
    builder = trt.Builder(log)
    network, parser = parse(trt, builder, model, log, strong=build.get("strongly_typed", False))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, build["workspace_mib"] << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for name in build["precisions"]:
        if hasattr(trt.BuilderFlag, name):
            config.set_flag(getattr(trt.BuilderFlag, name))
    if build["optimization_level"] is not None and hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = build["optimization_level"]
    given = network.get_input(0)
    if given.shape[0] == -1:
        profile = builder.create_optimization_profile()
        profile.set_shape(given.name, *([batch, *build["image"]] for batch in build["batch"]))
        config.add_optimization_profile(profile)
    tune(config)
    plan = builder.build_serialized_network(network, config)
    del parser
    if plan is None:
        raise BundleError(f"TensorRT {trt.__version__} built no engine: {log.errors()}")
    return bytes(plan)


class Cuda:
    """The CUDA driver through ctypes, because JetPack has no Python package for it.

    Raises:
        BundleError: There is no driver or no GPU.
    """

    def __init__(self) -> None:
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
            self.call("cuInit", 0)
        except (OSError, BundleError) as failure:
            raise BundleError(f"no NVIDIA GPU here ({failure})", 3) from failure
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
        """Frees what ``allocate`` gave."""
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
    """An engine with one float32 input and one float32 output, ready to run."""

    def __init__(self, trt: Any, plan: bytes, log: Any) -> None:
        self.cuda = Cuda()
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
        """Logits float32 ``[N,classes]`` of images float32 ``[N,C,H,W]``."""
        return np.concatenate(
            [self._batch(images[i : i + self.batch], 1)[0] for i in range(0, len(images), self.batch)]
        )

    def latency(self, images: Any, warmup: int = 50, count: int = 200) -> list[float]:
        """Milliseconds of each run of one batch, from launch to the end of the stream, copies left out."""
        return sorted(self._batch(images[:1], warmup + count)[1][warmup:])

    def _batch(self, images: Any, repeats: int) -> tuple[Any, list[float]]:
        count = len(images)
        if self.fixed and count < self.batch:
            images = np.concatenate([images, np.repeat(images[-1:], self.batch - count, axis=0)])
        images = np.ascontiguousarray(images, dtype=np.float32)
        self.context.set_input_shape(self.input, images.shape)
        logits = np.empty(tuple(self.context.get_tensor_shape(self.output)), np.float32)
        addresses = [self.cuda.allocate(images.nbytes), self.cuda.allocate(logits.nbytes)]
        try:
            self.context.set_tensor_address(self.input, addresses[0])
            self.context.set_tensor_address(self.output, addresses[1])
            self.cuda.upload(addresses[0], images)
            times = []
            for _ in range(repeats):
                start = time.perf_counter()
                if not self.context.execute_async_v3(self.cuda.stream.value):
                    raise BundleError("TensorRT could not run the engine")
                self.cuda.wait()
                times.append(1e3 * (time.perf_counter() - start))
            self.cuda.download(logits, addresses[1])
        finally:
            for address in addresses:
                self.cuda.release(address)
        return logits[:count], times


def layer_census(information: str) -> dict[str, Any]:
    """Weighted layers, and how many of them read int8, in the JSON of TensorRT's engine inspector."""
    kernels: dict[str, int] = {}
    weighted = integer = 0
    for layer in json.loads(information)["Layers"]:
        if isinstance(layer, dict):  # a plain name says nothing about the kernel
            kind = str(layer.get("ParameterType") or layer.get("LayerType"))
            inputs = layer.get("Inputs") or [{}]
            int8 = "int8" in str(inputs[0].get("Format/Datatype", "")).lower()
            key = f"{kind} int8" if int8 else kind
            kernels[key] = kernels.get(key, 0) + 1
            if any(word in f"{kind} {layer.get('LayerType')}".lower() for word in WEIGHTED):
                weighted += 1
                integer += int8
    return {"weighted": weighted, "integer": integer, "kernels": kernels}


def compare(expected: Any, found: Any, tolerance: float) -> dict[str, Any]:
    """Golden answers against the device's: agreeing top-1 answers and the largest difference of a logit."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return {
            "images": len(expected),
            "top1_agreeing": 0,
            "max_abs_delta": None,
            "tolerance": tolerance,
            "passed": False,
        }
    delta = float(np.abs(found - expected).max())
    agreeing = int((found.argmax(1) == expected.argmax(1)).sum())
    return {
        "images": len(expected),
        "top1_agreeing": agreeing,
        "max_abs_delta": delta,
        "tolerance": tolerance,
        "passed": delta <= tolerance,
    }


def build_here(folder: Path, manifest: dict[str, Any], trt: Any, log: Any) -> bytes:
    """Builds the engine of a bundle, reusing and renewing the timing cache this file left behind."""
    cache_path, configs = folder / CACHE, []
    known = b""
    if cache_path.is_file() and (folder / SIDECAR).is_file():
        data = cache_path.read_bytes()
        written = json.loads((folder / SIDECAR).read_text(encoding="utf-8")).get("timing_cache_sha256")
        known = data if sha256(data) == written else b""

    def tune(config: Any) -> None:
        if not config.set_timing_cache(config.create_timing_cache(known), False):  # made on another device
            config.set_timing_cache(config.create_timing_cache(b""), False)
        configs.append(config)

    plan = build_plan(trt, (folder / manifest["build"]["model"]).read_bytes(), manifest["build"], log, tune)
    write(cache_path, bytes(configs[0].get_timing_cache().serialize()))
    write(folder / PLAN, plan)
    return plan


def write(path: Path, data: bytes) -> None:
    """Writes beside, then renames: a file is never half there."""
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(data)
    beside.replace(path)


def measure(folder: Path, manifest: dict[str, Any], trt: Any, plan: bytes, log: Any) -> dict[str, Any]:
    """What the engine is, how its golden answers compare, and how fast it is."""
    runner, golden = Runner(trt, plan, log), manifest["golden"]
    inputs, expected = (np.load(folder / golden[key], allow_pickle=False) for key in ("inputs", "outputs"))
    times = runner.latency(inputs)
    inspector = runner.engine.create_engine_inspector()
    return {
        "plan_sha256": sha256(plan),
        "model_sha256": manifest["files"][manifest["build"]["model"]]["sha256"],
        "timing_cache_sha256": sha256((folder / CACHE).read_bytes()),
        "tensorrt": trt.__version__,
        **runner.cuda.facts(),
        "census": layer_census(inspector.get_engine_information(trt.LayerInformationFormat.JSON)),
        "golden": compare(expected, runner.run(inputs), golden["tolerance"]),
        "latency_ms": {
            "p50": times[len(times) // 2],
            "p90": times[len(times) * 9 // 10],
            "runs": len(times),
            "batch": 1,
        },
    }


def run(folder: Path, *, check_only: bool) -> int:
    """The whole command; see the top of this file."""
    manifest = check_files(folder)
    print(f"bundle intact: {len(manifest['files'])} files, {manifest['model']} for {manifest['target']}")
    trt, facts = load_tensorrt(), Cuda().facts()
    wanted = manifest["build"]["tensorrt"]
    print(f"TensorRT {trt.__version__} on {facts['gpu']}, compute capability {facts['sm']}")
    if not trt.__version__.startswith(wanted):
        print(f"note: this bundle was made for TensorRT {wanted}")
    if check_only:
        return 0
    log = recorder(trt)
    report = measure(folder, manifest, trt, build_here(folder, manifest, trt, log), log)
    write(folder / SIDECAR, (json.dumps(report, indent=2, sort_keys=True) + "\n").encode())
    census, golden, latency = report["census"], report["golden"], report["latency_ms"]
    print(f"{PLAN}: {census['integer']} of {census['weighted']} weighted layers run in int8")
    print(f"latency p50 {latency['p50']:.3f} ms, p90 {latency['p90']:.3f} ms (batch 1, {latency['runs']} runs)")
    print(
        f"golden answers: top-1 agrees on {golden['top1_agreeing']} of {golden['images']}, "
        f"max |delta logit| {golden['max_abs_delta']} (tolerance {golden['tolerance']:.4g})"
    )
    if not golden["passed"]:
        raise BundleError("golden answers differ from what this network has to say: do not deploy this engine")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Build and check the TensorRT engine of this bundle.")
    parser.add_argument("--check-only", action="store_true", help="verify the files and look for TensorRT and a GPU")
    try:
        return run(Path(__file__).resolve().parent, check_only=parser.parse_args(arguments).check_only)
    except BundleError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return failure.exit_code


if __name__ == "__main__":
    sys.exit(main())
