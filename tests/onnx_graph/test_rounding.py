"""A runtime's codes, layer by layer: one code is rounding, a wrong layer is found by name."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgeres.onnx_graph.execute import open_session, session_options
from edgeres.onnx_graph.rounding import worst_layer

N = helper.make_node
RNG = np.random.default_rng(1)
CODES = ("x.q", "a.q", "b.q")


def network(swapped: bool = False) -> ModelProto:
    """Two quantized convolutions and a head; ``swapped`` exchanges two output channels of the second."""
    second = RNG_SECOND[[1, 0, 2, 3]] if swapped else RNG_SECOND
    constants = {"w1": FIRST, "w2": second, "s": np.float32(0.02), "z": np.uint8(128), "fc": HEAD}
    nodes = []
    for tensor in ("x", "a", "b"):
        nodes.append(N("QuantizeLinear", [tensor, "s", "z"], [f"{tensor}.q"]))
        nodes.append(N("DequantizeLinear", [f"{tensor}.q", "s", "z"], [f"{tensor}.d"]))
        following = {"x": ("w1", "a"), "a": ("w2", "b")}.get(tensor)
        if following:
            nodes.append(N("Conv", [f"{tensor}.d", following[0]], [following[1]], kernel_shape=[3, 3], pads=[1] * 4))
    nodes += [N("ReduceMean", ["b.d"], ["p"], axes=[2, 3], keepdims=0), N("MatMul", ["p", "fc"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


FIRST = RNG.normal(0, 0.2, (4, 3, 3, 3)).astype(np.float32)
RNG_SECOND = RNG.normal(0, 0.2, (4, 4, 3, 3)).astype(np.float32)
HEAD = RNG.normal(0, 1, (4, 5)).astype(np.float32)
IMAGES = RNG.normal(0, 1, (2, 3, 6, 6)).astype(np.float32)


def ran(model: ModelProto) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    exposed = ModelProto.FromString(model.SerializeToString())
    exposed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in CODES)
    logits, *codes = open_session(exposed, session_options("none")).run(["y", *CODES], {"x": IMAGES})
    return logits, dict(zip(CODES, codes, strict=True))


def test_the_definition_explains_itself() -> None:
    logits, codes = ran(network())
    assert worst_layer(network(), IMAGES, codes, logits).codes == 0


def test_a_code_more_is_rounding_and_layers_behind_it_are_judged_from_it() -> None:
    _, codes = ran(network())
    codes["a.q"] = codes["a.q"].copy()
    codes["a.q"][0, 0] += 1
    cut = network()
    del cut.graph.node[: next(i for i, node in enumerate(cut.graph.node) if node.input[0] == "a.q")]
    cut.graph.input[0].CopyFrom(helper.make_tensor_value_info("a.q", TensorProto.UINT8, ["N", 4, 6, 6]))
    cut.graph.output.append(helper.make_tensor_value_info("b.q", TensorProto.UINT8, None))
    logits, behind = open_session(cut, session_options("none")).run(["y", "b.q"], {"a.q": codes["a.q"]})
    worst = worst_layer(network(), IMAGES, codes | {"b.q": behind}, logits)
    assert (worst.layer, worst.codes, worst.explained) == ("a.q", 1.0, True)


def test_two_exchanged_channels_are_found_by_layer() -> None:
    logits, codes = ran(network(swapped=True))
    worst = worst_layer(network(), IMAGES, codes, logits)
    assert worst.layer == "b.q"
    assert not worst.explained


def test_a_wrong_head_is_found_at_the_logits() -> None:
    logits, codes = ran(network())
    worst = worst_layer(network(), IMAGES, codes, logits * 1.02)
    assert worst.layer == "y"
    assert not worst.explained
