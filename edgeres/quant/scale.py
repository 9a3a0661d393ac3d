"""Weight scales that float32 holds exactly, and under which int32 holds every accumulator of a layer.

An integer layer adds ``q_b + sum_k q_k (q_x - z)`` in int32, in multiples of ``s_x s``, with ``s_x`` the scale of its
input and ``s`` that of the output channel's weights (Jacob et al. 2018, arXiv 1712.05877, section 2.4). 8-bit codes
differ from their zero-point by at most 255 and rounding adds at most 1/2 to a code, so for ``K`` weights ``w`` and bias
``b``

    |sum| <= 255 sum_k |q_k| + |q_b| <= (255 sum_k |w_k| + |b| / s_x) / s + (255 K + 1) / 2

and the sum stays within ``limit`` if ``s >= (255 sum_k |w_k| + |b| / s_x) / (limit - (255 K + 1) / 2)``. Only channels
whose weights are tiny beside their bias miss that: training leaves such channels behind norms of a gain near 0. Raising
``s`` to the bound rounds their weights by at most ``s / 2`` each, which moves an output by at most ``255 K s s_x / 2``,
about ``255 K |b| / (2 limit)``: with ``limit = 2**30`` that is 0.06 % of the bias at ``K = 4608``, ResNet's largest.
ONNX Runtime's quantizer raises scales for the same reason (microsoft/onnxruntime pull requests 22020 and 25278, issue
21000), without a margin for the products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SMALLEST = 2.0**-60
"""Scales below this are raised to it, so that the product of two scales, a bias's, is still a normal float32."""

PEAK = 255
"""Largest difference of an 8-bit code from its zero-point."""

INT32_MAX = (1 << 31) - 1
"""Largest int32 accumulator."""

LIMIT = 1 << 30
"""Largest accumulator that scales are chosen for: moving the zero-point's part into the bias needs a margin."""

_ZERO_ROWS = 1 << 20
"""Code of the largest bias of a layer whose weights are all 0."""


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
    own = np.where(sums > 0, scales, _of_zero_rows(scales[sums > 0], wide, step)).astype(np.float32)
    raised = np.nextafter(least.astype(np.float32), np.float32(np.inf))
    return np.where(own < least, raised, own).astype(np.float32)


def _of_zero_rows(others: NDArray[np.float32], bias: Floats, step: float) -> float:
    """The scale of channels whose weights are all 0."""
    if others.size:
        return float(np.median(others))
    return max(float(bias.max()) / (step * _ZERO_ROWS), SMALLEST) if bias.any() else 1.0
