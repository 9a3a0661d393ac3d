"""Quantization parameters of an ONNX graph in the form of LiteRT's integer kernels.

Activations are int8 of one scale with a zero-point; weights int8 of one scale per output channel, zero-point 0, codes
``[-127, 127]``; biases int32 at ``s_in * s_weight`` (ai.google.dev/edge/litert/models/quantization_spec). A uint8 code
less 128 is an int8 code of the same number, so ONNX's unsigned activations are shifted and not rounded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.litert.tflite.program import QuantizationParameters
from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import GraphIndex, label
from edgeres.onnx_graph.stored_weights import stored_weight
from edgeres.quant.scale import roomy_scales

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

TOP = 127
"""Largest magnitude of a weight's code: kernels for ARM add two products in 16 bits, where -128 twice overflows."""


def activation_grid(view: GraphIndex, node: NodeProto) -> QuantizationParameters:
    """int8 quantization parameters of an activation's QuantizeLinear or DequantizeLinear.

    Raises:
        StageError: Its scale is not constant, or per channel, or its codes are not 8 bits wide.
    """
    scale = view.value(node.input[1])
    zero = view.value(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros((), np.uint8)
    if scale is None or zero is None or scale.size != 1:
        raise StageError(f"{label(node)}: LiteRT takes one constant scale per activation", "quantize per tensor")
    if zero.dtype not in (np.dtype(np.uint8), np.dtype(np.int8)):
        raise StageError(f"{label(node)}: activations of type {zero.dtype}", "LiteRT takes 8 bits: quantize to uint8")
    shift = 128 if zero.dtype == np.uint8 else 0
    return QuantizationParameters((float(np.float32(scale.item())),), int(zero.item()) - shift)


@dataclass(frozen=True, slots=True)
class Codes:
    """A quantized weight: int32 codes ``[O,...]`` with the zero-point 0, and their scale float32 ``[O]``."""

    values: NDArray[np.int32]
    scale: NDArray[np.float32]

    @property
    def real(self) -> NDArray[np.float32]:
        """The dequantized values."""
        shape = (-1, *[1] * (self.values.ndim - 1))
        return (self.values * self.scale.reshape(shape)).astype(np.float32)


def weight_codes(view: GraphIndex, node: NodeProto) -> Codes | None:
    """The codes of a convolution's weight; None where it is float.

    Raises:
        StageError: LiteRT's kernels do not support their quantization.
    """
    dequantizer = view.producer(node.input[1], "DequantizeLinear")
    if dequantizer is None or not view.is_weight_dequantizer(dequantizer):
        return None
    stored, scale = stored_weight(view, dequantizer), view.value(dequantizer.input[1])
    if scale is not None and (scale.ndim > 1 or (stored is not None and stored.axis not in (None, 0))):
        raise StageError(f"{label(node)}: weight scales that do not count output channels", "quantize along axis 0")
    if stored is None:
        raise StageError(f"{label(dequantizer)}: a weight that is computed", "export weights as constants")
    values = stored.codes
    top = int(np.abs(values).max(initial=0))
    if top > TOP:
        raise StageError(
            f"{label(node)}: weight codes up to {top} on a symmetric grid; LiteRT's kernels take -{TOP} to {TOP}",
            "quantize weights symmetrically, without the lowest code",
        )
    channels = np.broadcast_to(stored.scale.astype(np.float32).reshape(-1), (len(values),))
    return Codes(values, np.array(channels))


def real_constant(view: GraphIndex, tensor: str) -> NDArray[np.float32] | None:
    """A constant in float32, dequantized where needed; None where it is not constant."""
    value = view.value(tensor)
    if value is not None:
        return value.astype(np.float32)
    dequantizer = view.producer(tensor, "DequantizeLinear")
    if dequantizer is None or not view.is_weight_dequantizer(dequantizer):
        return None
    stored = stored_weight(view, dequantizer)
    return stored.dequantized.astype(np.float32) if stored is not None else None


def with_room_for_bias(codes: Codes, bias: NDArray[np.float32], step: float) -> tuple[Codes, NDArray[np.int32]]:
    """Codes and the int32 bias ``[O]`` at ``step * scale``, with scales raised where the accumulator could overflow.

    Graphs that edgeres quantized fit already (``edgeres.quant.scale`` has the bounds); imported ones may not. ``step``
    is the scale of the input.
    """
    scale = roomy_scales(codes.scale, codes.real, bias, step)
    changed = scale != codes.scale
    if changed.any():
        factor = (codes.scale.astype(np.float64) / scale)[changed].reshape(-1, *[1] * (codes.values.ndim - 1))
        values = codes.values.copy()
        values[changed] = np.rint(values[changed] * factor).astype(np.int32)
        codes = Codes(values, scale)
    return codes, np.rint(bias.astype(np.float64) / (step * scale.astype(np.float64))).astype(np.int32)
