"""4-bit weights: bytes, graphs, runtimes and lint."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from edgeres.errors import StageError
from edgeres.model.cost import macs, parameters
from edgeres.model.graph import graph
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.onnx_graph.int4 import int4_tensor
from edgeres.onnx_graph.trace import trace
from edgeres.onnx_graph.write import LOGITS, write_model
from edgeres.quant.placement import place
from edgeres.quant.qparams import QParams
from edgeres.quant.quant_table import QuantTable
from edgeres.quant.quantized import QuantNetwork
from edgeres.quant.scale import weight_qparams
from edgeres.targets.target import find_target


@given(st.lists(st.integers(-8, 7), min_size=1, max_size=33))
def test_codes_come_back_as_the_same_integers(codes):
    tensor = int4_tensor(np.array(codes, dtype=np.int32), "codes")
    onnx.checker.check_tensor(tensor)
    assert len(tensor.raw_data) == (len(codes) + 1) // 2
    assert numpy_helper.to_array(tensor).astype(int).tolist() == codes


def test_bytes_by_hand():
    tensor = int4_tensor(np.array([[1, -1], [7, -8], [0, 3]], dtype=np.int32), "codes")
    assert tensor.raw_data == bytes([0xF1, 0x87, 0x30])
    assert list(tensor.dims) == [3, 2]


def test_bytes_are_those_that_onnx_itself_writes():
    codes = np.random.default_rng(0).integers(-8, 8, size=(5, 3, 3, 3)).astype(np.int32)
    theirs = onnx.helper.make_tensor("codes", TensorProto.INT4, codes.shape, codes.ravel())
    ours = numpy_helper.to_array(int4_tensor(codes, "codes")).astype(np.int8)
    assert np.array_equal(ours, numpy_helper.to_array(theirs).astype(np.int8))


@pytest.fixture(params=["jetson", "cpu"])
def narrow_scheme(request):
    """A scheme with 4-bit weights but for the first convolution's."""
    return replace(find_target(request.param).scheme, weight_bits=4, wide_layers=("conv1",))


def written(spec, weights, scheme, opset=21, ir_version=10):
    placement = place(graph(spec), scheme)
    activations = {
        tensor: QParams(scale=(0.05,), zero_point=0 if scheme.signed else 100, signed=scheme.signed)
        for tensor in placement.tensors
    }
    scales = {
        name: weight_qparams(weights[f"{name}.weight"], scheme.bits_of(name), "max") for name in placement.weighted
    }
    table = QuantTable(activations=activations, weights=scales, calibrator="minmax", data="0", images=1)
    options = {"opset": opset, "ir_version": ir_version, "table": table, "placement": placement}
    return write_model(spec, weights, (32, 32), **options), table, placement


def test_each_operation_of_the_graph_is_fake_quantization(thin, thin_weights, narrow_scheme):
    model, table, placement = written(thin, thin_weights, narrow_scheme)
    onnx.checker.check_model(model, full_check=True)
    network = QuantNetwork(thin, thin_weights, table, placement).eval()
    images = np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32)
    ops = network.graph.ops
    names = {op.name: LOGITS if op.name == network.graph.output else op.name for op in ops}
    found = trace(model, images, list(names.values()))
    values = {op: torch.from_numpy(found[name]) for op, name in names.items()} | {"image": torch.from_numpy(images)}
    with torch.no_grad():
        for op in ops:
            wanted = network.apply_op(op, [network.read(op, index, values) for index in range(len(op.inputs))])
            assert torch.allclose(wanted, values[op.name], rtol=1e-5, atol=1e-5 * wanted.abs().max().item()), op.name


def test_weights_lie_in_half_a_byte_and_count_as_whole_parameters(thin, thin_weights, narrow_scheme):
    model, table, placement = written(thin, thin_weights, narrow_scheme)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in placement.weighted:
        codes, zero = stored[f"{name}.weight.codes"], stored[f"{name}.weight.zero_point"]
        size = thin_weights[f"{name}.weight"].size
        wide = name == "conv1"
        assert codes.data_type == zero.data_type == (TensorProto.INT8 if wide else TensorProto.INT4)
        assert len(codes.raw_data) == (size if wide else (size + 1) // 2)
        expected = table.weights[name].quantize(thin_weights[f"{name}.weight"])
        assert np.array_equal(GraphIndex.of(model).value(codes.name), expected)
        assert np.abs(expected).max() == (127 if wide else 7)
    assert operator_counts.parameters(model) == parameters(thin)
    assert operator_counts.macs(model) == macs(thin, 32, 32)
    assert operator_counts.qdq(model).weights == len(placement.weighted)


@pytest.mark.parametrize(("opset", "ir_version"), [(17, 8), (20, 10), (21, 9)])
def test_an_opset_or_ir_without_the_type_is_refused_with_the_way_out(
    thin, thin_weights, narrow_scheme, opset, ir_version
):
    with pytest.raises(StageError, match=f"opset {opset}, IR {ir_version}") as refusal:
        written(thin, thin_weights, narrow_scheme, opset, ir_version)
    assert "runtime.opset to 21" in refusal.value.hint


def test_only_4_bit_weights_ask_for_them(thin, thin_weights, narrow_scheme):
    model, _, _ = written(thin, thin_weights, replace(narrow_scheme, weight_bits=8), 17, 8)
    assert {tensor.data_type for tensor in model.graph.initializer} & {TensorProto.INT4} == set()


def test_seven_bits_stay_in_int8():
    scheme = replace(find_target("cpu").scheme, reduce_range=True, wide_layers=("conv1",))
    assert (scheme.bits_of("conv1"), scheme.bits_of("layer1.0.conv1")) == (7, 7)
    assert replace(scheme, weight_bits=4).bits_of("layer1.0.conv1") == 4
