"""ONNX Runtime on this host and in a device's bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from drawn_networks import draw, export, random_images, reference, tiny
from onnx import numpy_helper

from edgeres.artifacts.artifact import File
from edgeres.backends.onnxruntime.loader import OnnxRuntime, operator_counts
from edgeres.backends.session import in_batches, onnx_session
from edgeres.errors import BackendUnavailable, StageError
from edgeres.progress import Silent
from edgeres.targets.target import find_target

CPU, PI = find_target("cpu"), find_target("raspberry-pi")


def build(folder, target=CPU, style="unsigned"):
    exported = export(folder / "export", tiny(), 32, style)
    out = folder / "out"
    out.mkdir()
    return OnnxRuntime().build(exported, target, out, Silent())


def test_the_graph_is_the_engine(tmp_path):
    engine = build(tmp_path)
    assert engine.entry == "model.onnx"
    assert engine.runs_here
    assert engine.files["model.onnx"].sha256 == engine.exported.model.sha256


def test_unsigned_activations_run_every_convolution_and_add_in_integers(tmp_path):
    found = OnnxRuntime().integer_kernels(build(tmp_path))
    assert (found.integer, found.weighted) == (6, 7)
    assert found.counts["QLinearConv"] == 6
    assert found.counts["QLinearAdd"] == 2
    assert not {"Conv", "FusedConv", "Add"} & set(found.counts)


def test_signed_activations_lose_integer_kernels(tmp_path):
    found = OnnxRuntime().integer_kernels(build(tmp_path, style="signed"))
    assert found.weighted == 7
    assert found.integer < 6


def test_a_float_graph_has_no_integer_kernel(tmp_path):
    found = OnnxRuntime().integer_kernels(build(tmp_path, style="float"))
    assert (found.integer, found.weighted) == (0, 7)


def test_logits_stay_within_a_rounding_step_of_the_graph_as_written(tmp_path):
    engine, images = build(tmp_path), random_images(5, 32, seed=1)
    expected = reference(engine.exported.model.path, images)
    with OnnxRuntime().engine_session(engine, CPU, threads=1) as session:
        found = session.run(images)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 0.01 * np.ptp(expected)


def test_float_reference_runs_on_the_same_runtime(tmp_path):
    engine, images = build(tmp_path), random_images(3, 32, seed=2)
    with OnnxRuntime().session(engine.exported.float_model.path, CPU) as session:
        np.testing.assert_allclose(session.run(images), reference(engine.exported.float_model.path, images), atol=1e-4)


def test_swapped_channels_are_noticed_by_the_session(tmp_path):
    engine, images = build(tmp_path), random_images(3, 32, seed=2)
    model = onnx.load(engine.exported.model.path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "conv1.weight")
    swapped = numpy_helper.to_array(tensor)[[1, 0, *range(2, 16)]]
    tensor.CopyFrom(numpy_helper.from_array(swapped, tensor.name))
    onnx.save(model, tmp_path / "mutant.onnx")
    with OnnxRuntime().session(tmp_path / "mutant.onnx", CPU) as session:
        found = session.run(images)
    assert np.abs(found - reference(engine.exported.model.path, images)).max() > 0.01


def test_a_changed_file_is_never_opened(tmp_path):
    engine = build(tmp_path)
    path = engine.files["model.onnx"].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StageError, match="changed after it was made"), OnnxRuntime().engine_session(engine, CPU):
        pass
    path.unlink()
    with pytest.raises(StageError, match="missing"):
        OnnxRuntime().integer_kernels(engine)


def test_refused_graph_quotes_the_runtime(tmp_path):
    exported = export(tmp_path / "export", tiny(), 32, "unsigned")
    model = onnx.load(exported.model.path)
    model.graph.node[-1].op_type = "Frobnicate"
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(StageError, match="Frobnicate"):
        OnnxRuntime().build(replace(exported, model=File.of(tmp_path / "bad.onnx")), CPU, tmp_path, Silent())


def test_missing_names_the_pip_line(monkeypatch):
    assert OnnxRuntime().missing() is None
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert OnnxRuntime().missing() == "ONNX Runtime is not installed: pip install 'onnxruntime>=1.20'"
    with pytest.raises(BackendUnavailable, match="pip install"), onnx_session(Path("model.onnx"), optimise=True):
        pass


def test_integer_and_float_kernels_are_distinguished():
    found = operator_counts(["QLinearConv"] * 3 + ["Relu"] * 9 + ["Conv", "Gemm", "QGemm"], "counted")
    assert (found.integer, found.weighted) == (4, 6)


def test_a_fixed_batch_is_filled_up_and_cut_back(tmp_path):
    model = draw(tiny(), 32, "float")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "fixed.onnx")
    onnx.save(draw(tiny(), 32, "float"), tmp_path / "free.onnx")
    images = random_images(5, 32, seed=3)
    with onnx_session(tmp_path / "fixed.onnx", optimise=False) as session:
        np.testing.assert_allclose(session.run(images), reference(tmp_path / "free.onnx", images), atol=1e-5)


def test_batches_of_exactly_the_fixed_size_are_handed_over_whole():
    seen = []
    in_batches(lambda batch: seen.append(len(batch)) or batch[:, :1, 0, 0], np.zeros((4, 3, 2, 2), np.float32), 4)
    assert seen == [4]


def test_a_device_gets_a_bundle_that_checks_itself(tmp_path):
    engine = build(tmp_path, PI)
    assert not engine.runs_here
    assert {
        "model.onnx",
        "check_device.py",
        "device.py",
        "golden_inputs.npy",
        "manifest.json",
        "preprocess.json",
    } <= set(engine.files)
    out = engine.files["model.onnx"].path.parent
    call = [sys.executable, "check_device.py", "--seconds", "0"]
    done = subprocess.run(call, cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "device.json").read_text())
    assert report["golden"]["passed"]
    assert report["golden"]["top1_agreeing"] == 8
    assert 0 < report["latency_ms"]["low"] <= report["latency_ms"]["p50"] <= report["latency_ms"]["p90_high"]
    assert (report["latency_ms"]["p99_high"], len(report["latency_ms"]["samples_ns"])) == (None, 44)
    assert report["conditions"]["before"]["load"] >= 0
    assert report["model_sha256"] == engine.files["model.onnx"].sha256


def test_the_devices_checker_refuses_a_flipped_byte(tmp_path):
    out = build(tmp_path, PI).files["model.onnx"].path.parent
    data = bytearray((out / "golden_outputs.npy").read_bytes())
    data[-1] ^= 1
    (out / "golden_outputs.npy").write_bytes(data)
    done = subprocess.run([sys.executable, "check_device.py"], cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "golden_outputs.npy is damaged" in done.stderr
    assert not (out / "device.json").exists()
