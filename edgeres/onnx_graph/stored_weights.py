"""Weights of a Q/DQ graph as they are stored: codes behind DequantizeLinear, or floats in front of QuantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex, attribute

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto


@dataclass(frozen=True, slots=True, eq=False)
class StoredWeight:
    """A constant behind DequantizeLinear.

    Attributes:
        values: Integer codes, or floats where the graph stores those in front of QuantizeLinear.
        scale: One, or ``[C]`` along ``axis``.
        zero_point: One, or ``[C]`` along ``axis``.
        axis: Axis of ``values`` that counts channels; None where one scale is for all.
        in_float: Whether ``values`` are floats.
    """

    values: NDArray[np.generic]
    scale: NDArray[np.generic]
    zero_point: NDArray[np.generic]
    axis: int | None
    in_float: bool

    def _broadcast(self, parameter: NDArray[np.generic]) -> NDArray[np.generic]:
        """``[C]`` as ``[C,1,...]``, so that it meets the channels of ``values``."""
        places = range(self.values.ndim)
        return parameter.reshape([-1 if place == self.axis else 1 for place in places] if parameter.size > 1 else [])

    @property
    def codes(self) -> NDArray[np.int32]:
        """Codes less their zero-point; of floats what QuantizeLinear makes, rounded half to even."""
        zero = self._broadcast(self.zero_point)
        codes = self.values
        if self.in_float:
            low, high = (0, 255) if self.zero_point.dtype == np.uint8 else (-128, 127)
            steps = np.rint(self.values.astype(np.float32) / self._broadcast(self.scale).astype(np.float32))
            codes = np.clip(steps + zero.astype(np.float32), low, high)
        difference: NDArray[np.int32] = codes.astype(np.int32) - zero.astype(np.int32)
        return difference

    @property
    def dequantized(self) -> NDArray[np.float64]:
        """What DequantizeLinear yields: codes less their zero-point, times the scale."""
        if self.in_float:
            whole = self.codes.astype(np.float64)
        else:
            whole = self.values.astype(np.float64) - self._broadcast(self.zero_point).astype(np.float64)
        product: NDArray[np.float64] = whole * self._broadcast(self.scale).astype(np.float64)
        return product


def stored_weight(view: GraphIndex, dequantizer: NodeProto) -> StoredWeight | None:
    """What a weight's DequantizeLinear reads; None where something of it is computed, or it has a scale per block."""
    quantizer = view.producer(dequantizer.input[0], "QuantizeLinear")
    values = view.value(quantizer.input[0] if quantizer is not None else dequantizer.input[0])
    scale = view.value(dequantizer.input[1])
    zero = view.value(dequantizer.input[2]) if len(dequantizer.input) > 2 else np.zeros((), np.int8)
    if values is None or scale is None or zero is None or scale.ndim > 1:
        return None
    axis = attribute(dequantizer, "axis", 1) % max(values.ndim, 1) if scale.size > 1 else None
    return StoredWeight(values, scale, zero, axis, quantizer is not None)


def dequantized_weight(view: GraphIndex, node: NodeProto) -> NDArray[np.float64] | None:
    """The float values of a weight: as stored in front of QuantizeLinear, otherwise what DequantizeLinear yields.

    Args:
        view: The graph.
        node: The weight's DequantizeLinear.

    Returns:
        The values; None where something of them is computed, or they have a scale for each block.
    """
    stored = stored_weight(view, node)
    if stored is None:
        return None
    return stored.values.astype(np.float64) if stored.in_float else stored.dequantized


def output_channel_axis(node: NodeProto, shape: tuple[int, ...]) -> int:
    """Axis of a weight ``[OC,IC,kh,kw]``, ``[OC,IC]`` or ``[IC,OC]`` that counts output channels."""
    match node.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1
        case "Gemm":
            return 0 if attribute(node, "transB", 0) else 1
    return max(len(shape) - 1, 0)


def float_weights(model: ModelProto) -> int:
    """Turns weights stored as codes into float weights in front of QuantizeLinear, in place.

    No value changes: a code times its scale, rounded to float32, is nearer to that code than to any other. Parsers of
    TensorRT before 8.5 take no other form (TensorRT developer guide; NVIDIA/TensorRT issue 3385).

    Returns:
        How many weights changed their form.
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
