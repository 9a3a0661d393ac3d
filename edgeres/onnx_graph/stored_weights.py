"""Stored weights of a Q/DQ graph: codes before DequantizeLinear, or floats before QuantizeLinear."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex, attribute

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto


def dequantized_weight(view: GraphIndex, node: NodeProto) -> NDArray[np.float64] | None:
    """The dequantized float values of a weight; None where it is not constant."""
    quantizer = view.producer(node.input[0], "QuantizeLinear")
    codes = view.value(quantizer.input[0] if quantizer is not None else node.input[0])
    scale = view.value(node.input[1])
    zero = view.value(node.input[2]) if len(node.input) > 2 else np.zeros((), np.int8)
    if codes is None or scale is None or zero is None or scale.ndim > 1:
        return None
    if quantizer is not None:
        return codes.astype(np.float64)
    axis = attribute(node, "axis", 1) % max(codes.ndim, 1) if scale.size > 1 else 0
    shape = [-1 if place == axis else 1 for place in range(codes.ndim)] if scale.size > 1 else []
    values: NDArray[np.float64] = (codes.astype(np.float64) - zero.astype(np.float64).reshape(shape)) * scale.astype(
        np.float64
    ).reshape(shape)
    return values


def output_channel_axis(node: NodeProto, shape: tuple[int, ...]) -> int:
    """Output-channel axis of a weight ``[OC,IC,kh,kw]``, ``[OC,IC]`` or ``[IC,OC]``."""
    match node.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1
        case "Gemm":
            return 0 if attribute(node, "transB", 0) else 1
    return max(len(shape) - 1, 0)


def float_weights(model: ModelProto) -> int:
    """Converts weights stored as codes to float weights before QuantizeLinear, in place.

    No value changes: a code times its scale, rounded to float32, is nearer to that code than to any other. Parsers of
    TensorRT before 8.5 support no other form (TensorRT developer guide; NVIDIA/TensorRT issue 3385).

    Returns:
        Number of converted weights.
    """
    view, made = GraphIndex.of(model), dict[str, NodeProto]()
    for node in view.of_type(*WEIGHTED):
        dequantizer = view.producer(node.input[1], "DequantizeLinear")
        if dequantizer is None or dequantizer.input[0] not in view.constants or dequantizer.output[0] in made:
            continue
        values = dequantized_weight(view, dequantizer)
        if values is None:
            continue
        stored, codes = f"{dequantizer.output[0]}:float", f"{dequantizer.output[0]}:codes"
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), stored))
        quantizer = helper.make_node("QuantizeLinear", [stored, *dequantizer.input[1:]], [codes], name=codes)
        quantizer.attribute.extend(dequantizer.attribute)
        made[dequantizer.output[0]] = quantizer
        dequantizer.input[0] = codes
    nodes = []
    for node in model.graph.node:
        if node.output[0] in made:
            nodes.append(made[node.output[0]])
        nodes.append(node)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    read = {name for node in copies for name in node.input}
    tensors = [type(t).FromString(t.SerializeToString()) for t in model.graph.initializer if t.name in read]
    model.graph.ClearField("node")
    model.graph.ClearField("initializer")
    model.graph.node.extend(copies)
    model.graph.initializer.extend(tensors)
    return len(made)
