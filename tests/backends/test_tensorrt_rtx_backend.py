"""TensorRT-RTX: real engines from a machine without a GPU."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from drawn_networks import draw, export, random_images, reference, tiny
from onnx import helper, numpy_helper

from edgeres.artifacts.artifact import File
from edgeres.backends.tensorrt.loader import RTX_ENTRY, TensorRTRTX, compile_portable, plan_kernel_counts
from edgeres.backends.tensorrt.runner import UNITS, gpu
from edgeres.errors import StageError
from edgeres.progress import Silent
from edgeres.targets.target import find_target

pytest.importorskip("tensorrt_rtx")
RTX = find_target("rtx")


def build(folder, style="signed", name="out", model=None):
    exported = export(folder / "export", tiny(), 32, style)
    if model is not None:
        onnx.save(model, folder / "changed.onnx")
        exported = replace(exported, model=File.of(folder / "changed.onnx"))
    (folder / name).mkdir()
    return TensorRTRTX().build(exported, RTX, folder / name, Silent())


def zero_point(model, name, value):
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    return model


def test_a_real_engine_is_built(tmp_path):
    engine = build(tmp_path)
    assert engine.files[RTX_ENTRY].path.read_bytes()[:4] == b"vtrt"
    assert engine.runs_here == (gpu() is not None)
    assert "SM86, SM89, SM120" in engine.evidence[0]
    assert not any(digit in engine.evidence[0] for digit in ("second", " ms"))


def test_build_reports_its_progress(tmp_path):
    told = []
    exported = export(tmp_path / "export", tiny(), 32, "signed")
    compile_portable(exported.model.path, RTX, told.append)
    assert min(told) > 0
    assert UNITS // 2 < sum(told) <= UNITS
    assert len(told) > 3


def test_the_engine_lists_int8_operands_for_every_convolution(tmp_path):
    found = TensorRTRTX().integer_kernels(build(tmp_path))
    assert (found.integer, found.weighted) == (6, 7)
    assert found.counts == {"convolution int8 x int8": 6, "matrix product float x float": 1}


def test_a_float_engine_lists_none(tmp_path):
    found = TensorRTRTX().integer_kernels(build(tmp_path, "float"))
    assert (found.integer, found.weighted) == (0, 7)


def test_one_convolution_without_weight_codes_is_missed_in_the_count(tmp_path):
    model = draw(tiny(), 32, "signed")
    node = next(node for node in model.graph.node if node.name == "layer1.0.conv1")
    codes = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "layer1.0.conv1.weight"))
    model.graph.initializer.append(numpy_helper.from_array(codes.astype(np.float32) * 1e-3, "plain"))
    node.input[1] = "plain"
    found = TensorRTRTX().integer_kernels(build(tmp_path, model=model))
    assert (found.integer, found.weighted) == (5, 7)


def test_int8_weights_with_float_data_are_no_integer_kernel():
    tensors = "".join(
        f'tensor={{ dims={{ 8 }} name="{name}" strides={{ 1 }} type={kind} }}\n'
        for name, kind in (("x", "half"), ("w", "int8"), ("y", "int8"))
    )
    layers = "".join(
        f'corrltn={{ name="c" output={{"o" }} input={{"{data}" "w" }} scratchspace={{ }} }}\n' for data in ("x", "y")
    )
    found = plan_kernel_counts(f"vtrt\x00\xff {tensors}{layers}".encode("latin-1"))
    assert (found.integer, found.weighted) == (1, 2)
    assert found.counts == {"convolution half x int8": 1, "convolution int8 x int8": 1}


def test_engine_without_layer_listing_is_not_counted():
    assert plan_kernel_counts(b"vtrt\x00 something else").weighted == 0


def test_its_session_simulates_to_the_last_bit_where_no_gpu_is(tmp_path):
    engine = replace(build(tmp_path), runs_here=False)
    images = random_images(4, 32, seed=1)
    with TensorRTRTX().engine_session(engine, RTX) as session:
        np.testing.assert_array_equal(session.run(images), reference(engine.exported.model.path, images))


def test_a_nonzero_zero_point_is_refused_in_the_parsers_words_with_the_node(tmp_path):
    model = zero_point(draw(tiny(), 32, "signed"), "maxpool.zero", np.asarray(3, np.int8))
    with pytest.raises(StageError, match=r"node maxpool\.q: .*[Nn]on-zero zero point is not supported"):
        build(tmp_path, model=model)


def test_uint8_is_refused_because_it_would_be_read_as_int8(tmp_path):
    model = zero_point(draw(tiny(), 32, "signed"), "maxpool.zero", np.asarray(0, np.uint8))
    with pytest.raises(StageError, match="uint8 codes as int8"):
        build(tmp_path, model=model)


def test_int32_bias_is_refused_without_cuda_errors(tmp_path):
    model = zero_point(draw(tiny(), 32, "signed"), "conv1.bias", np.ones(16, np.int32))
    model.graph.initializer[[t.name for t in model.graph.initializer].index("conv1.bias")].name = "conv1.bias.codes"
    model.graph.initializer.append(numpy_helper.from_array(np.full(16, 1e-3, np.float32), "conv1.bias.scale"))
    inputs = ["conv1.bias.codes", "conv1.bias.scale"]
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, ["conv1.bias"], name="bias.dq", axis=0))
    with pytest.raises(StageError, match=r"node bias\.dq: .*Int32") as refusal:
        build(tmp_path, model=model)
    assert "CUDA" not in str(refusal.value)


def test_an_unknown_operator_is_refused_by_name(tmp_path):
    model = draw(tiny(), 32, "signed")
    model.graph.node[-1].op_type = "Frobnicate"
    with pytest.raises(StageError, match="node fc: "):
        build(tmp_path, model=model)


def test_a_changed_engine_is_not_counted(tmp_path):
    engine = build(tmp_path)
    path = engine.files[RTX_ENTRY].path
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(StageError, match="changed after it was made"):
        TensorRTRTX().integer_kernels(engine)


def test_missing_names_the_pip_line(monkeypatch):
    assert TensorRTRTX().missing() is None
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert TensorRTRTX().missing() == "TensorRT-RTX is not installed: pip install 'edgeres[tensorrt-rtx]'"
