"""One form of global pools and of concatenations that grow: the same values, fewer reads."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.onnx_graph.canonical_form import canonical_form
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.onnx_graph.read import infer

IMAGES = np.random.default_rng(0).normal(0, 1, (2, 3, 6, 4)).astype(np.float32)


def graph_of(nodes, opset=17, **constants):
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 6, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "C"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    return infer(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))


def dense(layers: int):
    """A dense block: every layer reads all features before it."""
    nodes, features = [], ["image"]
    for number in range(layers):
        joined = features[0] if number == 0 else f"joined{number}"
        if number:
            nodes.append(helper.make_node("Concat", features, [joined], name=joined, axis=1))
        weight = f"w{number}"
        nodes.append(helper.make_node("Conv", [joined, weight], [f"new{number}"], name=f"new{number}"))
        features = [*features, f"new{number}"]
    nodes += [
        helper.make_node("Concat", features, ["all"], name="all", axis=1),
        helper.make_node("GlobalAveragePool", ["all"], ["pool"], name="pool"),
        helper.make_node("Flatten", ["pool"], ["logits"], name="flat"),
    ]
    rng = np.random.default_rng(1)
    weights = {f"w{n}": rng.normal(0, 0.4, (2, 3 + 2 * n, 1, 1)).astype(np.float32) for n in range(layers)}
    return graph_of(nodes, **weights)


@pytest.mark.parametrize("layers", [2, 5, 12])
def test_a_dense_block_reads_each_feature_once(layers: int) -> None:
    model = dense(layers)
    made = canonical_form(model)
    reads = [name for node in GraphIndex.of(made).of_type("Concat") for name in node.input]
    assert sorted(reads) == sorted({*reads}), "every feature and every block once"
    assert len(reads) == 2 * layers
    assert np.array_equal(runner(model, optimise=False)(IMAGES), runner(made, optimise=False)(IMAGES))


def test_concatenations_along_other_axes_stay() -> None:
    nodes = [
        helper.make_node("Concat", ["image", "image"], ["a"], name="a", axis=2),
        helper.make_node("Concat", ["image", "image", "image"], ["b"], name="b", axis=3),
        helper.make_node("GlobalAveragePool", ["a"], ["c"], name="c"),
        helper.make_node("GlobalAveragePool", ["b"], ["d"], name="d"),
        helper.make_node("Add", ["c", "d"], ["e"], name="e"),
        helper.make_node("Flatten", ["e"], ["logits"], name="f"),
    ]
    model = graph_of(nodes)
    assert canonical_form(model) is model


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("axes", [(2, 3), (-1, -2)])
def test_a_mean_over_height_and_width_is_a_global_pool(axes, opset: int, keepdims: int) -> None:
    ends = ["image"] if opset < 18 else ["image", "axes"]
    stated = {"axes": list(axes)} if opset < 18 else {}
    nodes = [
        helper.make_node("ReduceMean", ends, ["mean"], name="mean", keepdims=keepdims, **stated),
        helper.make_node("Flatten", ["mean"], ["logits"], name="flat"),
    ]
    model = graph_of(nodes, opset, axes=np.array(axes, np.int64))
    made = canonical_form(model)
    kinds = [node.op_type for node in made.graph.node]
    assert kinds == ["GlobalAveragePool", *["Flatten"] * (2 - keepdims)]
    before, after = (runner(one, optimise=False)(IMAGES) for one in (model, made))
    assert np.allclose(before, after, atol=1e-6)


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2, 3), (3,)])
def test_other_means_stay(axes) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], name="mean", keepdims=1, axes=list(axes)),
        helper.make_node("Flatten", ["mean"], ["logits"], name="flat"),
    ]
    model = graph_of(nodes)
    assert canonical_form(model) is model
