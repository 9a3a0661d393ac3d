"""A residual network is read back from a float ONNX file, whatever wrote it; anything else is not taken for one."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from family_networks import NETWORKS
from onnx import helper, numpy_helper
from random_weights import random_weights

from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.onnx_graph.edit import retain
from edgeres.onnx_graph.inference import for_inference
from edgeres.onnx_graph.read import infer
from edgeres.onnx_graph.recognition import recognise
from edgeres.onnx_graph.write import write_model

SIDE = 32
OTHER_KINDS = {
    "Big Transfer",
    "attention pool",
    "averaged downsampling",
    "bare convolutions",
    "blur",
    "classifier of two layers",
    "efficient channel attention",
    "group norm",
    "pool by average",
}
"""Networks of which the structure is not read off a graph: they are imported as graphs."""

SAME_FUNCTION = {"pool by convolution", "dilated"}
"""Networks that another spec computes as well: a pool by convolution is one more convolution of the stem."""


def small(**fields):
    stages = ((Block(inner=(8,), out=8),), (Block(inner=(12,), out=12, stride=2, projected=True),))
    stem = Stem(width=8, kernel=3, stride=1, pool=False)
    return ResNetSpec(kind="basic", stem=stem, stages=stages, classes=4, **fields)


def written(spec, weights, side=SIDE):
    return infer(write_model(graph(spec), weights, (side, side), opset=17, ir_version=8))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in OTHER_KINDS | SAME_FUNCTION])
def test_a_network_is_read_back_from_its_own_graph(name, norm):
    spec = replace(NETWORKS[name], norm=norm)
    weights = random_weights(spec)
    found = recognise(written(spec, weights))
    assert not isinstance(found, str), found
    assert found.spec == spec
    assert found.weights.digest == weights.digest
    assert found.size == (SIDE, SIDE)


@pytest.mark.parametrize("name", sorted(SAME_FUNCTION))
def test_a_spec_of_the_same_function_may_be_another(name):
    spec = NETWORKS[name]
    weights = random_weights(spec)
    found = recognise(written(spec, weights))
    assert not isinstance(found, str), found
    images = np.random.default_rng(2).normal(size=(2, 3, SIDE, SIDE)).astype(np.float32)
    before, after = (Network(graph(one), values).logits(images) for one, values in ((spec, weights), found[:2]))
    np.testing.assert_allclose(before, after, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize("name", sorted(OTHER_KINDS))
def test_a_structure_that_is_not_read_is_named(name):
    spec = NETWORKS[name]
    assert isinstance(recognise(written(spec, random_weights(spec))), str)


@pytest.mark.parametrize("name", ["resnet20", "resnet20_b", "resnet18", "resnext50_32x4d", "resnet50_v1", "resnet34d"])
def test_presets_are_named_from_their_graphs(name):
    spec = replace(preset(name), classes=7)
    found = recognise(written(spec, random_weights(spec), 64))
    assert not isinstance(found, str), found
    assert found.spec == spec
    assert f"those of {name}:" in found.notes[0]


@pytest.mark.parametrize("training", ["EVAL", "PRESERVE", "TRAINING"])
def test_torch_s_exporter_gives_the_weights_back(training, tmp_path):
    spec = small()
    network = Network(graph(spec), random_weights(spec)).eval()
    mode = getattr(torch.onnx.TrainingMode, training)
    torch.onnx.export(
        network, (torch.zeros(2, 3, SIDE, SIDE),), str(tmp_path / "n.onnx"), opset_version=17, dynamo=False,
        training=mode, do_constant_folding=training == "EVAL", input_names=["x"], output_names=["y"],
        dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
    )  # fmt: skip
    model, _ = for_inference(infer(onnx.load(tmp_path / "n.onnx")))
    found = recognise(model)
    assert not isinstance(found, str), found
    assert found.spec == replace(spec, norm=training != "EVAL")
    if training != "EVAL":
        assert found.weights.digest == network.weights().digest


class Flavour:
    """Rewrites of a graph as other exporters write the same function."""

    def __init__(self, spec, weights):
        self.model = write_model(graph(spec), weights, (SIDE, SIDE), opset=13, ir_version=8)
        self.constants = {one.name: numpy_helper.to_array(one) for one in self.model.graph.initializer}

    def store(self, name, value):
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def replaced(self, kind, made):
        """Every node of a kind by those that ``made`` gives for it."""
        nodes = [new for node in self.model.graph.node for new in (made(node) if node.op_type == kind else [node])]
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)

    def norms_as_arithmetic(self, node):
        gain, shift, mean, variance = (self.constants[name] for name in node.input[1:5])
        factor = (gain / np.sqrt(variance + 1e-5)).astype(np.float32).reshape(-1, 1, 1)
        offset = (shift.reshape(-1, 1, 1) - mean.reshape(-1, 1, 1) * factor).astype(np.float32)
        out, names = (
            node.output[0],
            [self.store(f"{node.name}.{part}", value) for part, value in (("f", factor), ("o", offset))],
        )
        return [
            helper.make_node("Mul", [node.input[0], names[0]], [f"{out}.scaled"]),
            helper.make_node("Add", [f"{out}.scaled", names[1]], [out]),
        ]  # fmt: skip

    def pads_apart(self, node):
        pads = next(one for one in node.attribute if one.name == "pads")
        if not any(pads.ints):
            return [node]
        top, left, bottom, right = pads.ints
        name = self.store(f"{node.name}.pads", np.array([0, 0, top, left, 0, 0, bottom, right]))
        pads.ints[:] = [0] * 4
        tensor, node.input[0] = node.input[0], f"{node.name}.padded"
        return [helper.make_node("Pad", [tensor, name], [f"{node.name}.padded"]), node]

    def relus_as_clips(self, node):
        low = self.store(f"{node.name}.low", np.float32(0))
        return [helper.make_node("Clip", [node.input[0], low], [node.output[0]])]

    def pools_as_means(self, node):
        return [helper.make_node("ReduceMean", [node.input[0]], [node.output[0]], axes=[2, 3])]

    def flattened_by_shape(self, node):
        return [helper.make_node("Reshape", [node.input[0], self.store("flat", np.array([-1, 12]))], [node.output[0]])]

    def products_apart(self, node):
        weight = self.store("fc.transposed", self.constants[node.input[1]].T.copy())
        return [
            helper.make_node("MatMul", [node.input[0], weight], ["product"]),
            helper.make_node("Add", [node.input[2], "product"], ["scores"]),
            helper.make_node("Softmax", ["scores"], [node.output[0]], axis=1),
        ]

    def channels_last(self):
        self.model.graph.input[0].CopyFrom(
            helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["N", SIDE, SIDE, 3])
        )
        self.model.graph.node.insert(0, helper.make_node("Transpose", ["pixels"], ["image"], perm=[0, 3, 1, 2]))


@pytest.fixture
def network():
    spec = small()
    return spec, random_weights(spec)


WAYS = [
    ("Conv", "pads_apart"),
    ("Relu", "relus_as_clips"),
    ("GlobalAveragePool", "pools_as_means"),
    ("Flatten", "flattened_by_shape"),
]


@pytest.mark.parametrize(("kind", "flavour"), WAYS)
def test_each_way_to_write_an_operation_gives_the_same_network(kind, flavour, network):
    made = Flavour(*network)
    made.replaced(kind, getattr(made, flavour))
    found = recognise(infer(made.model))
    assert not isinstance(found, str), found
    assert (found.spec, found.weights.digest) == (network[0], network[1].digest)


def test_a_graph_as_keras_writes_it_is_recognised(network):
    made = Flavour(*network)
    for kind, flavour in (
        ("BatchNormalization", made.norms_as_arithmetic), ("Conv", made.pads_apart),
        ("GlobalAveragePool", made.pools_as_means), ("Gemm", made.products_apart),
    ):  # fmt: skip
        made.replaced(kind, flavour)
    made.channels_last()
    model, notes = for_inference(infer(made.model))
    assert any("[N,H,W,3]" in note for note in notes)
    found = recognise(model)
    assert not isinstance(found, str), found
    assert found.spec == replace(network[0], norm=False)
    assert any("Softmax" in note for note in found.notes)


def without_a_relu(model):
    relu = [node for node in model.graph.node if node.op_type == "Relu"][1]
    for node in model.graph.node:
        node.input[:] = [relu.input[0] if name == relu.output[0] else name for name in node.input]
    retain(model.graph.node, lambda node: node is not relu and node.name != relu.name)


def with_a_tanh(model):
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Tanh"


def with_a_second_add(model):
    add = next(node for node in model.graph.node if node.op_type == "Add")
    place = 1 + [*model.graph.node].index(add)
    model.graph.node.insert(place, helper.make_node("Add", [add.output[0], add.output[0]], ["twice"]))
    for node in model.graph.node:
        if node.op_type == "Relu" and node.input[0] == add.output[0]:
            node.input[0] = "twice"


@pytest.mark.parametrize("change", [without_a_relu, with_a_tanh, with_a_second_add])
def test_a_graph_that_differs_in_one_place_is_not_taken_for_a_residual_network(change, network):
    model = written(*network)
    change(model)
    assert isinstance(recognise(infer(model)), str)


def test_a_layer_s_own_stride_and_groups_are_read(network):
    model = written(*network)
    stem = next(node for node in model.graph.node if node.op_type == "Conv")
    next(one for one in stem.attribute if one.name == "strides").ints[:] = [2, 2]
    model.graph.ClearField("value_info")
    found = recognise(infer(model))
    assert not isinstance(found, str), found
    assert found.spec == replace(network[0], stem=replace(network[0].stem, stride=2))
