"""Reductions over axes and the expansion of their results in LiteRT, in float."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.litert.tflite.tensor_table import OTHER_RUNTIME, real_constant
from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import attribute, input_at, label

if TYPE_CHECKING:
    from onnx import NodeProto

    from edgeres.backends.litert.tflite.tensor_table import TensorTable

_KINDS = {"ReduceSum": "SUM", "ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN"}
_LAST = (0, 3, 1, 2)
"""Axis in LiteRT's layout of each axis of ``[N,C,H,W]``."""


def reduction(tensors: TensorTable, node: NodeProto) -> None:
    """A ReduceSum, ReduceMax, ReduceMin or ReduceL2, the root of the sum of squares."""
    data, output = node.input[0], node.output[0]
    shape, keep = tensors.shape(data), bool(attribute(node, "keepdims", 1))
    axes = _axes(tensors, node, len(shape))
    # Channels are last in LiteRT, so without them the axes that are left have another order.
    if 0 in axes or (len(shape) == 4 and not keep and axes != (2, 3)):
        raise StageError(f"{label(node)}: a reduction over {axes} of {shape}", OTHER_RUNTIME)
    places = sorted(_LAST[axis] for axis in axes) if len(shape) == 4 else list(axes)
    constant = tensors.constant(f"{output}.axes", np.array(places, np.int32))
    read = tensors.read(data, None)
    if node.op_type in _KINDS:
        result = tensors.make(output, None)
        tensors.operate(_KINDS[node.op_type], (read, constant), result, "ReducerOptions", keepDims=keep)
        return
    squared = tensors.activation(f"{output};squared", tensors.tensors[read].shape, None)
    tensors.operate("MUL", (read, read), squared, "MulOptions")
    result = tensors.make(output, None)
    summed = tensors.activation(f"{output};summed", tensors.tensors[result].shape, None)
    tensors.operate("SUM", (squared, constant), summed, "ReducerOptions", keepDims=keep)
    tensors.operate("SQRT", (summed,), result)


def _axes(tensors: TensorTable, node: NodeProto, rank: int) -> tuple[int, ...]:
    """Axes of a reduction in ascending order, all of them where none are stated."""
    stated = attribute(node, "axes")
    if stated is None and input_at(node, 1):
        value = real_constant(tensors.view, node.input[1])
        if value is None:
            raise StageError(f"{label(node)}: its axes are computed", OTHER_RUNTIME)
        stated = value.reshape(-1).tolist()
    return tuple(sorted(int(axis) % rank for axis in (stated or range(rank))))


def expansion(tensors: TensorTable, node: NodeProto) -> None:
    """An Expand: a tensor with its axes of one element repeated."""
    source, target = tensors.shape(node.input[0]), tensors.shape(node.output[0])
    if len(source) != len(target):
        raise StageError(f"{label(node)}: {source} expanded to {target}", OTHER_RUNTIME)
    read, output = tensors.read(node.input[0], None), tensors.make(node.output[0], None)
    shape = tensors.constant(f"{node.output[0]}.shape", np.array(tensors.tensors[output].shape, np.int32))
    tensors.operate("BROADCAST_TO", (read, shape), output, "", 2)
