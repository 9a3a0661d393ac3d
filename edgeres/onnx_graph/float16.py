"""FP16 casts for the float parts of a Q/DQ graph, for strongly typed runtimes.

Quantized parts are unchanged, scales included: a runtime fuses their Q/DQ pairs, and float16 would reduce the precision
of scales. Float convolutions and matrix products get a Cast before them, float16 constants, and a Cast after them. That
is valid in opset 13 and newer, with weak typing as well as with strong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex, label

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

ROUNDING = 2.0**-8
"""Error of FP16 sums as a share of a tensor's range: 11 bits of mantissa, less 3 for sums of a few thousand."""

_CARRIED = ("GlobalAveragePool", "AveragePool", "Flatten", "Reshape", "Squeeze", "ReduceMean", "Relu", "Identity")
_FLOAT16_MAX = float(np.finfo(np.float16).max)


def to_half(model: ModelProto) -> int:
    """Casts the float parts of a graph to FP16, in place.

    Returns:
        Number of float convolutions and matrix products in FP16; weights beyond FP16's range are left in float32.
    """
    view = GraphIndex.of(model)
    roots = [node for node in view.of_type(*WEIGHTED) if _is_float(view, node)]
    island = {label(node) for node in roots}
    for node in reversed(view.nodes):
        if node.op_type in _CARRIED and label(node) not in island and _feeds_only(view, node, island):
            island.add(label(node))
    if roots:
        _cast(model, view, island)
    return len(roots)


def _is_float(view: GraphIndex, node: NodeProto) -> bool:
    """Whether a weighted node has a float32 weight within FP16's range and data that is not cast already."""
    constants = [view.value(name) for name in node.input[1:] if name]
    fits = all(
        value is not None and value.dtype == np.float32 and float(np.abs(value).max(initial=0)) < _FLOAT16_MAX
        for value in constants
    )
    return bool(constants) and fits


def _feeds_only(view: GraphIndex, node: NodeProto, island: set[str]) -> bool:
    readers = view.consumers(node.output[0])
    outputs = {value.name for value in view.model.graph.output}
    inside = all(label(reader) in island for reader, _ in readers)
    return bool(readers) and inside and node.output[0] not in outputs


def _cast(model: ModelProto, view: GraphIndex, island: set[str]) -> None:
    outputs = {value.name for value in model.graph.output}
    made = {name for node in view.nodes if label(node) in island for name in node.output}
    entered: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in view.nodes:
        if label(node) not in island:
            nodes.append(node)
            continue
        for index, name in enumerate(node.input):
            constant = view.constants.get(name)
            if constant is not None and constant.data_type == TensorProto.FLOAT:
                node.input[index] = _half_constant(model, view, name)
            elif constant is None and name and name not in made:
                if name not in entered:
                    entered[name] = f"{name}:half"
                    nodes.append(_convert(name, entered[name], TensorProto.FLOAT16))
                node.input[index] = entered[name]
        nodes.append(node)
        for index, name in enumerate(list(node.output)):
            outside = [entry for entry in view.consumers(name) if label(entry[0]) not in island]
            if name in outputs or outside:
                inner = f"{name}:half"
                for reader, place in view.consumers(name):
                    if label(reader) in island:
                        reader.input[place] = inner
                node.output[index] = inner
                nodes.append(_convert(inner, name, TensorProto.FLOAT))
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    model.graph.ClearField("node")
    model.graph.node.extend(copies)


def _half_constant(model: ModelProto, view: GraphIndex, name: str) -> str:
    half = f"{name}:half"
    if half not in {tensor.name for tensor in model.graph.initializer}:
        value = np.asarray(view.value(name)).astype(np.float16)
        model.graph.initializer.append(numpy_helper.from_array(value, half))
    return half


def _convert(name: str, into: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [name], [into], name=f"{into}:cast", to=kind)
