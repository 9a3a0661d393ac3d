from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from random_weights import random_weights

from edgeres.model.cost import macs, parameters
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.execute import trace
from edgeres.onnx_graph.graph_index import opset_of
from edgeres.onnx_graph.write import LOGITS, write_model
from edgeres.quant.placement import place
from edgeres.quant.qparams import QParams
from edgeres.quant.quant_table import QuantTable
from edgeres.quant.quantized import QuantNetwork

FAMILIES = [
    "resnet18",
    "resnet50",
    "resnet50_v1",
    "resnext50_32x4d",
    "resnet20",
    "resnet20_b",
    "seresnet18",
    "resnetv2_18",
]


def narrow(name):
    """A preset cut to one or two thin blocks per stage, so that it runs in milliseconds."""
    spec = preset(name)
    groups = max(block.groups for _, _, block in spec.blocks)
    inner, out = (32 if groups > 1 else 8), 16
    stages = tuple(
        tuple(
            replace(
                block,
                inner=(inner,) * len(block.inner),
                out=out << index,
                squeeze=4 if block.squeeze else 0,
                projected=block.projected,
            )
            for block in stage[:2]
        )
        for index, stage in enumerate(spec.stages)
    )
    stem = replace(spec.stem, width=out if spec.kind == "basic" else 8)
    return replace(spec, stem=stem, stages=stages, classes=7)


def write(spec, weights, **options):
    return write_model(graph(spec), weights, (32, 32), opset=17, ir_version=8, **options)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("norm", [True, False])
def test_float_graph_equals_torch_and_the_closed_forms(name, norm):
    spec = replace(narrow(name), norm=norm)
    weights = random_weights(spec)
    model = write(spec, weights)
    onnx.checker.check_model(model, full_check=True)
    images = np.random.default_rng(1).normal(size=(3, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        expected = Network(graph(spec), weights).eval()(torch.from_numpy(images)).numpy()
    assert np.allclose(trace(model, images, [LOGITS])[LOGITS], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert operator_counts.macs(model) == macs(graph(spec), 32, 32)
    assert operator_counts.parameters(model) == parameters(graph(spec))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet152", "resnext50_32x4d", "wide_resnet50_2"])
def test_graph_macs_equal_published_macs(name):
    spec = replace(preset(name), norm=False)
    shapes = graph(spec).parameters
    weights = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    golden = {
        "resnet18": (1_814_073_344, 11_689_512),
        "resnet50": (4_089_184_256, 25_557_032),
        "resnet152": (11_513_626_624, 60_192_808),
        "resnext50_32x4d": (4_230_479_872, 25_028_904),
        "wide_resnet50_2": (11_398_021_120, 68_883_240),
    }
    model = write_model(graph(spec), weights, (224, 224), opset=17, ir_version=8)
    norms = sum(op.c_out for op in graph(preset(name)).ops if op.kind == "norm")
    assert operator_counts.macs(model) == golden[name][0]
    # Folding leaves one bias where a norm had a scale and a shift.
    assert operator_counts.parameters(model) == golden[name][1] - norms


def quantized(thin, weights, scheme):
    placement = place(graph(thin), scheme)
    activations = {
        tensor: QParams(scale=(0.05,), zero_point=0 if scheme.signed else 100, signed=scheme.signed)
        for tensor in placement.tensors
    }
    scales = {
        name: QParams(
            scale=tuple(float(np.float32(np.abs(row).max() / 127)) for row in weights[f"{name}.weight"]),
            axis=0,
            narrow=True,
        )
        for name in placement.weighted
    }
    table = QuantTable(activations=activations, weights=scales, calibrator="minmax", data="0", images=1)
    return table, placement


def test_quantized_graph_equals_the_fake_quantized_network(thin, thin_weights, scheme):
    table, placement = quantized(thin, thin_weights, scheme)
    model = write(thin, thin_weights, table=table, placement=placement)
    onnx.checker.check_model(model, full_check=True)
    images = np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32)
    network = QuantNetwork(graph(thin), thin_weights, table, placement).eval()
    first = network.graph.ops[0]
    found = trace(model, images, [first.name])[first.name]
    with torch.no_grad():
        expected = network.apply_op(first, [network.read(first, 0, {"image": torch.from_numpy(images)})]).numpy()
    assert np.allclose(found, expected, atol=1e-5)


def test_quantized_graph_has_exactly_the_placed_pairs(thin, thin_weights, scheme):
    table, placement = quantized(thin, thin_weights, scheme)
    model = write(thin, thin_weights, table=table, placement=placement)
    counted = operator_counts.qdq(model)
    assert counted.activations == len(placement.tensors)
    assert counted.weights == len(placement.weighted) == counted.weighted - 1
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    assert sum(node.op_type == "Add" and bool(dequantized & set(node.input)) for node in model.graph.node) == 3


def test_every_zero_point_is_an_initializer_of_the_right_type_and_axes_are_explicit(thin, thin_weights, scheme):
    table, placement = quantized(thin, thin_weights, scheme)
    model = write(thin, thin_weights, table=table, placement=placement)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    wanted = onnx.TensorProto.INT8 if scheme.signed else onnx.TensorProto.UINT8
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            weight = node.input[0] in constants
            assert constants[node.input[2]].data_type == (onnx.TensorProto.INT8 if weight else wanted)
            if weight:
                assert [attribute.i for attribute in node.attribute if attribute.name == "axis"] == [0]


def test_biases_stay_in_float(thin, thin_weights, scheme):
    table, placement = quantized(thin, thin_weights, scheme)
    model = write(thin, thin_weights, table=table, placement=placement)
    biases = [tensor for tensor in model.graph.initializer if tensor.name.endswith(".bias")]
    assert biases
    assert all(tensor.data_type == onnx.TensorProto.FLOAT for tensor in biases)


def test_same_network_same_bytes_and_another_opset_other_bytes(thin, thin_weights):
    first, second = (write(thin, thin_weights, metadata={"b": "1", "a": "2"}) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    older = write_model(graph(thin), thin_weights, (32, 32), opset=13, ir_version=7)
    assert (opset_of(older), older.ir_version) == (13, 7)
    assert {entry.key: entry.value for entry in first.metadata_props} == {"a": "2", "b": "1"}
