"""Operators of foreign graphs in LiteRT and ExecuTorch: the values that ONNX Runtime gives."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgeres.backends.executorch.loader import ExecuTorch
from edgeres.backends.litert.loader import LiteRT
from edgeres.onnx_graph.execute import relative_delta, runner
from edgeres.onnx_graph.read import infer

pytest.importorskip("ai_edge_litert")
pytest.importorskip("executorch")

N = helper.make_node
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(0, 2, (2, 3, 8, 8)).astype(np.float32)


def graph_of(nodes: list[NodeProto], **constants: np.ndarray) -> ModelProto:
    """A convolution to ``c`` ``[N,8,8,8]``, the nodes to ``e`` of some channels, a mean and a head."""
    weights = {"conv.w": RNG.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32), **constants}
    graph = helper.make_graph(
        [
            N("Conv", ["image", "conv.w"], ["c"], name="conv", kernel_shape=[3, 3], pads=[1] * 4),
            *nodes,
            N("GlobalAveragePool", ["e"], ["p"], name="pool"),
            N("Flatten", ["p"], ["logits"], name="flat"),
        ],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", None])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return infer(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


BOTH = {
    "HardSigmoid": ([N("HardSigmoid", ["c"], ["e"], alpha=0.3, beta=0.4)], {}),
    "Split": ([N("Split", ["c", "s"], ["a", "b"], axis=1), N("Concat", ["b", "a"], ["e"], axis=1)], {"s": ints(3, 5)}),
    "Slice of channels": ([N("Slice", ["c", "b", "l", "x"], ["e"])], {"b": ints(2), "l": ints(7), "x": ints(1)}),
    "Slice of pixels": (
        [N("Slice", ["c", "b", "l", "x"], ["e"])], {"b": ints(1, -5), "l": ints(9, 99), "x": ints(2, 3)},
    ),
}  # fmt: skip
TORCH = {
    "PRelu": ([N("PRelu", ["c", "s"], ["e"])], {"s": RNG.uniform(0, 1, (8, 1, 1)).astype(np.float32)}),
    "LayerNormalization": (
        [N("LayerNormalization", ["c", "g", "b"], ["e"], axis=-1)],
        {name: RNG.normal(0, 1, 8).astype(np.float32) for name in "gb"},
    ),
    "product of activations": ([N("MatMul", ["c", "c"], ["e"])], {}),
    "channel shuffle": (
        [
            N("Reshape", ["c", "wide"], ["w"]), N("Transpose", ["w"], ["t"], perm=[0, 2, 1, 3, 4]),
            N("Reshape", ["t", "back"], ["e"]),
        ],
        {"wide": ints(0, 2, 4, 8, 8), "back": ints(0, -1, 8, 8)},
    ),
    "Gather": ([N("Gather", ["c", "i"], ["e"], axis=1)], {"i": ints(7, 1, -2)}),
    "Resize": (
        [N("Resize", ["c", "", "s"], ["e"], mode="linear")], {"s": np.array([1, 1, 2, 1.5], np.float32)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOTH)
def test_litert_computes_it_as_onnx_runtime_does(name: str) -> None:
    nodes, constants = BOTH[name]
    _compare(LiteRT(), graph_of(nodes, **constants))


@pytest.mark.parametrize("name", BOTH | TORCH)
def test_executorch_computes_it_as_onnx_runtime_does(name: str) -> None:
    nodes, constants = (BOTH | TORCH)[name]
    _compare(ExecuTorch(), graph_of(nodes, **constants))


def _compare(backend: LiteRT | ExecuTorch, model: ModelProto) -> None:
    content, _ = backend.convert(model)
    with backend.open(content, 1) as session:
        answer = session.run(IMAGES)
    assert relative_delta(runner(model, optimise=False)(IMAGES), answer) < 1e-5
