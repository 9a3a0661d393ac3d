from dataclasses import replace

import onnx
import pytest
from onnx import TensorProto, helper
from random_weights import random_weights

from edgeres.data.size import Size
from edgeres.errors import ModelError
from edgeres.model import cost as closed
from edgeres.model.conventions import CONVENTIONS
from edgeres.model.families import imagenet
from edgeres.model.graph import graph
from edgeres.model.presets import preset
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.operator_counts import image_of, layers, peak_bytes, sized
from edgeres.onnx_graph.write import write_model
from edgeres.quant.placement import place
from edgeres.quant.qparams import QParams, weight_qparams
from edgeres.quant.quant_table import QuantTable
from edgeres.targets.target import find_target

SPECS = {
    "resnet20": preset("resnet20"),
    "resnet20_b": preset("resnet20_b"),
    "resnet18": preset("resnet18"),
    "folded": replace(imagenet("basic", (1, 1)), norm=False),
    "squeezed": imagenet("basic", (1, 1), squeeze_ratio=16),
    "preactivated": imagenet("bottleneck", (1, 1), preactivation=True),
    "grouped": imagenet("bottleneck", (1, 1), groups=32, group_width=4),
}


@pytest.fixture(scope="module", params=SPECS)
def both(request):
    spec = SPECS[request.param]
    return spec, write_model(graph(spec), random_weights(spec), (64, 64), opset=17, ir_version=9)


@pytest.mark.parametrize("size", [None, 96])
def test_a_written_graph_has_the_rows_of_its_spec(both, size):
    spec, model = both
    side = size or 64
    fixed = sized(model, size and Size.square(size))
    found, wanted = layers(fixed), closed.layers(graph(spec), side, side)
    assert image_of(fixed) == ("image", (3, side, side))
    assert [(r.macs, r.parameters, r.output_shape, r.kind) for r in found] == [
        (r.macs, r.parameters, r.output_shape, r.kind) for r in wanted
    ]
    assert closed.peak(found, (3, side, side)).elements == closed.peak(wanted, (3, side, side)).elements
    assert [rule.count(found) for rule in CONVENTIONS] == [rule.count(wanted) for rule in CONVENTIONS]


def test_layer_counts_add_up_to_graph_counts(both):
    _, model = both
    rows = layers(sized(model, None))
    assert sum(row.macs for row in rows) == operator_counts.macs(model)
    assert sum(row.parameters for row in rows) == operator_counts.parameters(model)


def graph_of(nodes, image, made, constants=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, made)],
        list(constants),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_symbolic_image_size_is_refused_with_a_hint():
    model = graph_of([helper.make_node("Relu", ["image"], ["y"])], ["N", 3, "H", "W"], None)
    with pytest.raises(ModelError, match=r"no fixed height and width.*--size"):
        sized(model, None)
    assert layers(sized(model, Size.square(8)))[0].output_shape == (3, 8, 8)


def test_more_than_one_input_is_no_classifier():
    model = graph_of([helper.make_node("Relu", ["image"], ["y"])], ["N", 3, 8, 8], None)
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 1]))
    with pytest.raises(ModelError, match="2 inputs"):
        sized(model, None)


def test_constant_nodes_are_no_layers_and_spatial_mean_is_a_pool():
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 3, 1, 1], [0.0] * 6)
    nodes = [
        helper.make_node("Identity", ["w"], ["v"]),
        helper.make_node("Conv", ["image", "v"], ["x"], kernel_shape=[1, 1]),
        helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0),
    ]
    model = graph_of(nodes, ["N", 3, 4, 4], ["N", 2], [weight])
    onnx.checker.check_model(model)
    rows = layers(sized(model, None))
    assert [(row.operator, row.kind, row.macs) for row in rows] == [
        ("Conv", "weighted", 96),
        ("ReduceMean", "globalpool", 0),
    ]


def quantized_model(target, name="resnet18", size=224):
    spec = replace(preset(name), norm=False)
    placement = place(graph(spec), find_target(target).scheme)
    scale = QParams(scale=(1.0,), signed=find_target(target).scheme.signed)
    weights = random_weights(spec)
    table = QuantTable(
        activations=dict.fromkeys(placement.tensors, scale),
        weights={name: weight_qparams(weights[f"{name}.weight"], 8, "max") for name in placement.weighted},
        calibrator="minmax",
        data="",
        images=1,
    )
    return write_model(graph(spec), weights, (size, size), opset=17, ir_version=8, table=table, placement=placement)


def test_peak_bytes_by_hand():
    stem, pooled = 64 * 112 * 112, 64 * 56 * 56
    # Float: the stem's output beside the pooled one, four bytes an element each.
    spec = replace(preset("resnet18"), norm=False)
    plain = write_model(graph(spec), random_weights(spec), (224, 224), opset=17, ir_version=8)
    assert peak_bytes(plain, Size.square(224)) == 4 * (stem + pooled)
    # TensorRT's scheme pools in float: the stem's float output stands beside the image.
    assert peak_bytes(quantized_model("jetson"), Size.square(224)) == 4 * (3 * 224 * 224 + stem)
    # Where the pool reads integers the stem's output is integers.
    assert peak_bytes(quantized_model("cpu"), Size.square(224)) == 4 * 3 * 224 * 224 + stem
