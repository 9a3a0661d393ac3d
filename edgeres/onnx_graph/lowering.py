"""Lowering of a Q/DQ graph to the form of a runtime version: float weights, and FP16 casts for strong typing.

Quantized parts stay in float32, scales included: a runtime fuses their Q/DQ pairs, and float16 would reduce the
precision of scales. Float convolutions and matrix products get a Cast before them, float16 constants, and a Cast after
them. That is valid in opset 13 and newer, with weak typing as well as with strong.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgeres.onnx_graph.edit import insert_before, replace_nodes, retain
from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex, label
from edgeres.onnx_graph.stored_weights import dequantized_weight

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edgeres.targets.runtime import Runtime

ROUNDING = 2.0**-8
"""Error of FP16 sums as a share of a tensor's range: 11 bits of mantissa, less 3 for sums of a few thousand."""

_CARRIED = ("GlobalAveragePool", "AveragePool", "Flatten", "Reshape", "Squeeze", "ReduceMean", "Relu", "Identity")
_FLOAT16_MAX = float(np.finfo(np.float16).max)


def for_runtime(model: ModelProto, runtime: Runtime) -> ModelProto:
    """A copy of a graph in the runtime's form and of the same values; the model itself where it has that form already.

    ``runtime.float_weights`` requires weights before QuantizeLinear, ``runtime.strongly_typed`` FP16 where the graph
    computes in float.
    """
    if not (runtime.float_weights or runtime.strongly_typed):
        return model
    changed = deepcopy(model)
    changed.graph.ClearField("value_info")
    if runtime.float_weights:
        float_weights(changed)
    if runtime.strongly_typed:
        to_half(changed)
    return changed


def float_weights(model: ModelProto) -> int:
    """Converts weights stored as codes to float weights before QuantizeLinear, in place; returns their number.

    No value changes: a code times its scale, rounded to float32, is nearer to that code than to any other. Parsers of
    TensorRT before 8.5 support no other form (TensorRT developer guide; NVIDIA/TensorRT issue 3385).
    """
    view, count = GraphIndex.of(model), 0
    for node in view.of_type(*WEIGHTED):
        dequantizer = view.producer(node.input[1], "DequantizeLinear")
        if dequantizer is None or dequantizer.input[0] not in view.constants:
            continue
        values = dequantized_weight(view, dequantizer)
        if values is None:
            continue
        stored, codes = f"{dequantizer.output[0]}:float", f"{dequantizer.output[0]}:codes"
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), stored))
        quantizer = helper.make_node("QuantizeLinear", [stored, *dequantizer.input[1:]], [codes], name=codes)
        quantizer.attribute.extend(dequantizer.attribute)
        insert_before(model, dequantizer, quantizer)
        dequantizer.input[0] = codes
        count += 1
    read = {name for node in model.graph.node for name in node.input}
    retain(model.graph.initializer, lambda tensor: tensor.name in read)
    return count


def to_half(model: ModelProto) -> int:
    """Casts the float parts of a graph to FP16 in place; returns the number of convolutions and matrix products there.

    Weights beyond FP16's range are left in float32.
    """
    view = GraphIndex.of(model)
    roots = [node for node in view.of_type(*WEIGHTED) if _is_float(view, node)]
    half, outputs = {label(node) for node in roots}, {value.name for value in model.graph.output}
    for node in reversed(view.nodes):
        readers = {label(reader) for reader, _ in view.consumers(node.output[0])}
        if node.op_type in _CARRIED and readers and readers <= half and node.output[0] not in outputs:
            half.add(label(node))
    if roots:
        _cast(model, view, half)
    return len(roots)


def _is_float(view: GraphIndex, node: NodeProto) -> bool:
    """Whether a weighted node has a float32 weight within FP16's range and data that is not cast already."""
    constants = [view.value(name) for name in node.input[1:] if name]
    fits = all(
        value is not None and value.dtype == np.float32 and float(np.abs(value).max(initial=0)) < _FLOAT16_MAX
        for value in constants
    )
    return bool(constants) and fits


def _cast(model: ModelProto, view: GraphIndex, half: set[str]) -> None:
    """Rewrites the nodes labelled in ``half`` to float16, with casts at their borders."""
    outputs = {value.name for value in model.graph.output}
    computed = {name for node in view.nodes if label(node) in half for name in node.output}
    entered: set[str] = set()
    nodes: list[NodeProto] = []
    for node in view.nodes:
        if label(node) not in half:
            nodes.append(node)
            continue
        for index, name in enumerate(node.input):
            constant = view.constants.get(name)
            if constant is not None and constant.data_type == TensorProto.FLOAT:
                node.input[index] = _half_constant(model, view, name)
            elif constant is None and name and name not in computed:
                node.input[index] = f"{name}:half"
                if name not in entered:
                    entered.add(name)
                    nodes.append(_convert(name, node.input[index], TensorProto.FLOAT16))
        nodes.append(node)
        for index, name in enumerate(list(node.output)):
            readers = view.consumers(name)
            if name in outputs or any(label(reader) not in half for reader, _ in readers):
                inner = f"{name}:half"
                for reader, place in readers:
                    if label(reader) in half:
                        reader.input[place] = inner
                node.output[index] = inner
                nodes.append(_convert(inner, name, TensorProto.FLOAT))
    replace_nodes(model, nodes)


def _half_constant(model: ModelProto, view: GraphIndex, name: str) -> str:
    half = f"{name}:half"
    if half not in {tensor.name for tensor in model.graph.initializer}:
        value = np.asarray(view.value(name)).astype(np.float16)
        model.graph.initializer.append(numpy_helper.from_array(value, half))
    return half


def _convert(name: str, into: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [name], [into], name=f"{into}:cast", to=kind)
