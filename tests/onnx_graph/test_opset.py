"""Operators of newer opsets in older ones, and shapes that exporters compute: the same values as the file's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper, shape_inference

from edgeres.errors import StageError
from edgeres.onnx_graph.execute import open_session, relative_delta, runner, session_options
from edgeres.onnx_graph.fold import prepare
from edgeres.onnx_graph.opset import to_opset
from edgeres.onnx_graph.read import read_model
from edgeres.onnx_graph.static_shapes import for_one_image
from edgeres.targets.target import find_target

if TYPE_CHECKING:
    from pathlib import Path

N = helper.make_node
RNG = np.random.default_rng(0)


def model_of(nodes: list[NodeProto], opset: int, **constants: Any) -> ModelProto:
    """A graph of images ``x`` ``[N,8,6,6]`` with output ``y``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return shape_inference.infer_shapes(model, data_prop=True)


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(0, 1, shape).astype(np.float32)


NEWER = {
    "Gelu": (20, N("Gelu", ["x"], ["y"]), {}),
    "Gelu tanh": (20, N("Gelu", ["x"], ["y"], approximate="tanh"), {}),
    "Mish": (18, N("Mish", ["x"], ["y"]), {}),
    "HardSwish": (14, N("HardSwish", ["x"], ["y"]), {}),
    "Swish": (24, N("Swish", ["x"], ["y"]), {}),
    "LayerNormalization": (
        17, N("LayerNormalization", ["x", "g", "b"], ["y"], axis=2), {"g": floats(6, 6), "b": floats(6, 6)},
    ),
    "RMSNormalization": (23, N("RMSNormalization", ["x", "g"], ["y"], axis=-1), {"g": floats(6)}),
    "GroupNormalization": (
        21, N("GroupNormalization", ["x", "g", "b"], ["y"], num_groups=4), {"g": floats(8), "b": floats(8)},
    ),
    "Attention": (23, N("Attention", ["x", "x", "x"], ["y"]), {}),
    "ReduceMax": (18, N("ReduceMax", ["x", "a"], ["y"], keepdims=0), {"a": np.array([2, 3])}),
    "Pad of axes": (18, N("Pad", ["x", "p", "", "a"], ["y"]), {"p": np.array([1, 2]), "a": np.array([3])}),
    "Resize of axes": (
        18, N("Resize", ["x", "", "", "s"], ["y"], axes=[2, 3], mode="linear"), {"s": np.array([12, 9])},
    ),
    "Split by number": (18, N("Split", ["x"], ["y", "z"], num_outputs=2, axis=1), {}),
    "Split unevenly": (18, N("Split", ["x"], ["z", "v", "y"], num_outputs=3, axis=1), {}),
    "Shape from a start": (15, N("Shape", ["x"], ["s"], start=1), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", NEWER)
@pytest.mark.parametrize("opset", [13, 17])
def test_an_operator_that_an_opset_lacks_is_computed_by_older_ones(name: str, opset: int) -> None:
    since, node, constants = NEWER[name]
    if since <= opset:
        pytest.skip("the opset has it")
    nodes = [NodeProto.FromString(node.SerializeToString())]
    if name.startswith("Shape"):
        nodes.append(N("Cast", ["s"], ["y"], to=TensorProto.FLOAT))
    model = model_of(nodes, max(since, 18), **constants)
    lowered = to_opset(model, opset, 8)
    assert all(defs.has(node.op_type, opset, "") for node in lowered.graph.node)
    for batch in (1, 3):
        images = floats(batch, 8, 6, 6)
        wanted, answer = _run(model, images), _run(lowered, images)
        assert wanted.shape == answer.shape
        assert relative_delta(wanted, answer) < 1e-5


def _run(model: ModelProto, images: np.ndarray) -> np.ndarray:
    return np.asarray(open_session(model, session_options("none")).run(["y"], {"x": images})[0], np.float32)


def test_an_operator_without_any_older_form_is_refused_by_name() -> None:
    grid = floats(1, 3, 3, 2)
    model = model_of([N("GridSample", ["x", "g"], ["y"], name="warp", mode="cubic")], 20, g=np.repeat(grid, 1, 0))
    with pytest.raises(StageError, match="'warp'"):
        to_opset(model, 13, 8)


def classifier(nodes: list[NodeProto], opset: int, **constants: Any) -> ModelProto:
    """A graph of images ``x`` ``[N,3,8,8]`` with logits ``y`` ``[N,5]``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def vision_transformer() -> ModelProto:
    """Patches, a class token that is expanded to the batch, one block of attention and Gelu, and a head."""
    nodes = [
        N("Conv", ["x", "patch.w"], ["patches"], kernel_shape=[4, 4], strides=[4, 4]),
        N("Shape", ["patches"], ["batch"], start=0, end=1),
        N("Concat", ["batch", "rest"], ["rows.shape"], axis=0),
        N("Reshape", ["patches", "rows.shape"], ["rows"]),
        N("Transpose", ["rows"], ["tokens"], perm=[0, 2, 1]),
        N("Concat", ["batch", "ones"], ["class.shape"], axis=0),
        N("Expand", ["class", "class.shape"], ["classes"]),
        N("Concat", ["classes", "tokens"], ["all"], axis=1),
        N("LayerNormalization", ["all", "n.g", "n.b"], ["n"], axis=-1),
        N("Transpose", ["n"], ["t"], perm=[0, 2, 1]),
        N("MatMul", ["n", "t"], ["scores"]),
        N("Softmax", ["scores"], ["gates"], axis=-1),
        N("MatMul", ["gates", "n"], ["mixed"]),
        N("Add", ["mixed", "all"], ["sum"]),
        N("MatMul", ["sum", "up.w"], ["up"]),
        N("Gelu", ["up"], ["gelu"]),
        N("Gather", ["gelu", "zero"], ["first"], axis=1),
        N("Gemm", ["first", "fc.w", "fc.b"], ["y"], transB=1),
    ]
    constants = {
        "patch.w": floats(12, 3, 4, 4), "rest": np.array([12, -1]), "ones": np.array([1, 12]),
        "class": floats(1, 1, 12), "n.g": floats(12), "n.b": floats(12), "up.w": floats(12, 16) / 4,
        "zero": np.array(0), "fc.w": floats(5, 16), "fc.b": floats(5),
    }  # fmt: skip
    return classifier(nodes, 20, **constants)


@pytest.mark.parametrize("target", ["cpu", "jetson", "jetson-xavier-nx:jp5.1", "raspberry-pi:litert"])
def test_a_vision_transformer_has_constant_target_shapes_in_every_targets_opset(tmp_path: Path, target: str) -> None:
    path = tmp_path / "vit.onnx"
    path.write_bytes(vision_transformer().SerializeToString())
    model, runtime = read_model(path), find_target(target).runtime
    prepared = prepare(model, runtime)
    kinds = {node.op_type for node in prepared.model.graph.node}
    sizes = [node.input[1] for node in prepared.model.graph.node if node.op_type == "Reshape"]
    assert set(sizes) <= {tensor.name for tensor in prepared.model.graph.initializer}
    alone = for_one_image(prepared.model)
    assert not {node.op_type for node in alone.graph.node} & {"Shape", "Expand"}
    one = floats(1, 3, 8, 8)
    assert relative_delta(runner(prepared.model)(one), runner(alone)(one)) < 1e-6
    opset = prepared.model.opset_import[0].version
    assert opset == (20 if runtime.latest_opset else runtime.opset)
    assert ("Gelu" in kinds) is (opset == 20)
    images = floats(3, 3, 8, 8)
    assert relative_delta(runner(model, optimise=False)(images), runner(prepared.model)(images)) < 1e-4


def test_a_graph_that_returns_nan_is_refused_as_such(tmp_path: Path) -> None:
    nodes = [N("ReduceMean", ["x"], ["p"], axes=[2, 3], keepdims=0), N("Gemm", ["p", "w", "b"], ["y"])]
    model = classifier(nodes, 17, w=floats(3, 5), b=np.full(5, np.nan, np.float32))
    (tmp_path / "nan.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(StageError, match="NaN or infinity"):
        prepare(read_model(tmp_path / "nan.onnx"), find_target("cpu").runtime)
