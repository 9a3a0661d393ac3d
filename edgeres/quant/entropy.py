"""Entropy calibration: the window of a histogram with the least KL divergence after quantization.

Migacz, "8-bit Inference with TensorRT" (NVIDIA GTC 2017, slides 32-40): of a histogram with 2048 bins, take the first
``i`` bins as distribution ``P``, with everything beyond added to the last of them; spread the same bins, without what
is beyond, over the quantization levels, and expand each level's mass evenly over its bins that are not empty: ``Q``.
Choose the ``i`` with the smallest ``KL(P || Q) = sum P log(P / Q)``.

Zeros are left out: every range represents them exactly, and after a ReLU they would dominate the histogram.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.quant.histogram import BINS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.quant.histogram import Counts, Histogram

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

REFERENCE_BINS = 2048
"""Bins on each side of zero in which the distributions are compared."""


def least_divergent(histogram: Histogram, bits: int, signed: bool) -> tuple[float, float]:
    """The range ``(low, high)`` with the smallest KL divergence.

    A signed scheme has ``2**(bits-1)`` levels for the magnitudes, an unsigned one ``2**bits`` for the whole range. Both
    ends are clipped at the same magnitude, so the nearer end of an asymmetric range is kept until the farther one has
    come down to it. A tensor that fills fewer bins than there are levels keeps its whole range.
    """
    levels = 1 << (bits - signed)
    width = histogram.width * (BINS // REFERENCE_BINS)
    if signed:
        below, above = np.zeros(0, dtype=np.int64), _reference(histogram.positive + histogram.negative)
    else:
        below, above = _reference(histogram.negative), _reference(histogram.positive)
    bins = np.concatenate([below[::-1], above])
    reach = np.arange(1, max(len(below), len(above)) + 1)
    starts = len(below) - np.minimum(reach, len(below))
    stops = len(below) + np.minimum(reach, len(above))
    wide = stops - starts >= levels
    if not wide.any():
        return histogram.low, histogram.high
    found = divergences(bins, starts[wide], stops[wide], levels)
    best = len(found) - 1 - int(np.argmin(found[::-1]))
    low, high = (float(end[wide][best] - len(below)) * width for end in (starts, stops))
    if signed:
        low = -high
    return max(low, histogram.low), min(high, histogram.high)


def _reference(side: Counts) -> Counts:
    """One side of a histogram in reference bins, up to the last bin that is not empty."""
    merged: Counts = side.reshape(REFERENCE_BINS, -1).sum(axis=1)
    filled = np.flatnonzero(merged)
    return merged[: int(filled[-1]) + 1 if filled.size else 0]


def divergences(bins: Counts, starts: Ints, stops: Ints, levels: int) -> Floats:
    """``KL(P || Q)`` in nats of every window ``[start, stop)``; infinite where ``Q`` is 0 and ``P`` is not.

    With ``S`` and ``n`` the mass and the number of filled bins of a level, ``T`` and ``W`` the mass of all bins and of
    the window, ``KL = (sum p log p - sum_levels p_level log(S / n)) / T - log T + log W``: all of it differences of
    cumulative sums, so a window costs a few operations per level, whatever its length. ``bins`` are counts ``[B]``
    without the zeros; a window ``[start, stop)`` of ``[K]`` has at least ``levels`` bins, the number of quantization
    levels.
    """
    mass = bins.astype(np.float64)
    cumulative, filled = (np.concatenate([[0], np.cumsum(part)]) for part in (mass, bins > 0))
    entropy = np.concatenate([[0.0], np.cumsum(_xlogx(mass))])
    below, above = cumulative[starts], cumulative[-1] - cumulative[stops]
    first, last = mass[starts], mass[stops - 1]

    # Bin j of a window of m bins belongs to level floor(j * levels / m).
    parts = np.arange(levels + 1)
    borders = starts[:, None] - (-parts[None, :] * (stops - starts)[:, None] // levels)
    level_mass, level_filled = (np.diff(part[borders], axis=1) for part in (cumulative, filled))
    log_q = np.log(np.where(level_mass > 0, level_mass / np.maximum(level_filled, 1), 1.0))
    level_mass[:, 0] += below
    level_mass[:, -1] += above
    cross = (level_mass * log_q).sum(axis=1)

    self_information = entropy[stops] - entropy[starts]
    self_information += _xlogx(first + below) - _xlogx(first) + _xlogx(last + above) - _xlogx(last)
    window = cumulative[stops] - cumulative[starts]
    total = cumulative[-1]
    found = (self_information - cross) / total - np.log(total) + np.log(np.maximum(window, 1.0))
    impossible = ((first == 0) & (below > 0)) | ((last == 0) & (above > 0))
    return np.where(impossible, np.inf, found)


def _xlogx(x: Floats) -> Floats:
    return x * np.log(np.maximum(x, 1.0))
