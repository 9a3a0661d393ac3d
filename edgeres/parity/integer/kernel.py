"""Weights of the integer reference: exact products of whole numbers by float32, and a node's constants for them.

A float32 holds every whole number up to 2**24. Where ``255 * sum|w|`` over the terms of a dot product is below that,
every partial sum is (8-bit codes differ from their zero-point by at most 255), so the products are exact in any order
of addition, fused or not. A longer dot product is split into such pieces, whose sums are added in float64 (whole
numbers up to 2**53). float32 products are twice as fast as float64 ones, and numpy has no fast integer products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edgeres.errors import ModelError
from edgeres.onnx_graph.graph_index import attribute, has_transposed_weight, input_at, label, window_attributes
from edgeres.onnx_graph.stored_weights import StoredWeight, stored_weight
from edgeres.quant.qparams import INT32_MAX, PEAK, QParams

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from edgeres.onnx_graph.graph_index import GraphIndex, WindowAttributes
    from edgeres.parity.integer.value import Array

EXACT = 1 << 24
"""Whole numbers up to this are exact in float32."""

LOGITS_ONLY = "its logits can be compared all the same"
"""Hint on a graph without a reference."""


def padded(x: Array, window: WindowAttributes, filling: float) -> Array:
    """A tensor ``[N,H,W,C]`` with the padding of a window."""
    top, left, bottom, right = window.pads
    if not any(window.pads):
        return x
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=filling)


def views(x: Array, window: WindowAttributes) -> Array:
    """Windows ``[N,H',W',C,kH,kW]`` of a padded tensor, as views."""
    (down, across), (dy, dx) = window.strides, window.dilations
    spans = tuple((size - 1) * step + 1 for size, step in zip(window.kernel, window.dilations, strict=True))
    return sliding_window_view(x, spans, axis=(1, 2))[:, ::down, ::across, :, ::dy, ::dx]


def patches(x: Array, window: WindowAttributes) -> Array:
    """Patches ``[N,H',W',kH*kW*C]``, padded with zeros."""
    if window.kernel == window.strides == (1, 1):
        return padded(x, window, 0)
    windows = views(padded(x, window, 0), window).transpose(0, 1, 2, 4, 5, 3)
    return windows.reshape(*windows.shape[:3], -1)


def columns(weight: Array, groups: int) -> list[Array]:
    """A weight ``[O,I,kH,kW]`` or ``[O,I]`` as the matrix ``[kH*kW*I,O]`` of each group."""
    parts = np.split(weight, groups)
    return [part.transpose(2, 3, 1, 0).reshape(-1, len(part)) if part.ndim == 4 else part.T for part in parts]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A weight laid out for exact products.

    Attributes:
        groups: float32 ``[kH*kW*I,O]`` for each group.
        window: Window of a convolution; None for a matrix product.
        cuts: Pieces of the dot products that float32 sums exactly, for each group.
    """

    groups: tuple[NDArray[np.float32], ...]
    window: WindowAttributes | None
    cuts: tuple[tuple[tuple[int, int], ...], ...]

    @classmethod
    def of(cls, codes: Array, window: WindowAttributes | None, groups: int = 1) -> Kernel:
        """Lays out weight codes ``[O,I,kH,kW]``, or ``[O,I]`` of a matrix product."""
        parts = tuple(np.ascontiguousarray(part) for part in columns(codes.astype(np.float32), groups))
        return cls(parts, window, tuple(pieces(part) for part in parts))

    @property
    def length(self) -> int:
        """Number of terms of a dot product."""
        return len(self.groups[0])

    @property
    def reach(self) -> NDArray[np.float64]:
        """Upper bound of the sum of magnitudes in a dot product of codes, ``[O]``."""
        return PEAK * np.concatenate([np.abs(part).sum(axis=0, dtype=np.float64) for part in self.groups])

    def magnitudes(self, x: Array) -> Array:
        """Sums of the magnitudes of the products, of the accumulators' shape."""
        return replace(self, groups=tuple(np.abs(part) for part in self.groups))(np.abs(x))

    def __call__(self, x: Array) -> Array:
        """Accumulators ``[N,H',W',O]`` of whole numbers ``[N,H,W,C]``, or ``[N,O]`` of ``[N,I]``, each exact.

        The numbers are at most ``PEAK``.
        """
        sums = []
        inputs = np.split(x.astype(np.float32, copy=False), len(self.groups), axis=-1)
        for part, cuts, channels in zip(self.groups, self.cuts, inputs, strict=True):
            rows = channels if self.window is None else patches(channels, self.window)
            products = _product(rows.reshape(-1, rows.shape[-1]), part, cuts)
            sums.append(products.reshape(*rows.shape[:-1], part.shape[1]))
        return sums[0] if len(sums) == 1 else np.concatenate(sums, axis=-1)


def _product(rows: NDArray[np.float32], weight: NDArray[np.float32], cuts: tuple[tuple[int, int], ...]) -> Array:
    """``rows @ weight``, exactly; float32 where one piece is enough."""
    if len(cuts) == 1:
        return rows @ weight
    total = np.zeros((len(rows), weight.shape[1]))
    for start, end in cuts:
        total += rows[:, start:end] @ weight[start:end]
    return total


def pieces(weight: NDArray[np.float32]) -> tuple[tuple[int, int], ...]:
    """Ranges of a dot product that float32 sums exactly: ``255 * sum|w|`` of each is at most 2**24."""
    ends = np.cumsum(np.abs(weight), axis=0, dtype=np.float64)
    cuts, start = [], 0
    while start < len(weight):
        fits = np.asarray((PEAK * (ends[start:] - (ends[start - 1] if start else 0.0)) <= EXACT).all(axis=1))
        length = len(fits) if fits.all() else int(np.argmin(fits))
        assert length, "a product of 8-bit codes is below 2**16"
        cuts.append((start, start + length))
        start += length
    return tuple(cuts)


@dataclass(frozen=True, slots=True)
class LayerConstants:
    """Constants of a Conv, Gemm or MatMul.

    Attributes:
        kernel: The codes of its weight less their zero-point; float64 where it is stored in float.
        scale: Scale of the weight, float64 ``[O]`` or ``[]``.
        bias: float32 ``[O]``.
        whole_bias: Whether to round the bias to a whole number of ``S_1 S_2``, as integer kernels do.
    """

    kernel: Kernel | NDArray[np.float64]
    scale: NDArray[np.float64]
    bias: NDArray[np.float32] | None
    whole_bias: bool

    @classmethod
    def of(cls, view: GraphIndex, node: NodeProto, *, whole_bias: bool) -> LayerConstants:
        """Reads a node's constants.

        Raises:
            ModelError: One is not constant, scales are not one per output channel, or the accumulator could overflow.
        """
        bias = numbers(view, node.input[2]) if input_at(node, 2) else None
        across, stored = has_transposed_weight(node), _stored(view, node.input[1])
        if stored is None:
            value = view.value(node.input[1])
            if value is None:
                raise ModelError(f"node {label(node)!r} multiplies two activations", LOGITS_ONLY)
            weight = np.asarray(value.T if across else value, dtype=np.float64)
            return cls(weight, np.ones(()), bias, whole_bias)
        codes, axis = stored.codes, stored.axis
        if axis not in (None, codes.ndim - 1 if across else 0):
            raise ModelError(f"node {label(node)!r} has scales along axis {axis}", "quantize each output channel")
        codes = codes.T if across else codes
        window = node_window(node, codes.shape[2:]) if node.op_type == "Conv" else None
        kernel = Kernel.of(codes, window, attribute(node, "group", 1))
        if kernel.reach.max() > INT32_MAX:
            reach = f"{kernel.reach.max():,.0f}, beyond int32"
            raise ModelError(f"node {label(node)!r}: an accumulator may reach {reach}", "scale the weights down")
        scale = stored.scale.astype(np.float64).reshape(-1 if axis is not None else ())
        return cls(kernel, scale, bias, whole_bias)


def quantizer(view: GraphIndex, node: NodeProto) -> QParams:
    """Scale, zero-point and range of a QuantizeLinear or DequantizeLinear on an activation.

    Raises:
        ModelError: They are not constant, per channel, or of another type than int8 and uint8.
    """
    scale, zero = view.value(node.input[1]), view.zero_point(node)
    if scale is None or zero is None or scale.size != 1 or scale.dtype != np.float32:
        raise ModelError(f"node {label(node)!r} has no single float32 scale", "quantize activations per tensor")
    if zero.dtype not in (np.int8, np.uint8):
        raise ModelError(f"node {label(node)!r} makes {zero.dtype.name}", "quantize activations to int8 or uint8")
    step, signed = float(scale.reshape(())), bool(zero.dtype == np.int8)
    return QParams(scale=(step,), zero_point=int(zero.reshape(())), signed=signed)


def node_window(node: NodeProto, size: tuple[int, ...] = ()) -> WindowAttributes:
    """Window of a convolution, whose weight has the height and width ``size``, or of a pool.

    Raises:
        ModelError: It is not two-dimensional, or its padding is left to the runtime.
    """
    stated = window_attributes(node, size)
    if len(stated.kernel) != 2 or stated.auto_pad not in ("NOTSET", "VALID") or attribute(node, "ceil_mode", 0):
        raise ModelError(f"node {label(node)!r} has no plain two-dimensional window", "spell out its padding")
    return stated


def _stored(view: GraphIndex, tensor: str) -> StoredWeight | None:
    """The constants behind a weight's DequantizeLinear; None for a float weight."""
    node = view.producer(tensor, "DequantizeLinear")
    stored = stored_weight(view, node) if node is not None else None
    if node is not None and stored is None:
        raise ModelError(f"weight {tensor!r} is computed, or has a scale for each block", "store it in int8")
    return stored


def numbers(view: GraphIndex, tensor: str) -> NDArray[np.float32]:
    """A float constant.

    Raises:
        ModelError: It is not constant.
    """
    value = view.value(tensor)
    if value is None:
        stored = _stored(view, tensor)
        if stored is None:
            raise ModelError(f"tensor {tensor!r} is no constant", "fold what makes it")
        value = stored.dequantized
    return np.asarray(value, dtype=np.float32)
