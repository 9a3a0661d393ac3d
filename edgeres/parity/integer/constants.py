"""Weights, scales and windows of a graph's nodes, as the integer reference reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeres.errors import ModelError
from edgeres.onnx_graph.graph_index import GraphIndex, attribute, label
from edgeres.parity.integer.product import Kernel, KernelWindow
from edgeres.quant.qparams import QParams

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from edgeres.parity.integer.value import Array

_TYPES = {"int8": True, "uint8": False}


@dataclass(frozen=True, slots=True)
class Weight:
    """An integer weight.

    Attributes:
        kernel: Its codes less their zero-point.
        scale: float64 ``[O]``, or one for all.
    """

    kernel: Kernel
    scale: NDArray[np.float64]


def quantizer(view: GraphIndex, node: NodeProto) -> QParams:
    """Scale, zero-point and range of a QuantizeLinear or DequantizeLinear on an activation.

    Raises:
        ModelError: They are not constant, per channel, or of another type than int8 and uint8.
    """
    scale, zero = view.value(node.input[1]), view.value(node.input[2]) if len(node.input) > 2 else np.uint8(0)
    if scale is None or zero is None or scale.size != 1 or scale.dtype != np.float32:
        raise ModelError(f"node {label(node)!r} has no single float32 scale", "quantize activations per tensor")
    if zero.dtype.name not in _TYPES:
        raise ModelError(f"node {label(node)!r} makes {zero.dtype.name}", "quantize activations to int8 or uint8")
    step = float(scale.reshape(()))
    return QParams(scale=(step,), zero_point=int(zero.reshape(())), signed=_TYPES[zero.dtype.name])


def window(node: NodeProto, size: tuple[int, int] | None = None) -> KernelWindow:
    """Kernel window of a convolution or a pool.

    Raises:
        ModelError: It is not two-dimensional, or its padding is left to the runtime.
    """
    kernel = tuple(attribute(node, "kernel_shape", size) or ())
    automatic = attribute(node, "auto_pad", b"NOTSET")
    if len(kernel) != 2 or automatic not in (b"NOTSET", b"VALID") or attribute(node, "ceil_mode", 0):
        raise ModelError(f"node {label(node)!r} has no plain two-dimensional window", "spell out its padding")
    pads = tuple(attribute(node, "pads", (0, 0, 0, 0)))
    strides, dilations = tuple(attribute(node, "strides", (1, 1))), tuple(attribute(node, "dilations", (1, 1)))
    return KernelWindow((kernel[0], kernel[1]), strides, pads, dilations)


def stored(view: GraphIndex, tensor: str) -> tuple[Array, NDArray[np.float64], int | None] | None:
    """Codes less zero-point, scale and channel axis of a weight's DequantizeLinear; None for a float weight.

    Raises:
        ModelError: It is not constant, or has one scale per block.
    """
    node = view.producer(tensor, "DequantizeLinear")
    if node is None:
        return None
    scale, zero = view.value(node.input[1]), view.value(node.input[2]) if len(node.input) > 2 else np.int8(0)
    maker = view.producer(node.input[0], "QuantizeLinear")
    codes = view.value(node.input[0] if maker is None else maker.input[0])
    if codes is None or scale is None or zero is None or scale.ndim > 1:
        raise ModelError(f"weight {tensor!r} is computed, or has a scale for each block", "store it in int8")
    axis = attribute(node, "axis", 1) % max(codes.ndim, 1) if scale.size > 1 else None
    shape = [-1 if place == axis else 1 for place in range(codes.ndim)]
    if maker is not None:  # a float weight before its quantizer
        shift = zero.reshape(shape if zero.size > 1 else ())
        params = QParams(scale=(1.0,), zero_point=0, signed=zero.dtype.name == "int8")
        steps = np.rint(np.asarray(codes, np.float32) / np.asarray(scale, np.float32).reshape(shape))
        codes = np.clip(steps + shift.astype(np.float32), params.low, params.high)
    whole = codes.astype(np.int32) - zero.astype(np.int32).reshape(shape if zero.size > 1 else ())
    return whole, scale.astype(np.float64).reshape(-1 if axis is not None else ()), axis


def weight(view: GraphIndex, node: NodeProto) -> Weight | NDArray[np.float64]:
    """The weight of a Conv, Gemm or MatMul: integers, or float64 where it is stored in float.

    Raises:
        ModelError: It is not constant, or its scales are not one per output channel.
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
    codes, scale, axis = found
    if axis not in (None, codes.ndim - 1 if across else 0):
        raise ModelError(f"node {label(node)!r} has scales along axis {axis}", "quantize each output channel")
    codes = codes.T if across else codes
    look = window(node, (codes.shape[2], codes.shape[3])) if node.op_type == "Conv" else None
    return Weight(Kernel.of(codes, look, attribute(node, "group", 1)), scale)


def numbers(view: GraphIndex, tensor: str) -> NDArray[np.float32]:
    """A float constant.

    Raises:
        ModelError: It is not constant.
    """
    value = view.value(tensor)
    if value is None:
        found = stored(view, tensor)
        if found is None:
            raise ModelError(f"tensor {tensor!r} is no constant", "fold what makes it")
        codes, scale, axis = found
        shape = [-1 if place == axis else 1 for place in range(codes.ndim)]
        return np.asarray(codes * scale.reshape(shape), dtype=np.float32)
    return np.asarray(value, dtype=np.float32)
