"""The single file that builds an engine on the device, run here as far as a host without TensorRT can."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from drawn_networks import draw, export, random_images, tiny
from host_engine import install

from edgeres.backends.bundle import build_engine, device, engine
from edgeres.backends.tensorrt.loader import tensorrt_bundle
from edgeres.targets.target import find_target

BUNDLE = Path(device.__file__).parent
COMMANDS = ("build_engine.py", "run_engine.py", "check_device.py", "engine.py", "device.py", "pixels.py")


def test_severities_are_distinguished_by_name():
    trt = pytest.importorskip("tensorrt_rtx")
    log = engine.recorder(trt)
    for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
        log.log(getattr(trt.ILogger.Severity, name), name.lower())
    assert log.problems == [("INTERNAL_ERROR", "internal_error"), ("ERROR", "error"), ("WARNING", "warning")]
    assert log.errors() == "internal_error; error"


NEWER = {"removeprefix", "removesuffix", "bit_count", "cache", "pairwise", "is_relative_to", "readlink", "randbytes"}
"""Names of the standard library that Python 3.8 has not."""


@pytest.mark.parametrize("name", COMMANDS)
def test_what_travels_reads_as_python_3_8_and_needs_numpy_alone(name):
    tree = ast.parse((BUNDLE / name).read_text(), feature_version=(3, 8))
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    } | {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {"edgeres", "engine", "device", "pixels"}
    assert imported - set(sys.stdlib_module_names) - ours <= {"numpy", *(["PIL"] if name == "run_engine.py" else [])}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert attributes & NEWER == set()
    assert not any(
        word.arg == "strict" for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.keywords
    )
    assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))
    merged = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)]
    hints = {id(part) for hint in _hints(tree) for part in ast.walk(hint)}
    assert [ast.unparse(node) for node in merged if id(node) not in hints] == []


def _hints(tree):
    """Annotations, which Python 3.8 does not evaluate behind the __future__ import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield from (
                argument.annotation for argument in ast.walk(node.args) if getattr(argument, "annotation", None)
            )
            if node.returns:
                yield node.returns
        elif isinstance(node, ast.AnnAssign):
            yield node.annotation


def test_graph_is_built_by_the_code_in_the_bundle():
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
    assert build_engine.build_plan(trt, model, build, engine.recorder(trt), tune)[:4] == b"vtrt"
    with pytest.raises(device.BundleError, match="refused the graph"):
        build_engine.build_plan(trt, model[: len(model) // 2], build, engine.recorder(trt), tune)


def test_builder_gets_the_settings_of_the_manifest():
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
    assert build_engine.build_plan(trt, b"", build, None, lambda _: None) == b"plan"
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
    found = engine.layer_counts(json.dumps({"Layers": layers}))
    kernels = {"Convolution int8": 1, "Convolution": 1, "MatrixMultiply": 1, "Reformat int8": 1}
    assert found == {"weighted": 3, "integer": 1, "kernels": kernels}


def build(bundle):
    build_engine.run(bundle, check_only=False, seconds=0)


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / "out").mkdir()
    tensorrt_bundle(export(tmp_path / "export", tiny(), 32, "signed"), find_target("jetson"), tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def on_device(monkeypatch):
    """The whole command with stand-ins for the GPU, its driver and the builder; yields the engines that ran."""
    return install(monkeypatch)


def test_the_runner_cuts_batches_to_the_profile_and_frees_its_memory(on_device):
    images, model = random_images(7, 32, 0), draw(tiny(), 32, "signed").SerializeToString()
    runner = engine.Runner(engine.load_tensorrt(), model, None)
    found = runner.run(images)
    expected = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert on_device[0].batches == [3, 3, 1]
    assert runner.cuda.blocks == {}
    assert len(runner.latency(images, seconds=0)["samples_ns"]) == device.LEAST
    assert runner.cuda.blocks == {}


def test_device_builds_compares_measures_and_reports(bundle, on_device, capsys):
    build(bundle)
    sidecar = json.loads((bundle / engine.SIDECAR).read_text())
    assert sidecar["plan_sha256"] == device.sha256((bundle / engine.PLAN).read_bytes())
    assert sidecar["manifest_sha256"] == device.sha256((bundle / "manifest.json").read_bytes())
    assert (sidecar["gpu"], sidecar["sm"], sidecar["driver"]) == ("stand-in", "8.7", 12060)
    report = json.loads((bundle / device.REPORT).read_text())
    assert report["golden"]["passed"]
    assert report["golden"]["top1_agreeing"] == 8
    assert report["engine"]["plan_sha256"] == sidecar["plan_sha256"]
    assert report["seal"] == device.seal(report)
    assert len(report["latency_ms"]["samples_ns"]) >= device.LEAST
    assert "top-1 agrees on 8 of 8" in capsys.readouterr().out
    assert list(bundle.glob("*.part")) == []


def test_only_a_timing_cache_of_its_own_is_reused(bundle, on_device):
    build(bundle)
    build(bundle)
    assert (bundle / build_engine.CACHE).read_bytes() == b"timed after timed after "
    (bundle / build_engine.CACHE).write_bytes(b"planted")
    build(bundle)
    assert (bundle / build_engine.CACHE).read_bytes() == b"timed after "


def test_wrong_answers_end_in_failure(bundle, on_device):
    golden = np.load(bundle / "golden_outputs.npy")
    np.save(bundle / "golden_outputs.npy", golden[:, ::-1])
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["golden_outputs.npy"]["sha256"] = device.sha256((bundle / "golden_outputs.npy").read_bytes())
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(device.BundleError, match="do not deploy") as failure:
        build(bundle)
    assert failure.value.exit_code == 1
    assert not json.loads((bundle / device.REPORT).read_text())["golden"]["passed"]


def command(bundle, *arguments):
    call = [sys.executable, "build_engine.py", *arguments]
    return subprocess.run(call, cwd=bundle, capture_output=True, text=True, check=False)


def test_without_tensorrt_it_verifies_says_so_and_ends_with_3(bundle):
    (bundle / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: no such file')")
    done = command(bundle, "--check-only")
    assert done.returncode == 3
    assert "bundle intact: 17 files" in done.stdout
    assert "TensorRT does not load here (libnvinfer.so.10: no such file)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "name", ["model.onnx", "golden_inputs.npy", "preprocess.json", "build_engine.sh", "engine.py", "SHA256SUMS"]
)
def test_a_flipped_byte_is_caught_before_anything_is_built(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(device.BundleError, match=f"{name} is damaged") as failure:
        device.verified(bundle, print)
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
        device.verified(bundle, print)


def test_progress_of_nested_phases_is_monotonic():
    phases, seen = build_engine.Phases(), []

    def look():
        seen.append(round(phases.share, 4))

    phases.start("build", None, 4)
    phases.step("build", 0)
    look()
    phases.start("tactics", "build", 2)
    look()
    phases.step("tactics", 0)
    look()
    phases.start("one kernel", "tactics", 2)
    phases.step("one kernel", 0)
    look()
    phases.finish("one kernel")
    phases.step("tactics", 1)
    phases.finish("tactics")
    look()
    phases.step("build", 1)
    phases.finish("build")
    look()
    assert seen == [0.25, 0.25, 0.375, 0.4375, 0.5, 1.0]
    assert phases.name == "build"
    phases.start("another", None, 2)
    assert (phases.name, phases.share) == ("another", 0.0)


PORTABLE = {"workspace_mib": 64, "precisions": [], "optimization_level": 0, "image": [3, 32, 32], "batch": [1, 1, 8]}


def test_real_builder_reports_progress_and_can_be_stopped():
    trt = pytest.importorskip("tensorrt_rtx")
    model, seen = draw(tiny(), 32, "signed").SerializeToString(), []

    def tune(config):
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)

    def watch(label, share):
        seen.append((label, share))

    assert build_engine.build_plan(trt, model, PORTABLE, engine.recorder(trt), tune, watch=watch)
    shares = [share for label, share in seen if label == seen[0][0]]
    assert shares == sorted(shares)
    assert shares[0] == 0 < shares[-1] <= 1
    assert len(seen) > 3

    for failure, late in ((KeyboardInterrupt(), 0.1), (BrokenPipeError(), 0)):

        def interrupt(label, share, failure=failure, late=late):
            if share >= late:
                raise failure

        with pytest.raises(type(failure)):
            build_engine.build_plan(trt, model, PORTABLE, engine.recorder(trt), tune, watch=interrupt)
