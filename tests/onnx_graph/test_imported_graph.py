"""Imported graphs: every operator in torch as in ONNX Runtime, placement, weights and files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

from edgeres.model.graph import Graph
from edgeres.model.network import Network
from edgeres.model.unit import units
from edgeres.onnx_graph.execute import probe, relative_delta, runner
from edgeres.onnx_graph.fold import fold
from edgeres.onnx_graph.graph_import import import_graph
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.onnx_graph.imported_placement import placement_in, quantized_by_nncf
from edgeres.onnx_graph.nncf import quantize_float_graph
from edgeres.onnx_graph.read import infer
from edgeres.onnx_graph.rewrite import rewrite
from edgeres.onnx_graph.write_imported import write_imported
from edgeres.quant.algorithms.channel_scaling import channel_units, rescaled, tensor_scales
from edgeres.quant.algorithms.gptq import patches, some_places
from edgeres.quant.placement import Placement
from edgeres.targets.target import find_target

SIDE, CLASSES = 12, 5
RANDOM = np.random.default_rng(0)


class Draft:
    """A graph written node by node; constants are drawn."""

    def __init__(self) -> None:
        self.nodes, self.constants = [], []

    def constant(self, value) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def drawn(self, *shape: int) -> str:
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 4
        return self.constant((RANDOM.standard_normal(shape) / np.sqrt(fan)).astype(np.float32))

    def call(self, kind: str, *inputs: str, outputs: int = 1, **attributes):
        name = f"/{kind}.{len(self.nodes)}"
        made = [f"{name}_output_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, made, name=name, **attributes))
        return made[0] if outputs == 1 else made

    def conv(self, x: str, c_in: int, c_out: int, kernel=(3, 3), pads=(1, 1, 1, 1), group=1, **attributes) -> str:
        weight = self.drawn(c_out, c_in // group, *kernel)
        return self.call(
            "Conv", x, weight, self.drawn(c_out), kernel_shape=list(kernel), pads=list(pads), group=group, **attributes
        )

    def head(self, x: str, channels: int) -> onnx.ModelProto:
        """Global pool, classifier and signature around what was written."""
        flat = self.call("Flatten", self.call("GlobalAveragePool", x))
        return self.model(flat, channels)

    def model(self, flat: str, channels: int) -> onnx.ModelProto:
        weight, bias = self.drawn(CLASSES, channels), self.drawn(CLASSES)
        self.nodes.append(helper.make_node("Gemm", [flat, weight, bias], ["logits"], name="fc", transB=1))
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])
        body = helper.make_graph(self.nodes, "classifier", [image], [logits], self.constants)
        return infer(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def windows() -> onnx.ModelProto:
    """Rectangular kernels, uneven strides, pads and dilations, groups, and pads that a mode states."""
    draft = Draft()
    x = draft.call("Relu", draft.conv("image", 3, 8, (1, 3), (0, 0, 0, 2), strides=[1, 2]))
    x = draft.call("HardSwish", draft.conv(x, 8, 8, (5, 1), (2, 0, 1, 0), group=4, strides=[2, 1]))
    x = draft.conv(x, 8, 8, (3, 3), (2, 2, 2, 2), group=8, dilations=[2, 2])
    weight = draft.drawn(12, 8, 3, 3)
    x = draft.call("Conv", x, weight, auto_pad="SAME_UPPER", strides=[2, 2], kernel_shape=[3, 3])
    return draft.head(draft.call("Sigmoid", x), 12)


def concatenated() -> onnx.ModelProto:
    """Branches of one scale: Split, Concat, a pool and a norm."""
    draft = Draft()
    x = draft.call("Relu", draft.conv("image", 3, 8))
    some, others = draft.call("Split", x, outputs=2, axis=1)
    x = draft.call("Concat", draft.conv(some, 4, 6), draft.conv(others, 4, 6), x, axis=1)
    x = draft.call("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    gain, shift, mean = (draft.drawn(20) for _ in range(3))
    variance = draft.constant(np.full(20, 0.7, np.float32))
    x = draft.call("Relu", draft.call("BatchNormalization", x, gain, shift, mean, variance))
    return draft.head(draft.conv(x, 20, 16), 16)


def tokens() -> onnx.ModelProto:
    """A class token for each image, products over rows with a bias behind them, attention, a 1-D convolution."""
    draft, width = Draft(), 8
    x = draft.conv("image", 3, width, (4, 4), (0, 0, 0, 0), strides=[4, 4])
    x = draft.call("Reshape", x, draft.constant(np.array([0, width, 9], np.int64)))
    x = draft.call("Relu", draft.call("Conv", x, draft.drawn(width, width, 3), pads=[1, 1], kernel_shape=[3]))
    x = draft.call("Transpose", x, perm=[0, 2, 1])
    size = draft.call("Shape", x)
    batch = draft.call("Gather", size, draft.constant(np.array([0])))
    shape = draft.call("Concat", batch, draft.constant(np.array([1, width])), axis=0)
    x = draft.call("Concat", draft.call("Expand", draft.drawn(1, 1, width), shape), x, axis=1)
    x = draft.call("Transpose", x, perm=[1, 0, 2])  # the batch along the second axis
    product = draft.call("MatMul", x, draft.drawn(width, width))
    x = draft.call("Add", draft.drawn(width), product)
    x = draft.call("Transpose", x, perm=[1, 0, 2])
    scores = draft.call("MatMul", x, draft.call("Transpose", x, perm=[0, 2, 1]))
    x = draft.call("MatMul", draft.call("Softmax", scores, axis=-1), x)
    x = draft.call("Gather", x, draft.constant(np.array(0)), axis=1)
    return draft.model(x, width)


def unknown() -> onnx.ModelProto:
    """An operator that torch has no form of here."""
    draft = Draft()
    x = draft.call("Relu", draft.conv("image", 3, 8))
    x = draft.call("ThresholdedRelu", x, alpha=0.1)
    return draft.head(draft.conv(x, 8, 8), 8)


GRAPHS = {"windows": windows, "concatenated": concatenated, "tokens": tokens, "unknown": unknown}


@pytest.fixture(scope="module", params=sorted(GRAPHS))
def model(request):
    return fold(GRAPHS[request.param]())


def images_for(model, count=6):
    return probe(model, count)


@pytest.mark.parametrize("count", [1, 5])
def test_logits_are_those_of_onnx_runtime(model, count) -> None:
    imported = import_graph(model)
    batch = images_for(model, count)
    assert relative_delta(runner(model)(batch), Network(imported.graph, imported.weights).logits(batch)) < 1e-5


def test_torch_computes_every_operator_but_the_unknown_one(model) -> None:
    graph = import_graph(model).graph
    assert {graph[name].operator for name in graph.by_runtime} <= {"ThresholdedRelu"}
    assert graph.differentiable == (not graph.by_runtime)


def test_unchanged_weights_leave_the_file_as_it_is(model) -> None:
    imported = import_graph(model)
    assert write_imported(imported.graph, imported.weights) == infer(model)


def test_other_weights_are_written_where_they_were_read(model) -> None:
    imported = import_graph(model)
    other = imported.weights.replaced({name: 0.5 * value + 0.01 for name, value in imported.weights.items()})
    again = import_graph(write_imported(imported.graph, other))
    assert again.weights.digest == other.digest


def test_units_read_one_tensor_and_hold_every_operation(model) -> None:
    graph = import_graph(model).graph
    parts = units(graph)
    assert tuple(op for part in parts for op in part.ops) == graph.ops
    for part in parts:
        own = {op.name for op in part.ops}
        assert {name for op in part.ops for name in op.inputs} - own == {part.source}


def test_scaled_channels_leave_the_function(model) -> None:
    imported = import_graph(model)
    found = channel_units(imported.graph)
    scales = tensor_scales(found, np.exp(np.random.default_rng(1).normal(0, 1, found.count)))
    changed = rescaled(imported.graph, imported.weights, scales)
    batch = images_for(model)
    before, after = (Network(imported.graph, one).logits(batch) for one in (imported.weights, changed))
    assert relative_delta(before, after) < 1e-5


@pytest.fixture(scope="module", params=["jetson", "cpu"])
def placed(request, model):
    """An imported graph with NNCF's placement and NNCF's network."""
    scheme = find_target(request.param).scheme
    images = [image[None] for image in images_for(model, 4)]
    rewritten = rewrite(quantize_float_graph(model, images, scheme, advance=lambda _: None), scheme)
    imported = import_graph(model)
    graph = imported.graph.placed(placement_in(imported.graph, rewritten))
    return graph, quantized_by_nncf(graph, imported.weights, rewritten, scheme, images, data=""), rewritten


def test_nncfs_network_is_that_of_its_file(placed, model) -> None:
    graph, quantized, rewritten = placed
    written = write_imported(graph, quantized.weights, quantized.table, quantized.placement)
    onnx.checker.check_model(written, full_check=True)
    batch = images_for(model)
    found, wanted = (runner(one, optimise=False)(batch) for one in (written, rewritten.model))
    if quantized.table.calibrator == "nncf":
        assert relative_delta(wanted, found) < 1e-5
    assert np.median(np.abs(quantized.network().logits(batch) - found)) < 0.02 * np.ptp(wanted)


def test_every_layer_with_integer_weights_reads_integers(placed) -> None:
    _, quantized, rewritten = placed
    assert len(quantized.placement.weighted) == len(rewritten.weights)
    assert {(name, 0) for name in quantized.placement.weighted} <= quantized.placement.edges


def test_every_pair_of_the_placement_is_in_the_file_and_no_other(placed) -> None:
    graph, quantized, _ = placed
    view = GraphIndex.of(write_imported(graph, quantized.weights, quantized.table, quantized.placement))
    found = {node.input[0] for node in view.activation_quantizers()}
    assert found == {graph.tensors[name] for name in quantized.placement.tensors}
    reads = sum(view.pair(name) is not None for node in view.nodes for name in node.input)
    ops = {op.name: op for op in graph.ops}
    assert reads == len(
        {(graph.sites[name].node, ops[name].inputs[index]) for name, index in quantized.placement.edges}
    )


def test_tensors_of_one_scale_keep_it(placed) -> None:
    _, quantized, _ = placed
    table, placement = quantized.table, quantized.placement
    for tensor, owner in placement.shared.items():
        assert table.activations[tensor] == table.activations[owner]
    assert set(placement.owners) | set(placement.shared) == set(placement.tensors)
    assert placement.on_grid.isdisjoint(placement.joint)


def test_layers_in_float_read_no_pair(placed) -> None:
    graph, quantized, _ = placed
    layer = next(op.name for op in graph.weighted if op.name in quantized.placement.weighted)
    left = quantized.left_in_float(quantized.weights, (layer,))
    assert left.placement.weighted == quantized.placement.weighted - {layer}
    assert (layer, 0) not in left.placement.edges
    assert set(left.table.activations) == set(left.placement.tensors)
    onnx.checker.check_model(write_imported(graph, left.weights, left.table, left.placement), full_check=True)


def test_an_owner_that_is_no_longer_read_leaves_its_scale_to_the_next() -> None:
    """``a`` and ``b`` are concatenated under one scale; a layer alone reads ``a`` once the concatenation does not."""
    graph = import_graph(fold(concatenated())).graph
    concat = next(op for op in graph.ops if op.operator == "Concat")
    a, b = sorted(concat.inputs[:2])
    layer = graph.weighted[-1].name
    ops = tuple(replace(op, inputs=(a,)) if op.name == layer else op for op in graph.ops)
    edges = frozenset({(layer, 0), (concat.name, concat.inputs.index(b))})
    placement = Placement(edges, frozenset({layer}), (a, b), {b: a}, frozenset({b}))
    assert placement.owners == (a,)
    assert placement.observed == placement.carriers(a) == (a, b)
    left = placement.without((layer,), Graph(ops))
    assert left == Placement(edges - {(layer, 0)}, frozenset(), (b,), {})


@pytest.mark.parametrize("index", range(4))
def test_patches_are_those_of_the_convolution(index) -> None:
    """Every output of a convolution is its weight times a patch, whatever the window."""
    imported = import_graph(fold(windows()))
    op = [one for one in imported.graph.ops if one.kind == "conv"][index]
    network, seen = Network(imported.graph, imported.weights).eval(), {}
    network(torch.from_numpy(images_for(imported.graph.model, 2)), seen.__setitem__)
    x, wanted = seen[op.inputs[0]], seen[op.name]
    places = some_places(op, tuple(x.shape), 10_000, torch.Generator())
    rows = patches(op, x, places).reshape(-1, op.groups, op.reads)
    weight = torch.from_numpy(np.array(imported.weights[f"{op.name}.weight"])).reshape(op.groups, -1, op.reads)
    found = torch.einsum("pgk,gok->pgo", rows, weight).reshape(len(x), -1, op.c_out).transpose(1, 2)
    bias = imported.weights.get(f"{op.name}.bias", np.zeros(op.c_out, np.float32))
    found = found + torch.from_numpy(np.array(bias))[:, None]
    torch.testing.assert_close(found, wanted.detach().flatten(2), rtol=1e-4, atol=1e-4)


def test_gradients_reach_every_layer() -> None:
    imported = import_graph(fold(tokens()))
    network = Network(imported.graph, imported.weights).eval()
    F.cross_entropy(network(torch.from_numpy(images_for(imported.graph.model, 3))), torch.tensor([0, 1, 2])).backward()
    for op in imported.graph.weighted:
        assert network.get_parameter(f"{op.name}.weight").grad.abs().sum() > 0
