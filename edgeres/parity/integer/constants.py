"""Weights, scales and windows of a graph's nodes, as the integer network reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeres.errors import ModelError
from edgeres.onnx_graph.graph_index import GraphIndex, attribute, label
from edgeres.onnx_graph.stored_weights import StoredWeight, stored_weight
from edgeres.onnx_graph.window import window_attributes
from edgeres.parity.integer.product import Kernel, Window
from edgeres.quant.qparams import QParams

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto


_TYPES = {"int8": True, "uint8": False}


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight in integers.

    Attributes:
        kernel: Its codes, less their zero-point.
        scale: float64 ``[O]``, or one for all.
    """

    kernel: Kernel
    scale: NDArray[np.float64]


def quantizer(view: GraphIndex, node: NodeProto) -> QParams:
    """Scale, zero-point and range of a QuantizeLinear or DequantizeLinear on an activation.

    Raises:
        ModelError: They are computed, one per channel, or of another type than int8 and uint8.
    """
    scale, zero = view.value(node.input[1]), view.value(node.input[2]) if len(node.input) > 2 else np.uint8(0)
    if scale is None or zero is None or scale.size != 1 or scale.dtype != np.float32:
        raise ModelError(f"node {label(node)!r} has no single float32 scale", "quantize activations per tensor")
    if zero.dtype.name not in _TYPES:
        raise ModelError(f"node {label(node)!r} makes {zero.dtype.name}", "quantize activations to int8 or uint8")
    step = float(scale.reshape(()))
    return QParams(scale=(step,), zero_point=int(zero.reshape(())), signed=_TYPES[zero.dtype.name])


def window(node: NodeProto, size: tuple[int, int] | None = None) -> Window:
    """Where a convolution or a pool looks.

    Raises:
        ModelError: It is not two-dimensional, or leaves its padding to the runtime.
    """
    found = window_attributes(node, size or ())
    if len(found.kernel) != 2 or found.auto_pad not in ("NOTSET", "VALID") or attribute(node, "ceil_mode", 0):
        raise ModelError(f"node {label(node)!r} has no plain two-dimensional window", "spell out its padding")
    (high, wide), (down, across), (dy, dx) = found.kernel, found.strides, found.dilations
    top, left, bottom, right = found.pads
    return Window((high, wide), (down, across), (top, left, bottom, right), (dy, dx))


def stored(view: GraphIndex, tensor: str) -> StoredWeight | None:
    """The codes and scales behind a weight's DequantizeLinear; None for a float weight.

    Raises:
        ModelError: Something of it is computed, or it has a scale for each block.
    """
    node = view.producer(tensor, "DequantizeLinear")
    if node is None:
        return None
    found = stored_weight(view, node)
    if found is None:
        raise ModelError(f"weight {tensor!r} is computed, or has a scale for each block", "store it in int8")
    return found


def weight(view: GraphIndex, node: NodeProto) -> Weight | NDArray[np.float64]:
    """The weight of a Conv, Gemm or MatMul: integers, or float64 where it is stored in float.

    Raises:
        ModelError: It is computed, or its scales are not one per output channel.
    """
    across = node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0))
    found = stored(view, node.input[1])
    if found is None:
        value = view.value(node.input[1])
        if value is None:
            raise ModelError(
                f"node {label(node)!r} multiplies two activations", "its logits can be compared all the same"
            )
        return np.asarray(value.T if across else value, dtype=np.float64)
    codes, axis = found.codes, found.axis
    if axis not in (None, codes.ndim - 1 if across else 0):
        raise ModelError(f"node {label(node)!r} has scales along axis {axis}", "quantize each output channel")
    codes = codes.T if across else codes
    look = window(node, (codes.shape[2], codes.shape[3])) if node.op_type == "Conv" else None
    scale = found.scale.astype(np.float64).reshape(-1 if axis is not None else ())
    return Weight(Kernel.of(codes, look, attribute(node, "group", 1)), scale)


def numbers(view: GraphIndex, tensor: str) -> NDArray[np.float32]:
    """A constant of floats.

    Raises:
        ModelError: It is computed.
    """
    value = view.value(tensor)
    if value is None:
        found = stored(view, tensor)
        if found is None:
            raise ModelError(f"tensor {tensor!r} is no constant", "fold what makes it")
        return np.asarray(found.dequantized, dtype=np.float32)
    return np.asarray(value, dtype=np.float32)
