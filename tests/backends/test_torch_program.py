"""ONNX graphs as torch programs: every operator against ONNX Runtime, and what the codes become."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from benchmarks.subjects import THIN, images, ours, thin_like
from edgeres.backends.executorch.torch_program import torch_program
from edgeres.errors import StageError
from edgeres.model.presets import preset
from edgeres.onnx_graph.torch_operators import OPERATORS
from edgeres.targets.target import find_target

CPU = find_target("cpu:executorch")
RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((1, 4, 6, 6)).astype(np.float32)


def graph(nodes, constants=(), shape=(1, 4, 6, 6), opset=17) -> onnx.ModelProto:
    """A graph from ``image`` to the output of its last node."""
    given_ = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()]
    body = helper.make_graph(nodes, "g", [given_], [made], stored)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def by_onnxruntime(model, pixels):
    settings_ = onnxruntime.SessionOptions()
    settings_.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings_, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": pixels})[0]


def by_torch(model, pixels):
    module = torch_program(model).module
    with torch.no_grad():
        return np.concatenate([module(torch.from_numpy(pixels[i : i + 1])).numpy() for i in range(len(pixels))])


def one(kind, *inputs, constants=(), shape=(1, 4, 6, 6), **attributes):
    return graph([helper.make_node(kind, ["image", *inputs], ["y"], name="n", **attributes)], constants, shape)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


W = floats(8, 4, 3, 3)
WINDOW = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
FLAT = (1, 12)
CASES = {
    "Add": one("Add", "c", constants={"c": floats(1, 4, 1, 1)}),
    "AveragePool": one("AveragePool", **WINDOW),
    "AveragePool padded": one("AveragePool", count_include_pad=1, **WINDOW),
    "BatchNormalization": one(
        "BatchNormalization", "s", "b", "m", "v",
        constants={"s": floats(4), "b": floats(4), "m": floats(4), "v": np.abs(floats(4))}, epsilon=1e-3,
    ),
    "Clip": one("Clip", "l", "h", constants={"l": np.float32(0), "h": np.float32(6)}),
    "Clip below": one("Clip", "l", constants={"l": np.float32(0)}),
    "Clip above": one("Clip", "", "h", constants={"h": np.float32(0.5)}),
    "Concat": one("Concat", "c", constants={"c": floats(1, 2, 6, 6)}, axis=1),
    "Conv": one("Conv", "w", "b", constants={"w": W, "b": floats(8)}, **WINDOW),
    "Conv in groups, padded on one side": one(
        "Conv", "w", constants={"w": floats(8, 2, 3, 3)}, group=2, kernel_shape=[3, 3], pads=[0, 1, 2, 1]
    ),
    "Div": one("Div", "c", constants={"c": np.float32(3)}),
    "Dropout": one("Dropout"),
    "Flatten": one("Flatten"),
    "Gemm": one("Gemm", "w", "b", constants={"w": floats(5, 12), "b": floats(5)}, shape=FLAT, transB=1),
    "Gemm as stored": one("Gemm", "w", "b", constants={"w": floats(12, 5), "b": floats(5)}, shape=FLAT),
    "GlobalAveragePool": one("GlobalAveragePool"),
    "InstanceNormalization": one("InstanceNormalization", "s", "b", constants={"s": floats(4), "b": floats(4)}),
    "PRelu": one("PRelu", "s", constants={"s": floats(4, 1, 1)}),
    "HardSigmoid": one("HardSigmoid", alpha=1 / 6, beta=0.5),
    "HardSwish": one("HardSwish"),
    "Identity": one("Identity"),
    "LeakyRelu": one("LeakyRelu", alpha=0.2),
    "MatMul": one("MatMul", "w", constants={"w": floats(12, 5)}, shape=FLAT),
    "MaxPool": one("MaxPool", **WINDOW),
    "MaxPool rounded up": one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "Mul": one("Mul", "c", constants={"c": floats(1, 4, 1, 1)}),
    "Pad reflected": one("Pad", "p", constants={"p": np.array([0, 0, 1, 2, 0, 0, 3, 4], np.int64)}, mode="reflect"),
    "Pad edge": one("Pad", "p", constants={"p": np.array([0, 0, 1, 0, 0, 0, 0, 2], np.int64)}, mode="edge"),
    "Pad": one("Pad", "p", constants={"p": np.array([0, 1, 0, 2, 0, 3, 0, 4], np.int64)}),
    "QuantizeLinear": graph(
        [
            helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        {"s": np.float32(0.03), "z": np.uint8(101)},
    ),
    "ReduceMean": one("ReduceMean", axes=[2, 3], keepdims=0),
    "Relu": one("Relu"),
    "Reshape": one("Reshape", "s", constants={"s": np.array([0, -1], np.int64)}),
    "Sigmoid": one("Sigmoid"),
    "Softmax": one("Softmax", axis=1),
    "SpaceToDepth": one("SpaceToDepth", blocksize=2),
    "Squeeze": one("Squeeze", "a", constants={"a": np.array([2, 3], np.int64)}, shape=(1, 4, 1, 1)),
    "Sub": one("Sub", "c", constants={"c": np.float32(0.5)}),
    "Tanh": one("Tanh"),
    "Transpose": one("Transpose", perm=[0, 2, 3, 1]),
    "Abs": one("Abs"),
    "Elu": one("Elu", alpha=0.7),
    "Erf": one("Erf"),
    "Exp": one("Exp"),
    "Expand": one("Expand", "s", constants={"s": np.array([1, 4, 6, 6], np.int64)}, shape=(1, 4, 1, 6)),
    "Flatten from another axis": one("Flatten", axis=2),
    "Gather": one("Gather", "i", constants={"i": np.array([[3, 0], [-1, 1]], np.int64)}, axis=1),
    "Gather one": one("Gather", "i", constants={"i": np.array(2, np.int64)}, axis=2),
    "GlobalMaxPool": one("GlobalMaxPool"),
    "LayerNormalization": one("LayerNormalization", "s", "b", constants={"s": floats(6, 6), "b": floats(6, 6)}, axis=2),
    "Log": graph([helper.make_node("Abs", ["image"], ["a"]), helper.make_node("Log", ["a"], ["y"])]),
    "MatMul of maps": one("MatMul", "w", constants={"w": floats(6, 5)}),
    "MatMul of activations": one("MatMul", "image"),
    "Max": one("Max", "c", constants={"c": floats(1, 4, 1, 1)}),
    "Min": one("Min", "c", "image", constants={"c": floats(1, 4, 1, 1)}),
    "Neg": one("Neg"),
    "PRelu by pixel": one("PRelu", "s", constants={"s": floats(1, 6, 6)}),
    "Pow": one("Pow", "e", constants={"e": np.float32(2)}),
    "Reciprocal": one("Reciprocal"),
    "ReduceL2": one("ReduceL2", axes=[1], keepdims=1),
    "ReduceMax": one("ReduceMax", axes=[1], keepdims=1),
    "ReduceMin": one("ReduceMin", axes=[2, 3], keepdims=0),
    "ReduceSum": one("ReduceSum", "a", constants={"a": np.array([1], np.int64)}, keepdims=0),
    "Resize": one("Resize", "", "s", constants={"s": np.array([1, 1, 2, 2], np.float32)}, mode="linear"),
    "Resize nearest": one(
        "Resize", "", "s", constants={"s": np.array([1, 1, 2, 3], np.float32)}, mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    ),
    "Slice": one(
        "Slice", "b", "e", "a", "t",
        constants={
            "b": np.array([1, 0], np.int64), "e": np.array([9, 3], np.int64),
            "a": np.array([3, 1], np.int64), "t": np.array([2, 1], np.int64),
        },
    ),
    "Softplus": one("Softplus"),
    "Split": graph(
        [
            helper.make_node("Split", ["image", "s"], ["a", "b"], axis=1),
            helper.make_node("Concat", ["b", "a"], ["y"], axis=1),
        ],
        {"s": np.array([1, 3], np.int64)},
    ),
    "Sqrt": graph([helper.make_node("Abs", ["image"], ["a"]), helper.make_node("Sqrt", ["a"], ["y"])]),
    "Sum": one("Sum", "c", "image", constants={"c": floats(1, 4, 1, 1)}),
    "Unsqueeze": one("Unsqueeze", "a", constants={"a": np.array([1], np.int64)}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_what_onnx_says(name):
    model = CASES[name]
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    pixels = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(by_torch(model, pixels), by_onnxruntime(model, pixels), rtol=1e-5, atol=1e-5)


def test_every_operator_has_its_case():
    assert {name.split()[0] for name in CASES} == set(OPERATORS)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (one("Selu"), "edgeres has no Selu for ExecuTorch"),
        (one("MaxPool", kernel_shape=[3, 3], auto_pad="SAME_UPPER"), "auto_pad SAME_UPPER"),
        (one("Gemm", "w", constants={"w": floats(12, 5)}, shape=FLAT, alpha=0.5), "alpha"),
        (one("Conv", "image"), "kernel of 0 dimensions"),
        (one("Gather", "i", constants={"i": np.array(0, np.int64)}, shape=("N", 4, "H", 6), axis=2), "no fixed shape"),
        (one("Pad", "p", constants={"p": np.array([0, 1, 1, 1, 0, 1, 1, 1], np.int64)}, mode="reflect"), "Pad with"),
    ],
)
def test_unsupported_operators_are_refused_by_name(model, said):
    with pytest.raises(StageError, match=said):
        torch_program(model)


@pytest.mark.parametrize("name", ["resnet18", "seresnet18", "resnet20", "resnext50_32x4d"])
@pytest.mark.parametrize("target", ["cpu", "jetson", "w4a8"])
def test_networks_keep_their_answers(name, target):
    spec = thin_like(preset(name), 32 if "resnext" in name else 8)
    model, pixels = ours(find_target(target), spec), images(2, seed=3)
    expected = by_onnxruntime(model, pixels)
    assert np.abs(by_torch(model, pixels) - expected).max() < 0.01 * np.ptp(expected)


def calls(model, name):
    return [node for node in torch_program(model).module.graph.nodes if name in str(node.target)]


def test_uint8_codes_become_int8_codes_of_the_same_numbers():
    model = CASES["QuantizeLinear"]
    (quantize,) = calls(model, "quantized_decomposed.quantize_per_tensor")
    assert quantize.args[1:] == (pytest.approx(0.03), 101 - 128, -128, 127, torch.int8)


@given(st.integers(0, 255), st.floats(1e-3, 10), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_no_value_moves_by_the_shift(zero, scale, seed):
    model = graph(
        [
            helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        {"s": np.float32(scale), "z": np.uint8(zero)},
    )
    codes = np.random.default_rng(seed).integers(-20, 276, IMAGE.shape)
    pixels = ((codes - zero) * np.float32(scale) * np.float32(1.001)).astype(np.float32)
    np.testing.assert_array_equal(by_torch(model, pixels), by_onnxruntime(model, pixels))


def test_each_reader_has_a_dequantizer_of_its_own():
    model = graph(
        [
            helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("Relu", ["d"], ["r"]),
            helper.make_node("Add", ["d", "r"], ["y"]),
        ],
        {"s": np.float32(0.03), "z": np.int8(0)},
    )
    assert len(calls(model, "dequantize_per_tensor")) == 2


def test_weights_are_codes_only_where_the_layer_runs_in_integers():
    """TensorRT's placement has the last convolution of a block in front of a float add: XNNPACK has no such kernel."""
    integer = {target: len(calls(ours(find_target(target), THIN), "dequantize_per_channel")) for target in
               ("cpu", "jetson")}  # fmt: skip
    assert integer == {"cpu": 6, "jetson": 3}


def test_a_scale_that_is_computed_is_refused():
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["s"]),
        helper.make_node("QuantizeLinear", ["image", "s"], ["q"], name="odd"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    with pytest.raises(StageError, match="odd: the scale is not one constant"):
        torch_program(graph(nodes))


def test_calls_are_known_by_their_names_in_the_graph():
    program = torch_program(ours(CPU, THIN))
    names = program.names
    assert len(names) == sum(node.op == "call_function" for node in program.module.graph.nodes)
    assert {"layer1.0.conv1", "layer2.0.add", "maxpool"} <= set(names)
