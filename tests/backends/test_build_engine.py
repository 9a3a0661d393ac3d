"""The single file that builds an engine on the device, run here as far as a host without TensorRT can."""

from __future__ import annotations

import ast
import ctypes
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from drawn_networks import draw, export, random_images, tiny

from edgeres.backends.bundle import build_engine as device
from edgeres.backends.bundle.write import tensorrt_bundle
from edgeres.target import find_target

SOURCE = Path(device.__file__).read_text()

# Every TensorRT name the file uses, by the object it is used on.
API = {
    "": {
        "Builder", "BuilderFlag", "ILogger", "LayerInformationFormat", "MemoryPoolType",
        "NetworkDefinitionCreationFlag", "OnnxParser", "ProfilingVerbosity", "Runtime", "TensorIOMode", "__version__",
    },
    "Builder": {
        "build_serialized_network", "create_builder_config", "create_network", "create_optimization_profile",
    },
    "INetworkDefinition": {"get_input"},
    "OnnxParser": {"get_error", "num_errors", "parse"},
    "ParserError": {"desc", "node", "node_name"},
    "IBuilderConfig": {
        "add_optimization_profile", "builder_optimization_level", "create_timing_cache", "get_timing_cache",
        "profiling_verbosity", "set_flag", "set_memory_pool_limit", "set_timing_cache",
    },
    "IOptimizationProfile": {"set_shape"},
    "ITimingCache": {"serialize"},
    "Runtime": {"deserialize_cuda_engine"},
    "ICudaEngine": {
        "create_engine_inspector", "create_execution_context", "get_tensor_mode", "get_tensor_name",
        "get_tensor_profile_shape", "get_tensor_shape", "num_io_tensors",
    },
    "IExecutionContext": {"execute_async_v3", "get_tensor_shape", "set_input_shape", "set_tensor_address"},
    "EngineInspector": {"get_engine_information"},
    "MemoryPoolType": {"WORKSPACE"},
    "ProfilingVerbosity": {"DETAILED"},
    "NetworkDefinitionCreationFlag": {"STRONGLY_TYPED"},
    "TensorIOMode": {"INPUT", "OUTPUT"},
    "LayerInformationFormat": {"JSON"},
}  # fmt: skip
HANDLES = {
    "trt",
    "builder",
    "network",
    "parser",
    "config",
    "profile",
    "engine",
    "context",
    "runtime",
    "inspector",
    "error",
}


@pytest.mark.parametrize("owner", API)
def test_every_tensorrt_name_exists_in_the_real_bindings(owner):
    trt = pytest.importorskip("tensorrt_rtx")
    held = getattr(trt, owner) if owner else trt
    assert [name for name in sorted(API[owner]) if not hasattr(held, name)] == []


def test_the_list_above_leaves_no_name_out():
    """Every attribute read off a TensorRT object in the source is declared, so a new one cannot go unchecked."""
    used = {
        node.attr
        for node in ast.walk(ast.parse(SOURCE))
        if isinstance(node, ast.Attribute)
        and (
            (isinstance(node.value, ast.Name) and node.value.id in HANDLES)
            or (isinstance(node.value, ast.Attribute) and node.value.attr in HANDLES)
        )
    }
    used -= {"parse_args", "add_argument"}
    assert used <= set().union(*API.values())


def test_severities_are_told_apart_by_their_names():
    trt = pytest.importorskip("tensorrt_rtx")
    log = device.recorder(trt)
    for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
        log.log(getattr(trt.ILogger.Severity, name), name.lower())
    assert log.problems == [("INTERNAL_ERROR", "internal_error"), ("ERROR", "error"), ("WARNING", "warning")]
    assert log.errors() == "internal_error; error"


def test_the_file_reads_as_python_3_8_and_needs_numpy_alone():
    tree = ast.parse(SOURCE, feature_version=(3, 8))
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    } | {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported - set(sys.stdlib_module_names) == {"numpy"}


def test_a_graph_is_parsed_and_built_by_the_very_code_that_ships():
    trt = pytest.importorskip("tensorrt_rtx")

    def tune(config):
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)

    build = {
        "workspace_mib": 64,
        "precisions": ["INT8", "FP16"],
        "optimization_level": 3,
        "image": [3, 32, 32],
        "batch": [1, 1, 8],
    }
    model = draw(tiny(), 32, "signed").SerializeToString()
    assert device.build_plan(trt, model, build, device.recorder(trt), tune)[:4] == b"vtrt"
    with pytest.raises(device.BundleError, match="refused the graph"):
        device.build_plan(trt, model[: len(model) // 2], build, device.recorder(trt), tune)


def test_the_builder_is_told_what_the_manifest_says():
    """A stand-in for TensorRT 8 to 10, which has precision flags, records the calls."""
    calls = []

    class Config:
        profiling_verbosity = builder_optimization_level = None

        def set_memory_pool_limit(self, pool, limit):
            calls.append((pool, limit))

        def set_flag(self, flag):
            calls.append(flag)

        def add_optimization_profile(self, profile):
            calls.append(profile.shapes)

    class Profile:
        def set_shape(self, *shapes):
            self.shapes = shapes

    config = Config()
    network = SimpleNamespace(get_input=lambda _: SimpleNamespace(name="image", shape=(-1, 3, 8, 8)))
    builder = SimpleNamespace(
        create_network=lambda flags: calls.append(flags) or network,
        create_builder_config=lambda: config,
        create_optimization_profile=Profile,
        build_serialized_network=lambda *_: b"plan",
    )
    trt = SimpleNamespace(
        __version__="8.5.2",
        Builder=lambda _: builder,
        OnnxParser=lambda *_: SimpleNamespace(parse=lambda _: True),
        BuilderFlag=SimpleNamespace(INT8="int8", FP16="fp16"),
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
        NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0),
    )
    build = {
        "workspace_mib": 2,
        "precisions": ["INT8", "FP16"],
        "optimization_level": 5,
        "image": [3, 8, 8],
        "batch": [1, 2, 4],
    }
    assert device.build_plan(trt, b"", build, None, lambda _: None) == b"plan"
    shapes = ("image", [1, 3, 8, 8], [2, 3, 8, 8], [4, 3, 8, 8])
    assert calls == [1, ("workspace", 2 << 20), "int8", "fp16", shapes]
    assert (config.builder_optimization_level, config.profiling_verbosity) == (5, "detailed")


def test_golden_answers_are_compared_by_the_worst_logit():
    expected = np.asarray([[1.0, 2.0], [4.0, 3.0]], np.float32)
    near, far = expected + np.float32(0.05), expected + np.asarray([[0, 0], [0, 2]], np.float32)
    assert device.compare(expected, near, 0.1)["passed"]
    found = device.compare(expected, far, 0.1)
    assert (found["passed"], found["max_abs_delta"], found["top1_agreeing"]) == (False, 2.0, 1)
    assert not device.compare(expected, np.full_like(expected, np.nan), 0.1)["passed"]
    assert not device.compare(expected, expected[:1], 0.1)["passed"]


def test_the_inspectors_layers_are_counted_by_the_type_they_read():
    def layer(kind, parameter, datatype):
        return {"LayerType": kind, "ParameterType": parameter, "Inputs": [{"Format/Datatype": datatype}]}

    int8, half = "Thirty-two wide channel vectorized row major Int8 format", "Row major linear FP16 format"
    layers = [
        layer("CaskConvolution", "Convolution", int8),
        layer("CaskConvolution", "Convolution", half),
        layer("CaskGemmMatrixMultiply", "MatrixMultiply", half),
        layer("Reformat", "Reformat", int8),
        "a layer of which only the name is known",
    ]
    found = device.layer_census(json.dumps({"Layers": layers}))
    kernels = {"Convolution int8": 1, "Convolution": 1, "MatrixMultiply": 1, "Reformat int8": 1}
    assert found == {"weighted": 3, "integer": 1, "kernels": kernels}


class HostCuda(device.Cuda):
    """The driver's calls on this host's memory."""

    def __init__(self):
        self.blocks = {}
        self.stream = ctypes.c_void_p(7)

    def facts(self):
        return {"gpu": "stand-in", "sm": "8.7", "driver": 12060}

    def allocate(self, size):
        block = ctypes.create_string_buffer(size)
        self.blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def release(self, address):
        del self.blocks[address]

    def upload(self, address, array):
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array, address):
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def wait(self):
        pass


@dataclass
class HostEngine:
    """An engine and its context whose kernels are ONNX Runtime's."""

    session: onnxruntime.InferenceSession
    addresses: dict[str, int] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    num_io_tensors: int = 2

    def get_tensor_name(self, index):
        return ("logits", "image")[index]

    def get_tensor_mode(self, name):
        return "in" if name == "image" else "out"

    def get_tensor_shape(self, name):
        if name == "image":
            return (-1, 3, 32, 32)
        return (self.shape[0], 10)

    def get_tensor_profile_shape(self, name, index):
        return [(batch, 3, 32, 32) for batch in (1, 1, 3)]

    def create_execution_context(self):
        return self

    def set_input_shape(self, name, shape):
        self.shape = tuple(shape)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        assert stream == 7
        self.batches.append(self.shape[0])
        count = int(np.prod(self.shape))
        images = np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.addresses["image"])).reshape(
            self.shape
        )
        logits = self.session.run(None, {"image": images})[0]
        ctypes.memmove(self.addresses["logits"], logits.ctypes.data, logits.nbytes)
        return True

    def create_engine_inspector(self):
        return SimpleNamespace(get_engine_information=lambda kind: json.dumps({"Layers": []}))


def stand_in(engines):
    """A TensorRT whose plan is the ONNX file itself."""

    def deserialize(plan):
        engines.append(HostEngine(onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])))
        return engines[-1]

    return SimpleNamespace(
        __version__="10.3.0",
        ILogger=object,
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=deserialize),
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        LayerInformationFormat=SimpleNamespace(JSON="json"),
    )


class Config:
    """A builder configuration that keeps timing caches as bytes."""

    def create_timing_cache(self, data):
        return data

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache
        return True

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: b"timed after " + self.cache)


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / "out").mkdir()
    tensorrt_bundle(export(tmp_path / "export", tiny(), 32, "signed"), find_target("jetson"), tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def on_device(monkeypatch):
    """The whole command with stand-ins for the GPU, its driver and the builder; yields the engines that ran."""
    engines = []
    trt = stand_in(engines)

    def build_plan(trt, model, build, log, tune):
        tune(Config())
        return model

    monkeypatch.setattr(device, "Cuda", HostCuda)
    monkeypatch.setattr(device, "load_tensorrt", lambda: trt)
    monkeypatch.setattr(device, "build_plan", build_plan)
    return engines


def test_the_runner_cuts_batches_to_the_profile_and_frees_its_memory(on_device):
    images, model = random_images(7, 32, 0), draw(tiny(), 32, "signed").SerializeToString()
    runner = device.Runner(device.load_tensorrt(), model, None)
    found = runner.run(images)
    expected = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert on_device[0].batches == [3, 3, 1]
    assert runner.cuda.blocks == {}
    assert len(runner.latency(images, warmup=2, count=5)) == 5


def test_on_a_device_it_builds_compares_measures_and_writes_down_what_it_found(bundle, on_device, capsys):
    assert device.run(bundle, check_only=False) == 0
    report = json.loads((bundle / device.SIDECAR).read_text())
    assert report["golden"]["passed"]
    assert report["golden"]["top1_agreeing"] == 8
    assert report["plan_sha256"] == device.sha256((bundle / device.PLAN).read_bytes())
    assert report["latency_ms"]["runs"] == 200
    assert (report["gpu"], report["sm"]) == ("stand-in", "8.7")
    assert "top-1 agrees on 8 of 8" in capsys.readouterr().out
    assert list(bundle.glob("*.part")) == []


def test_only_a_timing_cache_of_its_own_is_reused(bundle, on_device):
    device.run(bundle, check_only=False)
    device.run(bundle, check_only=False)
    assert (bundle / device.CACHE).read_bytes() == b"timed after timed after "
    (bundle / device.CACHE).write_bytes(b"planted")
    device.run(bundle, check_only=False)
    assert (bundle / device.CACHE).read_bytes() == b"timed after "


def test_wrong_answers_end_in_failure(bundle, on_device):
    golden = np.load(bundle / "golden_outputs.npy")
    np.save(bundle / "golden_outputs.npy", golden[:, ::-1])
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["golden_outputs.npy"]["sha256"] = device.sha256((bundle / "golden_outputs.npy").read_bytes())
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(device.BundleError, match="do not deploy") as failure:
        device.run(bundle, check_only=False)
    assert failure.value.exit_code == 1
    assert not json.loads((bundle / device.SIDECAR).read_text())["golden"]["passed"]


def command(bundle, *arguments):
    call = [sys.executable, "build_engine.py", *arguments]
    return subprocess.run(call, cwd=bundle, capture_output=True, text=True, check=False)


def test_without_tensorrt_it_verifies_says_so_and_ends_with_3(bundle):
    (bundle / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: no such file')")
    done = command(bundle, "--check-only")
    assert done.returncode == 3
    assert "bundle intact: 8 files" in done.stdout
    assert "TensorRT does not load here (libnvinfer.so.10: no such file)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "name", ["model.onnx", "golden_inputs.npy", "preprocess.json", "build_engine.sh", "SHA256SUMS"]
)
def test_a_flipped_byte_is_caught_before_anything_is_built(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(device.BundleError, match=f"{name} is damaged") as failure:
        device.check_files(bundle)
    assert failure.value.exit_code == 2


def test_a_missing_file_and_a_broken_manifest_are_caught(bundle):
    (bundle / "preprocess.json").unlink()
    assert command(bundle, "--check-only").returncode == 2
    (bundle / "manifest.json").write_text("{")
    done = command(bundle)
    assert done.returncode == 2
    assert "manifest.json cannot be read" in done.stderr


def test_a_manifest_cannot_point_out_of_its_folder(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["../export/model.onnx"] = manifest["files"]["model.onnx"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(device.BundleError, match="missing"):
        device.check_files(bundle)
