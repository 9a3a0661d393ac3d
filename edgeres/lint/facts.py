"""Properties of Q/DQ graphs that several rules check."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from edgeres.onnx_graph.graph_index import COMMUTING, QDQ, WEIGHTED, GraphIndex, attribute, input_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from onnx import NodeProto, ValueInfoProto

MOVING = ("MaxPool", "Flatten", "Reshape", "Transpose", "Slice")
"""Operators that move values, with which Q/DQ commutes."""

FLOAT_IN_FLOAT_OUT = ("AveragePool", "GlobalAveragePool", "ReduceMean", "Mul", "Clip", "Sigmoid")
"""Pools and pointwise operators that are integer on both sides or on none."""


def type_name(kind: int) -> str:
    """Name of a tensor type, such as ``INT8``."""
    return str(TensorProto.DataType.Name(kind))


def scales(view: GraphIndex) -> Iterator[tuple[NodeProto, NDArray[np.float64]]]:
    """Every Q/DQ node with the value of its scale, where it is constant."""
    for node in view.of_type(*QDQ):
        scale = view.value(node.input[1])
        if scale is not None:
            yield node, scale.astype(np.float64)


def data_shape(view: GraphIndex, node: NodeProto) -> tuple[int, ...] | None:
    """Shape of the constant a Q/DQ chain quantizes; None for an activation."""
    tensor = view.constants.get(view.source(node))
    return None if tensor is None else tuple(tensor.dims)


def element_types(view: GraphIndex) -> dict[str, int]:
    """Element type of every tensor of a Q/DQ classifier, from its nodes, without shape inference.

    QuantizeLinear gives the type of its zero-point, DequantizeLinear that of its scale, Cast its ``to``; every other
    operator here keeps the type of its first input (ONNX operator specification).
    """
    kinds = {name: int(tensor.data_type) for name, tensor in view.constants.items()}
    kinds |= {value.name: int(value.type.tensor_type.elem_type) for value in view.model.graph.input}
    for node in view.nodes:
        match node.op_type:
            case "QuantizeLinear":
                stated = int(attribute(node, "output_dtype", 0)) or int(TensorProto.UINT8)
                kind = kinds.get(node.input[2], stated) if input_at(node, 2) else stated
            case "DequantizeLinear":
                kind = kinds.get(node.input[1], int(TensorProto.FLOAT))
            case "Cast":
                kind = int(attribute(node, "to", 0))
            case "Shape" | "Size" | "ArgMax":
                kind = int(TensorProto.INT64)
            case _:
                kind = kinds.get(node.input[0], 0) if node.input else 0
        for name in node.output:
            kinds.setdefault(name, kind)
    return kinds


def folds_to_constant(view: GraphIndex, tensor: str) -> bool:
    """Whether a tensor is a constant, possibly through Identity nodes."""
    while (maker := view.producer(tensor, "Identity")) is not None:
        tensor = maker.input[0]
    return tensor in view.constants


def quantized_weights(view: GraphIndex, *kinds: str) -> Iterator[tuple[NodeProto, NodeProto]]:
    """Weighted nodes, of all operators or of those named, with the DequantizeLinear of their weight."""
    for node in view.of_type(*(kinds or WEIGHTED)):
        if (dequantizer := view.weight_dequantizer(node.input[1])) is not None:
            yield node, dequantizer


def dequantized(view: GraphIndex, tensor: str) -> bool:
    """Whether a tensor is an activation after Q/DQ, possibly through operators that commute with Q/DQ."""
    while view.pair(tensor) is None:
        maker = view.producer(tensor, *COMMUTING)
        if maker is None:
            return False
        if maker.op_type == "Concat":
            return _one_scale_for_all(view, maker) and all(dequantized(view, name) for name in maker.input)
        tensor = maker.input[0]
    return True


def _one_scale_for_all(view: GraphIndex, concat: NodeProto) -> bool:
    """Whether Q/DQ commutes with a Concat: all its inputs share one scale, where their pairs are directly before it."""
    pairs = [view.pair(name) for name in concat.input]
    scales = [view.value(pair[0].input[1]) for pair in pairs if pair is not None]
    known = [scale for scale in scales if scale is not None]
    return len(known) == len(scales) and all(np.array_equal(known[0], scale) for scale in known)


def activation_type(view: GraphIndex, tensor: str) -> int | None:
    """Code type of the Q/DQ pair that ends in a tensor, UINT8 where it has no zero-point; None where unknown."""
    pair = view.pair(tensor)
    if pair is None:
        return None
    zero_point = view.constants.get(input_at(pair[0], 2))
    return int(TensorProto.UINT8 if zero_point is None else zero_point.data_type)


def open_inputs(view: GraphIndex) -> Iterator[tuple[ValueInfoProto, str]]:
    """Inputs of the graph with a symbolic or unknown dimension, and the first such dimension."""
    for value in view.model.graph.input:
        free = [dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim if not dim.dim_value]
        if free and value.name not in view.constants:
            yield value, free[0]
