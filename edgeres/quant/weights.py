"""Symmetric weight scales, one per output channel: codes ``[-127, 127]`` at 8 bits, ``[-7, 7]`` at 4."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeres.errors import ModelError
from edgeres.quant.qparams import QParams
from edgeres.quant.scale import float32_scales

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

WeightMethod = Literal["max", "mse"]

_COARSE = np.concatenate([1 - np.arange(33) / 64, 2.0 ** -(np.arange(9, 25) / 8)])
"""Shares of a channel's largest magnitude tried first, down to 1/8; dense where INT8 has its optimum."""

_FINE = 1 + np.array([-3, -2, -1, 1, 2, 3]) / 256
"""Factors tried around the best of them."""

_BLOCK = 1 << 16
"""Weights searched at a time, so that the working set fits the cache."""


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


def _best_shares(channels: Floats, peaks: NDArray[np.float64], top: int) -> NDArray[np.float64]:
    """The share ``[O]`` of each channel's peak with the least squared error; the largest of equals."""
    rows = max(1, _BLOCK // channels.shape[1])
    found = np.ones_like(peaks)
    for start in range(0, len(channels), rows):
        block = slice(start, start + rows)
        found[block] = _search(channels[block], peaks[block], top)
    return found


def _search(channels: Floats, peaks: NDArray[np.float64], top: int) -> NDArray[np.float64]:
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


def _errors(channels: Floats, scales: Floats, top: int) -> NDArray[np.float64]:
    """Sum of squared errors ``[O]`` of weights ``[O,K]`` rounded with scales ``[O]``."""
    scale = scales[:, None]
    rounded = np.divide(channels, scale)
    np.rint(rounded, out=rounded)
    np.clip(rounded, -top, top, out=rounded)
    rounded *= scale
    rounded -= channels
    errors: NDArray[np.float64] = np.einsum("ij,ij->i", rounded, rounded).astype(np.float64)
    return errors
