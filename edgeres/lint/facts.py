"""Properties of Q/DQ graphs that several rules check."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex, attribute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from onnx import NodeProto


def quantizers(view: GraphIndex) -> tuple[NodeProto, ...]:
    """Every QuantizeLinear and DequantizeLinear."""
    return view.of_type("QuantizeLinear", "DequantizeLinear")


def has_zero_point(node: NodeProto) -> bool:
    """Whether the optional third input is present."""
    return len(node.input) > 2 and node.input[2] != ""


def type_name(kind: int) -> str:
    """Name of a tensor type, such as ``INT8``."""
    return str(TensorProto.DataType.Name(kind))


def scales(view: GraphIndex) -> Iterator[tuple[NodeProto, NDArray[np.float64]]]:
    """Every Q/DQ node with the value of its scale, where it is constant."""
    for node in quantizers(view):
        scale = view.value(node.input[1])
        if scale is not None:
            yield node, scale.astype(np.float64)


def data_shape(view: GraphIndex, node: NodeProto) -> tuple[int, ...] | None:
    """Shape of the constant a Q/DQ chain quantizes; None for an activation."""
    name = node.input[0]
    behind = view.producer(name, "QuantizeLinear")
    tensor = view.constants.get(behind.input[0] if behind is not None else name)
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
                kind = kinds.get(node.input[2], stated) if has_zero_point(node) else stated
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


def weighted_nodes(view: GraphIndex) -> tuple[NodeProto, ...]:
    """Conv, ConvTranspose, Gemm and MatMul."""
    return view.of_type(*WEIGHTED)


def weight_dequantizer(view: GraphIndex, node: NodeProto) -> NodeProto | None:
    """The DequantizeLinear directly before a weight; None where the weight is float."""
    found = view.producer(node.input[1], "DequantizeLinear")
    return found if found is not None and view.is_weight_dequantizer(found) else None
