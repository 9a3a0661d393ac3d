"""Stored weights of a Q/DQ graph: codes before DequantizeLinear, or floats before QuantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex, attribute, has_transposed_weight, retain

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto


@dataclass(frozen=True, slots=True, eq=False)
class StoredWeight:
    """A constant behind DequantizeLinear.

    Attributes:
        values: Integer codes, or floats where the graph stores those before QuantizeLinear (``in_float``).
        scale: One, or ``[C]`` along ``axis``; so is ``zero_point``.
        axis: Channel axis of ``values``; None for one scale.
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
        """Codes less their zero-point; floats are quantized as by QuantizeLinear, rounding half to even."""
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
        """Output of DequantizeLinear: codes less their zero-point, times the scale."""
        stored = self.values.astype(np.float64) - self._broadcast(self.zero_point).astype(np.float64)
        whole = self.codes.astype(np.float64) if self.in_float else stored
        product: NDArray[np.float64] = whole * self._broadcast(self.scale).astype(np.float64)
        return product

    @property
    def real(self) -> NDArray[np.float64]:
        """The float values: as stored before QuantizeLinear, otherwise the output of DequantizeLinear."""
        return self.values.astype(np.float64) if self.in_float else self.dequantized


def stored_weight(view: GraphIndex, dequantizer: NodeProto) -> StoredWeight | None:
    """Constants of a weight's DequantizeLinear; None where one is not constant, or there is a scale per block."""
    quantizer = view.producer(dequantizer.input[0], "QuantizeLinear")
    values = view.value(quantizer.input[0] if quantizer is not None else dequantizer.input[0])
    scale = view.value(dequantizer.input[1])
    zero = view.value(dequantizer.input[2]) if len(dequantizer.input) > 2 else np.zeros((), np.int8)
    if values is None or scale is None or zero is None or scale.ndim > 1:
        return None
    axis = attribute(dequantizer, "axis", 1) % max(values.ndim, 1) if scale.size > 1 else None
    return StoredWeight(values, scale, zero, axis, quantizer is not None)


def dequantized_weight(view: GraphIndex, dequantizer: NodeProto) -> NDArray[np.float64] | None:
    """``StoredWeight.real`` of a weight; None where a part of it is computed, or it has a scale for each block."""
    stored = stored_weight(view, dequantizer)
    return None if stored is None else stored.real


def output_channel_axis(node: NodeProto, shape: tuple[int, ...]) -> int:
    """Output-channel axis of a weight ``[OC,IC,kh,kw]``, ``[OC,IC]`` or ``[IC,OC]``."""
    if node.op_type == "ConvTranspose":
        return 1
    return max(len(shape) - 1, 0) if has_transposed_weight(node) else 0


def float_weights(model: ModelProto) -> int:
    """Converts weights stored as codes to float weights before QuantizeLinear, in place; returns their number.

    No value changes: a code times its scale, rounded to float32, is nearer to that code than to any other. Parsers of
    TensorRT before 8.5 support no other form (TensorRT developer guide; NVIDIA/TensorRT issue 3385).
    """
    view, quantizers, graph = GraphIndex.of(model), dict[str, NodeProto](), model.graph
    for node in view.of_type(*WEIGHTED):
        dequantizer = view.producer(node.input[1], "DequantizeLinear")
        if dequantizer is None or dequantizer.input[0] not in view.constants or dequantizer.output[0] in quantizers:
            continue
        values = dequantized_weight(view, dequantizer)
        if values is None:
            continue
        stored, codes = f"{dequantizer.output[0]}:float", f"{dequantizer.output[0]}:codes"
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), stored))
        quantizer = helper.make_node("QuantizeLinear", [stored, *dequantizer.input[1:]], [codes], name=codes)
        quantizer.attribute.extend(dequantizer.attribute)
        quantizers[dequantizer.output[0]] = quantizer
        dequantizer.input[0] = codes
    for index in reversed(range(len(graph.node))):
        if graph.node[index].output[0] in quantizers:
            graph.node.insert(index, quantizers[graph.node[index].output[0]])
    read = {name for node in graph.node for name in node.input}
    retain(graph.initializer, lambda tensor: tensor.name in read)
    return len(quantizers)
