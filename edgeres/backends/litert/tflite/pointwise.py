"""Sigmoid, Softmax, HardSigmoid, square root, limits, Slice and Split in LiteRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.litert.tflite.tensor_table import OTHER_RUNTIME, real_constant
from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import attribute, input_at, label

if TYPE_CHECKING:
    from onnx import NodeProto

    from edgeres.backends.litert.tflite.tensor_table import TensorTable


def sigmoid(tensors: TensorTable, node: NodeProto) -> None:
    """A Sigmoid, in float."""
    tensors.operate("LOGISTIC", (tensors.read(node.input[0], None),), tensors.make(node.output[0], None))


def softmax(tensors: TensorTable, node: NodeProto) -> None:
    """A Softmax over classes, in float."""
    if attribute(node, "axis", -1) not in (-1, len(tensors.shape(node.input[0])) - 1):
        raise StageError(f"{label(node)}: a softmax over another axis than the last", OTHER_RUNTIME)
    read = tensors.read(node.input[0], None)
    tensors.operate("SOFTMAX", (read,), tensors.make(node.output[0], None), "SoftmaxOptions", beta=1.0)


def square_root(tensors: TensorTable, node: NodeProto) -> None:
    """A Sqrt, in float."""
    tensors.operate("SQRT", (tensors.read(node.input[0], None),), tensors.make(node.output[0], None))


def extremum(tensors: TensorTable, node: NodeProto) -> None:
    """A Max or Min of two tensors, in float."""
    if len(node.input) != 2:
        raise StageError(f"{label(node)}: {node.op_type} of {len(node.input)} tensors", OTHER_RUNTIME)
    inputs = tuple(tensors.read(name, None) for name in node.input)
    kind = "MAXIMUM" if node.op_type == "Max" else "MINIMUM"
    tensors.operate(kind, inputs, tensors.make(node.output[0], None), "MaximumMinimumOptions")


def clip(tensors: TensorTable, node: NodeProto) -> None:
    """A Clip to any constant bounds, in float."""
    bounds = [
        (kind, real_constant(tensors.view, input_at(node, place)))
        for kind, place in (("MAXIMUM", 1), ("MINIMUM", 2))
        if input_at(node, place)
    ]
    if not bounds or any(bound is None for _, bound in bounds):
        raise StageError(f"{label(node)}: a Clip without constant bounds", OTHER_RUNTIME)
    read, output = tensors.read(node.input[0], None), node.output[0]
    for place, (kind, bound) in enumerate(bounds, start=1):
        value = tensors.constant(f"{output}.{kind.lower()}", np.asarray(bound).reshape(1))
        shape = tensors.tensors[read].shape
        last = place == len(bounds)
        result = tensors.make(output, None) if last else tensors.activation(f"{output};raised", shape, None)
        read = tensors.operate(kind, (read, value), result, "MaximumMinimumOptions")


def hard_sigmoid(tensors: TensorTable, node: NodeProto) -> None:
    """``max(0, min(1, slope * x + offset))``, in float."""
    output = node.output[0]
    read = tensors.read(node.input[0], None)
    shape = tensors.tensors[read].shape
    steps = (
        ("MUL", attribute(node, "alpha", 0.2), "MulOptions"),
        ("ADD", attribute(node, "beta", 0.5), "AddOptions"),
        ("MAXIMUM", 0.0, "MaximumMinimumOptions"),
    )
    for kind, value, table in steps:
        operand = tensors.constant(f"{output};{kind.lower()}.value", np.array([value], np.float32))
        read = tensors.operate(
            kind, (read, operand), tensors.activation(f"{output};{kind.lower()}", shape, None), table
        )
    one = tensors.constant(f"{output};minimum.value", np.array([1.0], np.float32))
    tensors.operate("MINIMUM", (read, one), tensors.make(output, None), "MaximumMinimumOptions")


def parts(tensors: TensorTable, node: NodeProto) -> None:
    """A Split: one slice for each part, on codes where its input is codes."""
    shape = tensors.shape(node.input[0])
    axis, start = int(attribute(node, "axis", 0)) % len(shape), 0
    for name in node.output:
        begin = [0] * len(shape)
        begin[axis] = start
        start += tensors.shape(name)[axis]
        _slice(tensors, node.input[0], name, begin)


def piece(tensors: TensorTable, node: NodeProto) -> None:
    """A Slice without steps, on codes where its input is codes."""
    shape, output = tensors.shape(node.input[0]), node.output[0]
    starts, axes, steps = (_integers(tensors, node, place) for place in (1, 3, 4))
    if starts is None or (steps is not None and any(step != 1 for step in steps)):
        raise StageError(f"{label(node)}: a Slice with steps or computed ends", OTHER_RUNTIME)
    begin = [0] * len(shape)
    for start, axis in zip(starts, axes or range(len(starts)), strict=True):
        size = shape[axis % len(shape)]
        begin[axis % len(shape)] = min(max(start + size if start < 0 else start, 0), size)
    _slice(tensors, node.input[0], output, begin)


def _slice(tensors: TensorTable, data: str, output: str, begin: list[int]) -> None:
    """The part of a tensor that begins there and has the output's shape."""
    grid, sizes = tensors.grid(data), list(tensors.shape(output))
    if len(begin) == 4:
        begin, sizes = ([numbers[place] for place in (0, 2, 3, 1)] for numbers in (begin, sizes))
    ends = [
        tensors.constant(f"{output}.{name}", np.array(value, np.int32))
        for name, value in (("begin", begin), ("size", sizes))
    ]
    tensors.operate("SLICE", (tensors.read(data, grid), *ends), tensors.make(output, grid), "SliceOptions")


def _integers(tensors: TensorTable, node: NodeProto, place: int) -> list[int] | None:
    if not input_at(node, place):
        return None
    value = real_constant(tensors.view, node.input[place])
    return None if value is None else [int(number) for number in value.reshape(-1)]
