"""Stored weights of a Q/DQ graph: codes before DequantizeLinear, or floats before QuantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeres.onnx_graph.graph_index import attribute, has_transposed_weight, optional_input

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from edgeres.onnx_graph.graph_index import GraphIndex


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
    source, name = view.source(dequantizer), optional_input(dequantizer, 2)
    values, scale = view.value(source), view.value(dequantizer.input[1])
    zero = view.value(name) if name else np.zeros((), np.int8)
    if values is None or scale is None or zero is None or scale.ndim > 1:
        return None
    axis = attribute(dequantizer, "axis", 1) % max(values.ndim, 1) if scale.size > 1 else None
    return StoredWeight(values, scale, zero, axis, source != dequantizer.input[0])


def dequantized_weight(view: GraphIndex, dequantizer: NodeProto) -> NDArray[np.float64] | None:
    """``StoredWeight.real`` of a weight; None where a part of it is computed, or it has a scale for each block."""
    stored = stored_weight(view, dequantizer)
    return None if stored is None else stored.real


def output_channel_axis(node: NodeProto, shape: tuple[int, ...]) -> int:
    """Output-channel axis of a weight ``[OC,IC,kh,kw]``, ``[OC,IC]`` or ``[IC,OC]``."""
    if node.op_type == "ConvTranspose":
        return 1
    return max(len(shape) - 1, 0) if has_transposed_weight(node) else 0
