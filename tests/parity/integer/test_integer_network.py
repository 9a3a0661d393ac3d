"""The exact integers against a layer worked by hand, and against runtimes on networks drawn by chance."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from quantized_graph import drawn, drawn_spec

from edgeres.errors import ModelError
from edgeres.parity.integer.network import IntegerNetwork
from edgeres.targets.target import find_target

SCHEMES = {"signed": find_target("jetson").scheme, "unsigned": find_target("cpu").scheme}


def graph_of(nodes, constants, shape, outputs=("logits",)):
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *shape])
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    body = helper.make_graph(nodes, "hand", [image], made, tensors)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def pair(nodes, tensor, constants, scale, zero):
    constants |= {f"{tensor}.s": np.float32(scale), f"{tensor}.z": zero}
    nodes.append(helper.make_node("QuantizeLinear", [tensor, f"{tensor}.s", f"{tensor}.z"], [f"{tensor}.q"]))
    nodes.append(helper.make_node("DequantizeLinear", [f"{tensor}.q", f"{tensor}.s", f"{tensor}.z"], [f"{tensor}.d"]))
    return f"{tensor}.d"


def by_hand(bias):
    """One pixel of two channels, one convolution, a ReLU."""
    nodes: list = []
    constants = {
        "w.q": np.array([[[[3]], [[-2]]]], np.int8),
        "w.s": np.array([0.25], np.float32),
        "w.z": np.array([0], np.int8),
        "b": np.array([bias], np.float32),
    }
    read = pair(nodes, "image", constants, 0.5, np.uint8(10))
    nodes.append(helper.make_node("DequantizeLinear", ["w.q", "w.s", "w.z"], ["w"], axis=0))
    nodes.append(helper.make_node("Conv", [read, "w", "b"], ["conv"], name="conv"))
    nodes.append(helper.make_node("Relu", ["conv"], ["relu"], name="relu"))
    read = pair(nodes, "relu", constants, 0.45, np.uint8(5))
    nodes.append(helper.make_node("GlobalAveragePool", [read], ["pool"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pool"], ["logits"], name="flatten"))
    return graph_of(nodes, constants, [2, 1, 1])


def test_integer_layer_by_hand():
    # 1.0 / 0.5 + 10 = 12, -2.0 / 0.5 + 10 = 6; 3 (12 - 10) - 2 (6 - 10) = 14; 14 * 0.5 * 0.25 + 0.3125 = 2.0625;
    # 2.0625 / 0.45 = 4.58 -> 5, and 5 more for the zero-point.
    image = np.array([1.0, -2.0], np.float32).reshape(1, 2, 1, 1)
    found = IntegerNetwork(by_hand(0.3125)).run(image)
    assert found.codes["image"].reshape(-1).tolist() == [12, 6]
    assert found.codes["relu"].item() == 10
    assert found.logits.item() == 5 * float(np.float32(0.45))
    # In whole numbers of 0.5 * 0.25 the bias is 2.5 -> 2: 16 * 0.125 / 0.45 = 4.44 -> 4.
    assert IntegerNetwork(by_hand(0.3125), "int32").run(image).codes["relu"].item() == 9
    # A negative sum ends at the zero-point, a large one at the top.
    assert IntegerNetwork(by_hand(-9.0)).run(image).codes["relu"].item() == 5
    assert IntegerNetwork(by_hand(900.0)).run(image).codes["relu"].item() == 255


def test_tie_rounds_to_even_code():
    nodes: list = []
    constants: dict = {}
    read = pair(nodes, "image", constants, 1.0, np.int8(0))
    nodes.append(helper.make_node("Add", [read, read], ["sum"], name="sum"))
    read = pair(nodes, "sum", constants, 4.0, np.int8(0))
    nodes.append(helper.make_node("Flatten", [read], ["logits"], name="flatten"))
    image = np.arange(-7, 8, dtype=np.float32).reshape(1, 15, 1, 1)
    codes = IntegerNetwork(graph_of(nodes, constants, [15, 1, 1])).run(image).codes["sum"].reshape(-1)
    assert codes.tolist() == [round(Fraction(2 * n, 4)) for n in range(-7, 8)]  # Python rounds half to even


@st.composite
def specs(draw):
    kind = draw(st.sampled_from(["basic", "bottleneck"]))
    shortcut = draw(st.sampled_from(["projection", "padding"]))
    return drawn_spec(
        kind=kind,
        shortcut=shortcut,
        pool=draw(st.booleans()),
        squeeze=draw(st.sampled_from([0, 0, 4])),
        groups=draw(st.sampled_from([1, 4])) if kind == "bottleneck" else 1,
        preactivation=draw(st.booleans()) if shortcut == "projection" else False,
    )


@pytest.mark.parametrize("signed", SCHEMES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spec=specs(), seed=st.integers(0, 1000))
def test_unoptimised_runtime_differs_by_one_step_at_near_ties_only(tmp_path, signed, spec, seed):
    network = drawn(spec, SCHEMES[signed], seed)
    logits, codes = network.shown(tmp_path, optimise=False)
    *layers, tail = network.reference.layers(network.images, codes)
    assert [layer.tensor for layer in layers] == list(network.torch.placement.tensors)
    differing = 0
    for layer in layers:
        off = np.nonzero(layer.codes != codes[layer.tensor])
        distance = np.abs(np.abs(layer.steps() - np.rint(layer.steps())) - 0.5)[off]
        assert (np.abs(layer.codes[off].astype(int) - codes[layer.tensor][off]) == 1).all(), layer.tensor
        assert (distance <= layer.bounds()[off]).all(), layer.tensor
        differing += len(distance)
    assert differing <= 3  # of some ten thousand: a bound is what rounding can do, not what it does
    assert np.abs(tail - logits).max() <= 1e-5 * np.abs(tail).max()


@pytest.mark.parametrize("signed", SCHEMES)
def test_optimised_kernels_round_biases_to_int32(tmp_path, signed):
    network = drawn(drawn_spec(), SCHEMES[signed], 1, images=6)
    _, codes = network.shown(tmp_path, optimise=True)

    def differing(bias):
        *layers, _ = IntegerNetwork(network.model, bias).layers(network.images, codes)
        return sum(int((layer.codes != codes[layer.tensor]).sum()) for layer in layers)

    assert differing("int32") < differing("float")


def test_codes_are_those_of_fake_quantization_where_nothing_is_near_a_tie():
    network = drawn(drawn_spec(), SCHEMES["unsigned"], 3)
    found = network.reference.run(network.images)
    logits = network.torch.logits(network.images)
    assert np.abs(found.logits - logits).max() <= 0.02 * np.abs(logits).max()
    assert found.logits.argmax(1).tolist() == logits.argmax(1).tolist()


def test_quantizers_and_nodes_between_them_are_named():
    network = drawn(drawn_spec(), SCHEMES["signed"]).reference
    assert network.nodes_of("layer1.0.relu") == ("layer1.0.conv2", "layer1.0.add", "layer1.0.relu")
    assert network.float_nodes == ("fc",)
    assert network.nodes_of("logits")[-1] == "fc"
    squeezed = drawn(drawn_spec(squeeze=4), SCHEMES["unsigned"]).reference
    assert "layer1.0.se.gate" in squeezed.float_nodes


def test_unsupported_node_is_refused_by_name():
    model = drawn(drawn_spec(), SCHEMES["signed"]).model
    odd = onnx.ModelProto()
    odd.CopyFrom(model)
    next(node for node in odd.graph.node if node.name == "relu").op_type = "Softplus"
    with pytest.raises(ModelError, match="Softplus"):
        IntegerNetwork(odd)
    odd.CopyFrom(model)
    for scale in [next(t for t in odd.graph.initializer if t.name == "image.scale")]:
        scale.CopyFrom(numpy_helper.from_array(np.array([0.1, 0.1, 0.1], np.float32), scale.name))
    with pytest.raises(ModelError, match="no single float32 scale"):
        IntegerNetwork(odd)


@pytest.mark.parametrize(
    ("kind", "facts", "words"),
    [
        ("AveragePool", {"pads": [0, 0, 1, 1]}, "averages padding"),
        ("AveragePool", {"ceil_mode": 1}, "no plain"),
        ("MaxPool", {"auto_pad": "SAME_UPPER"}, "no plain"),
    ],
)
def test_unsupported_pool_is_refused_at_construction(kind, facts, words):
    model = by_hand(0.3125)
    model.graph.node[-2].CopyFrom(
        helper.make_node(kind, [model.graph.node[-2].input[0]], ["pool"], name="pool", kernel_shape=[2, 2], **facts)
    )
    with pytest.raises(ModelError, match=f"'pool'.*{words}"):
        IntegerNetwork(model)


def test_no_torch_is_loaded():
    code = "import sys, edgeres.parity.integer.network; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
