"""Every shape of a residual network as a .tflite file, in LiteRT's interpreter, beside ONNX as it is written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import OpResolverType
from interpreted import Sketch, all_written, answers, interpreter, names, written
from onnx import numpy_helper

from benchmarks.subjects import THIN, images, ours
from edgeres.backends.litert.tflite.program import QuantizationParameters
from edgeres.backends.litert.tflite.translate import translate
from edgeres.errors import StageError
from edgeres.model.spec import Block, Stem
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.targets.target import find_target

LITERT = find_target("cpu:litert")
FLOAT = replace(LITERT, scheme=None)
IMAGENET = replace(THIN, stem=Stem(width=16, kernel=7, stride=2, pool=True))


def bottleneck(**kind):
    blocks = (
        (Block(inner=(8, 8), out=32, projected=True, **kind), Block(inner=(8, 8), out=32, **kind)),
        (Block(inner=(16, 16), out=64, stride=2, projected=True, **kind),),
    )
    return replace(IMAGENET, kind="bottleneck", stages=blocks)


PADDED = replace(
    THIN,
    stem=Stem(width=16, kernel=3, stride=1, pool=False),
    stages=((Block(inner=(16,), out=16),), (Block(inner=(32,), out=32, stride=2),)),
    shortcut="padding",
)
NETWORKS = {
    "basic": THIN,
    "imagenet": IMAGENET,
    "bottleneck": bottleneck(),
    "v1": replace(bottleneck(), stride_in="1x1"),
    "resnext": bottleneck(groups=4),
    "squeeze": bottleneck(squeeze=4),
    "padded": PADDED,
}
INTEGER = {"basic": 6, "imagenet": 6, "bottleneck": 12, "v1": 12, "resnext": 12, "squeeze": 12, "padded": 5}


@pytest.mark.parametrize("name", NETWORKS)
def test_integers_answer_as_the_graph_as_written_does(name):
    model, pixels = ours(LITERT, NETWORKS[name]), images(16, seed=5)
    expected = written(model, pixels)
    found = answers(interpreter(model), pixels)
    span = float(np.ptp(expected))
    assert np.abs(found - expected).max() < 0.03 * span
    first, second = np.sort(expected, axis=1)[:, :-3:-1].T
    sure = first - second > 0.03 * span
    assert sure.sum() > 8
    np.testing.assert_array_equal(found.argmax(1)[sure], expected.argmax(1)[sure])


def code_differences(model, pixels):
    """How far codes are from those of the graph as written: of the first convolution, and of the last block."""
    names = [node.output[0] for node in GraphIndex.of(model).of_type("QuantizeLinear") if node.input[0] != "avgpool"]
    made = interpreter(model, shown=names)
    answers(made, pixels)
    found = [made.get_tensor(entry["index"]).astype(int) + 128 for entry in made.get_output_details()[1:]]
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    expected = all_written(shown, pixels)[1:]
    deltas = [np.abs(a.transpose(0, 3, 1, 2) - b.astype(int)) for a, b in zip(found, expected, strict=True)]
    assert deltas[0].max() == 0  # the image
    return deltas[1], deltas[-1]


@pytest.mark.parametrize("name", NETWORKS)
def test_codes_are_the_graphs_but_for_rounding(name):
    """A sum near the middle of two codes may go to either; block by block some of these add up."""
    first, last = code_differences(ours(LITERT, NETWORKS[name]), images(1, seed=6))
    assert first.max() <= 1
    assert first.mean() < 0.005
    assert last.mean() < 0.5


def test_a_scale_off_by_one_percent_is_no_rounding():
    model, pixels = ours(LITERT), images(1, seed=6)
    model.graph.output.append(onnx.ValueInfoProto(name="relu.codes"))
    expected = all_written(model, pixels)[1].astype(int)
    del model.graph.output[1]
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "conv1.weight.scale")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.01), scale.name))
    wrong = interpreter(model, shown=["relu.codes"])
    answers(wrong, pixels)
    found = wrong.get_tensor(wrong.get_output_details()[1]["index"]).transpose(0, 3, 1, 2).astype(int) + 128
    assert np.abs(found - expected).mean() > 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_float_answers_as_the_graph_does(name):
    model, pixels = ours(FLOAT, NETWORKS[name]), images(2, seed=7)
    expected = written(model, pixels)
    assert np.abs(answers(interpreter(model), pixels) - expected).max() < 1e-5 * max(np.ptp(expected), 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_without_xnnpack_answer_alike(name):
    """Phones run other kernels than this host; TensorFlow Lite's reference ones define what a file means."""
    model, pixels = ours(LITERT, NETWORKS[name]), images(4, seed=8)
    expected = written(model, pixels)
    found = answers(interpreter(model, kernels=OpResolverType.BUILTIN_REF), pixels)
    assert np.abs(found - expected).max() < 0.03 * np.ptp(expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_convolutions_but_gates_are_integer_ones(name):
    details = interpreter(ours(LITERT, NETWORKS[name]))._get_ops_details()
    kinds = [entry["result_types"][0] for entry in details if entry["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D")]
    assert kinds.count(np.int8) == INTEGER[name]
    assert len(kinds) - kinds.count(np.int8) == (6 if name == "squeeze" else 0)


def test_a_basic_network_has_one_pair_of_conversions():
    found = names(interpreter(ours(LITERT)))
    assert found == [
        "QUANTIZE", "CONV_2D", "PAD", "MAX_POOL_2D", "CONV_2D", "CONV_2D", "ADD", "PAD", "CONV_2D", "CONV_2D",
        "CONV_2D", "ADD", "MEAN", "RESHAPE", "DEQUANTIZE", "FULLY_CONNECTED",
    ]  # fmt: skip


def test_every_scale_and_code_is_the_graphs():
    model = ours(LITERT, NETWORKS["bottleneck"])
    view, program = GraphIndex.of(model), translate(model)
    grids = {tensor.name: tensor.grid for tensor in program.tensors}
    values = {tensor.name: tensor.value for tensor in program.tensors}
    activations = 0
    for node in view.of_type("QuantizeLinear"):
        scale, zero = (numpy_helper.to_array(view.constants[name]) for name in node.input[1:])
        wanted = QuantizationParameters((float(scale),), int(zero) - 128)
        made = [grid for name, grid in grids.items() if name.partition(";")[0] == node.input[0] and grid]
        assert set(made) == {wanted}
        activations += 1
    assert activations > 15
    for node in view.of_type("Conv"):
        (relu,) = view.consumers(node.output[0])
        output = relu[0].output[0] if relu[0].op_type == "Relu" else node.output[0]
        read = view.producer(node.input[1])
        np.testing.assert_array_equal(values[f"{output}.weight"].transpose(0, 3, 1, 2), view.value(read.input[0]))
        np.testing.assert_array_equal(np.float32(grids[f"{output}.weight"].scale), view.value(read.input[1]))


def test_the_same_graph_gives_the_same_program():
    model = ours(LITERT)
    again = onnx.ModelProto.FromString(model.SerializeToString())
    first, second = translate(model), translate(again)
    assert first.operators == second.operators
    assert [tensor.name for tensor in first.tensors] == [tensor.name for tensor in second.tensors]


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [("HardSwish", {}), ("Softplus", {}), ("LpNormalization", {"axis": 1}), ("LeakyRelu", {"alpha": 0.1})],
)
def test_unsupported_operators_are_refused_by_name(kind, attributes):
    model = ours(FLOAT)
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type = kind
    node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
    with pytest.raises(StageError, match=rf"^relu: edgeres has no {kind} for LiteRT: take a runtime that reads ONNX"):
        translate(model)


def test_a_graph_of_two_inputs_is_refused():
    sketch = Sketch(3, 8, 8)
    sketch.node("Relu", "out", "image")
    model = sketch.model()
    model.graph.input.add().CopyFrom(model.graph.input[0])
    model.graph.input[1].name = "mask"
    with pytest.raises(StageError, match="no classifier of one image"):
        translate(model)


def test_an_open_image_size_is_refused():
    sketch = Sketch("H", "W", 3)
    sketch.node("Relu", "out", "image")
    with pytest.raises(StageError, match="no fixed shape"):
        translate(sketch.model())


def test_only_codes_are_shown():
    with pytest.raises(StageError, match="'relu' holds no codes"):
        translate(ours(LITERT), ["relu"])
