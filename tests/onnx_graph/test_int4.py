"""4-bit weights: bytes, graphs, runtimes and lint."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from edgeres.errors import StageError
from edgeres.model.cost import macs, parameters
from edgeres.model.graph import graph
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.execute import trace
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.onnx_graph.write import LOGITS, write_model
from edgeres.quant.placement import place
from edgeres.quant.qparams import QParams, weight_qparams
from edgeres.quant.quant_table import QuantTable
from edgeres.quant.quantized import QuantNetwork
from edgeres.targets.target import find_target


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
    return write_model(graph(spec), weights, (32, 32), **options), table, placement


def test_each_operation_of_the_graph_is_fake_quantization(thin, thin_weights, narrow_scheme):
    model, table, placement = written(thin, thin_weights, narrow_scheme)
    onnx.checker.check_model(model, full_check=True)
    network = QuantNetwork(graph(thin), thin_weights, table, placement).eval()
    images = np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32)
    ops = network.graph.ops
    names = {op.name: LOGITS if op.name == network.graph.output else op.name for op in ops}
    found = trace(model, images, list(names.values()))
    values = {op: torch.from_numpy(found[name]) for op, name in names.items()} | {"image": torch.from_numpy(images)}
    with torch.no_grad():
        for op in ops:
            wanted = network.apply_op(op, [network.read(op, index, values) for index in range(len(op.inputs))])
            assert torch.allclose(wanted, values[op.name], rtol=1e-5, atol=1e-5 * wanted.abs().max().item()), op.name


def test_int4_weights_take_half_a_byte_and_count_as_parameters(thin, thin_weights, narrow_scheme):
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
    assert operator_counts.parameters(model) == parameters(graph(thin))
    assert operator_counts.macs(model) == macs(graph(thin), 32, 32)
    assert operator_counts.qdq(model).weights == len(placement.weighted)


@pytest.mark.parametrize(("opset", "ir_version"), [(17, 8), (20, 10), (21, 9)])
def test_opset_or_ir_without_int4_is_refused_with_a_hint(thin, thin_weights, narrow_scheme, opset, ir_version):
    with pytest.raises(StageError, match=f"opset {opset}, IR {ir_version}") as refusal:
        written(thin, thin_weights, narrow_scheme, opset, ir_version)
    assert "runtime.opset to 21" in refusal.value.hint


def test_8_bit_weights_need_no_int4_opset(thin, thin_weights, narrow_scheme):
    model, _, _ = written(thin, thin_weights, replace(narrow_scheme, weight_bits=8), 17, 8)
    assert {tensor.data_type for tensor in model.graph.initializer} & {TensorProto.INT4} == set()


def test_seven_bits_stay_in_int8():
    scheme = replace(find_target("cpu").scheme, reduce_range=True, wide_layers=("conv1",))
    assert (scheme.bits_of("conv1"), scheme.bits_of("layer1.0.conv1")) == (7, 7)
    assert replace(scheme, weight_bits=4).bits_of("layer1.0.conv1") == 4
