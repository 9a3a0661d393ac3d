"""``QParams``: scale, zero-point and integer type of one tensor, and the scales of weights.

Affine quantization (Jacob et al. 2018, arXiv 1712.05877): ``q = clip(round(x / scale) + zero_point, low, high)`` and
``x' = (q - zero_point) * scale``, rounding half to even as ONNX QuantizeLinear does.

Weight scales are those under which int32 holds every accumulator of a layer, ``q_b + sum_k q_k (q_x - z)`` in
multiples of ``s_x s``, with ``s_x`` the scale of its input and ``s`` that of the output channel's weights (section
2.4). 8-bit codes differ from their zero-point by at most 255 and rounding adds at most 1/2 to a code, so for ``K``
weights ``w`` and bias ``b``

    |sum| <= 255 sum_k |q_k| + |q_b| <= (255 sum_k |w_k| + |b| / s_x) / s + (255 K + 1) / 2

and the sum is within ``limit`` if ``s >= (255 sum_k |w_k| + |b| / s_x) / (limit - (255 K + 1) / 2)``. Only channels
whose weights are tiny beside their bias miss that: training leaves such channels behind norms of a gain near 0. Raising
``s`` to the bound moves an output by at most ``255 K s s_x / 2``, about ``255 K |b| / (2 limit)``: with ``limit =
2**30`` that is 0.06 % of the bias at ``K = 4608``, ResNet's largest. ONNX Runtime's quantizer raises scales for the
same reason (microsoft/onnxruntime pull requests 22020 and 25278), without a margin for the products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from edgeres.errors import ModelError
from edgeres.settings import settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@settings
class QParams:
    """Quantization parameters of one tensor.

    A scale is one positive float32 value, or one per channel of ``axis``; the zero-point represents 0.0 in all
    channels. ``narrow`` leaves out the lowest code of a signed range (``[-127, 127]``), as weights do.
    """

    scale: tuple[float, ...]
    zero_point: int = 0
    bits: Annotated[int, Field(ge=2, le=16)] = 8
    signed: bool = True
    axis: int | None = None
    narrow: bool = False

    def __post_init__(self) -> None:
        if not self.scale or min(self.scale) <= 0:
            raise ValueError(f"scales must be positive, and at least one: {self.scale[:4]}")
        if self.axis is None and len(self.scale) != 1:
            raise ValueError(f"{len(self.scale)} scales need an axis")
        if not self.low <= self.zero_point <= self.high:
            raise ValueError(f"zero-point {self.zero_point} is no code of {self.low} to {self.high}")

    @property
    def low(self) -> int:
        """Smallest integer code."""
        return -(1 << (self.bits - 1)) + self.narrow if self.signed else 0

    @property
    def high(self) -> int:
        """Largest integer code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    def scales(self, rank: int) -> NDArray[np.float32]:
        """Scales as float32, shaped to broadcast over a tensor of that rank."""
        scale = np.asarray(self.scale, dtype=np.float32)
        if self.axis is None:
            return scale.reshape(())
        return scale.reshape([-1 if axis == self.axis else 1 for axis in range(rank)])

    def quantize(self, x: NDArray[np.float32]) -> NDArray[np.int32]:
        """Integer codes of a float32 tensor, as int32 of the same shape."""
        codes = np.rint(x / self.scales(x.ndim)) + np.float32(self.zero_point)
        return np.asarray(np.clip(codes, self.low, self.high), dtype=np.int32)

    def dequantize(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """float32 values of integer codes."""
        return ((codes - self.zero_point) * self.scales(codes.ndim)).astype(np.float32)


SMALLEST = 2.0**-60
"""Scales below this are raised to it, so that the product of two scales, a bias's, is still a normal float32."""

PEAK = 255  # largest difference of an 8-bit code from its zero-point
INT32_MAX = (1 << 31) - 1  # largest int32 accumulator
LIMIT = 1 << 30
"""Largest accumulator that scales are chosen for: moving the zero-point's part into the bias needs a margin."""

_ZERO_ROWS = 1 << 20  # code of the largest bias of a layer whose weights are all 0


def float32_scales(steps: NDArray[np.float64]) -> NDArray[np.float32]:
    """Quantization steps as float32 scales of the same shape.

    A step of 0 belongs to values that are all zero; every scale represents those, so theirs is 1.
    """
    return np.where(steps > 0, np.maximum(steps, SMALLEST), 1.0).astype(np.float32)


def roomy_scales(
    scales: NDArray[np.float32], weight: NDArray[np.floating], bias: NDArray[np.floating], step: float
) -> NDArray[np.float32]:
    """Weight scales ``[O]`` under which no accumulator of the layer exceeds int32; others are unchanged.

    A channel whose weights are all 0 has no scale of its own. It gets the median of the others', so that its bias is
    rounded as theirs are, and the product of scales is one that kernels take. The given scales float32 ``[O]`` are from
    the weight ``[O,...]`` alone; the bias ``[O]`` is zeros where the layer has none, and ``step`` is the scale of the
    layer's input.

    Raises:
        ModelError: A bias so large that no float32 scale has a code for it.
    """
    rows = np.abs(np.asarray(weight, dtype=np.float64).reshape(len(weight), -1))
    sums, wide = rows.sum(axis=1), np.abs(np.asarray(bias, dtype=np.float64))
    least: Floats = (PEAK * sums + wide / step) / (LIMIT - (PEAK * rows.shape[1] + 1) / 2)
    if not np.all(least < np.finfo(np.float32).max):
        raise ModelError(
            f"a bias of {wide.max():.3g} at an input scale of {step:.3g} has no int32 code", "look at the weights"
        )
    if np.any(sums > 0):
        of_zeros = float(np.median(scales[sums > 0]))
    else:
        of_zeros = max(float(wide.max()) / (step * _ZERO_ROWS), SMALLEST) if wide.any() else 1.0
    own = np.where(sums > 0, scales, of_zeros).astype(np.float32)
    raised = np.nextafter(least.astype(np.float32), np.float32(np.inf))
    return np.where(own < least, raised, own).astype(np.float32)


WeightMethod = Literal["max", "mse"]

_COARSE = np.concatenate([1 - np.arange(33) / 64, 2.0 ** -(np.arange(9, 25) / 8)])
"""Shares of a channel's largest magnitude tried first, down to 1/8; dense where INT8 has its optimum."""

_FINE = 1 + np.array([-3, -2, -1, 1, 2, 3]) / 256  # factors tried around the best of them
_BLOCK = 1 << 16  # weights searched at a time, so that the working set fits the cache


def weight_qparams(weight: NDArray[np.float32], bits: int = 8, method: WeightMethod = "mse") -> QParams:
    """Scales of a convolution's or classifier's weight.

    ``scale = clip / (2**(bits-1) - 1)`` per output channel, zero-point 0, without the lowest code, so that the grid is
    symmetric (Krishnamoorthi 2018, arXiv 1806.08342, section 2.2; Wu et al. 2020, arXiv 2004.09602, section 3.2). The
    weight is float32 ``[O,I,kH,kW]`` or ``[O,I]``; method ``max`` clips nothing, ``mse`` searches the clip with the
    least squared error per channel.

    Raises:
        ModelError: Weights that are NaN or infinite.
    """
    channels = weight.reshape(len(weight), -1)
    peaks = np.abs(channels).max(axis=1).astype(np.float64)
    if not np.isfinite(peaks).all():
        raise ModelError("weights that are NaN or infinite have no scale", "load intact weights")
    top = (1 << (bits - 1)) - 1
    shares = _best_shares(channels, peaks, top) if method == "mse" else np.ones_like(peaks)
    scales = float32_scales(peaks * shares / top)
    return QParams(scale=tuple(scales.tolist()), bits=bits, axis=0, narrow=True)


def _best_shares(channels: NDArray[np.float32], peaks: NDArray[np.float64], top: int) -> NDArray[np.float64]:
    """The share ``[O]`` of each channel's peak with the least squared error; the largest of equals."""
    rows = max(1, _BLOCK // channels.shape[1])
    shares = np.ones_like(peaks)
    for start in range(0, len(channels), rows):
        block = slice(start, start + rows)
        shares[block] = _search(channels[block], peaks[block], top)
    return shares


def _search(channels: NDArray[np.float32], peaks: NDArray[np.float64], top: int) -> NDArray[np.float64]:
    best = np.ones_like(peaks)
    least = np.full_like(peaks, np.inf)
    for factors in (_COARSE, _FINE):
        centre = best.copy() if factors is _FINE else np.ones_like(best)
        for factor in factors:
            shares = np.minimum(centre * factor, 1.0)
            errors = _errors(channels, float32_scales(peaks * shares / top), top)
            better = errors < least
            best[better], least[better] = shares[better], errors[better]
    return best


def _errors(channels: NDArray[np.float32], scales: NDArray[np.float32], top: int) -> NDArray[np.float64]:
    """Sum of squared errors ``[O]`` of weights ``[O,K]`` rounded with scales ``[O]``."""
    scale = scales[:, None]
    rounded = np.divide(channels, scale)
    np.rint(rounded, out=rounded)
    np.clip(rounded, -top, top, out=rounded)
    rounded *= scale
    rounded -= channels
    return np.asarray(np.einsum("ij,ij->i", rounded, rounded), dtype=np.float64)
