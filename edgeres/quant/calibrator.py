"""Calibrators: the range of values that an activation's integers cover, from its histogram.

A range ``(low, high)`` always includes zero; ``range_qparams`` converts it to scale and zero-point by the target's
scheme.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeres.errors import RecipeError, nearest
from edgeres.quant.histogram import BINS, Histogram
from edgeres.quant.qparams import QParams, float32_scales
from edgeres.targets.target import QuantScheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.quant.histogram import Counts

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


_ONE_END = 2.0 ** -(np.arange(128) / 16)
_TWO_ENDS = 2.0 ** -(np.arange(25) / 4)  # shares of the whole range tried first at one end, and at each of two ends


class Density:
    """Cumulative moments of a histogram in units of its bin width, with values spread evenly inside each bin.

    With ``v_q`` the value of code ``q``, and ``M0`` and ``M1`` number and sum of the values that round to it, the error
    of a range is ``sum x**2 - 2 sum_q v_q M1_q + sum_q v_q**2 M0_q``: differences at the rounding borders.

    ``counts`` are values per consecutive bin ``[B]``, ``first`` is the lower edge of the first one.
    """

    def __init__(self, counts: Counts, first: int) -> None:
        self.first, self.counts = first, counts.astype(np.float64)
        left = first + np.arange(len(counts), dtype=np.float64)
        # Number and sum of the values below each bin edge [B+1].
        self.below, self.sum_below = (
            np.concatenate([[0.0], np.cumsum(part)]) for part in (self.counts, self.counts * (left + 0.5))
        )
        # The mean square over [l, l+1] is l**2 + l + 1/3.
        self.squares = float((self.counts * (left * (left + 1) + 1 / 3)).sum())

    def moments(self, edges: Floats) -> tuple[Floats, Floats]:
        """Number and sum of the values below each edge, of the edges' shape."""
        inside = np.clip(edges, self.first, self.first + len(self.counts))
        place = np.minimum((inside - self.first).astype(np.int64), len(self.counts) - 1)
        left = place + self.first
        partial = self.counts[place] * (inside - left)
        return self.below[place] + partial, self.sum_below[place] + partial * (inside + left) / 2

    def errors(self, low: Floats, high: Floats, steps: int) -> Floats:
        """Sum of squared errors of every range ``[K]`` that ``steps`` equal steps divide, with 0.0 on the grid."""
        scale = (high - low) / steps
        codes = np.arange(steps + 1) - np.rint(-low / scale)[:, None]
        values = codes * scale[:, None]
        number, total = self.moments((codes[:, 1:] - 0.5) * scale[:, None])
        number, total = (
            np.diff(part, axis=1, prepend=0.0, append=whole)
            for part, whole in ((number, self.below[-1]), (total, self.sum_below[-1]))
        )
        return np.asarray(self.squares + (values * (values * number - 2 * total)).sum(axis=1))


def mean_squared_error(histogram: Histogram, scheme: QuantScheme) -> tuple[float, float]:
    """The range that minimises the expected squared rounding and clipping error ``E[(x - Q(x))**2]``.

    A signed scheme divides the magnitudes into ``2**(bits-1) - 1`` steps, an unsigned one the range into
    ``2**bits - 1``. The search tries shares of the whole range down to ``2**-8`` (of each end of an asymmetric range on
    its own, down to ``2**-6``), then refines twice around the best. Zeros have no error in any range and are left out.
    (Sung et al. 2015, arXiv 1511.06488; Banner et al. 2019, arXiv 1810.05723, have the closed forms for Gaussian and
    Laplace activations.)
    """
    bits, signed = scheme.activation_bits, scheme.signed
    low, high = (end / histogram.width for end in (histogram.low, histogram.high))
    if signed:
        low, high = 0.0, max(-low, high)
        density = Density(histogram.positive + histogram.negative, 0)
    else:
        low, high = min(low, 0.0), max(high, 0.0)
        density = Density(np.concatenate([histogram.negative[::-1], histogram.positive]), -BINS)
    if low == high:
        return histogram.low, histogram.high
    low, high = _search(density, low, high, (1 << (bits - signed)) - 1)
    if signed:
        low = -high
    return max(low * histogram.width, histogram.low), min(high * histogram.width, histogram.high)


def _search(density: Density, low: float, high: float, steps: int) -> tuple[float, float]:
    """Coarse-to-fine search over both ends; an end at zero is fixed."""
    shares = _TWO_ENDS if low < 0 < high else _ONE_END
    ratio = shares[0] / shares[1]
    best_low, best_high = _best(density, low * shares, high * shares, steps)
    for fine in (9, 9):
        near = np.geomspace(1 / ratio, ratio, fine)
        lows, highs = np.maximum(best_low * near, low), np.minimum(best_high * near, high)
        best_low, best_high = _best(density, lows, highs, steps)
        ratio = float(near[fine // 2 + 1])
    return best_low, best_high


def _best(density: Density, lows: Floats, highs: Floats, steps: int) -> tuple[float, float]:
    """The pair of ends with the least error; the first of equals."""
    some_low, some_high = (np.unique(ends) for ends in (lows, highs))
    pairs_low, pairs_high = (part.ravel() for part in np.meshgrid(some_low, some_high, indexing="ij"))
    best = int(np.argmin(density.errors(pairs_low, pairs_high, steps)))
    return float(pairs_low[best]), float(pairs_high[best])


REFERENCE_BINS = 2048  # bins on each side of zero in which the distributions are compared


def entropy(histogram: Histogram, scheme: QuantScheme) -> tuple[float, float]:
    """The range of least KL divergence (Migacz, "8-bit Inference with TensorRT", NVIDIA GTC 2017, slides 32-40).

    Of a histogram with 2048 bins, the first ``i`` bins are distribution ``P``, with everything beyond added to the last
    of them; the same bins without it are spread over the quantization levels, and each level's mass evenly over its
    bins that are not empty: ``Q``. The ``i`` of least ``KL(P || Q)`` is taken. Zeros are left out: every range
    represents them exactly.

    A signed scheme has ``2**(bits-1)`` levels for the magnitudes, an unsigned one ``2**bits`` for the whole range. Both
    ends are clipped at the same magnitude, so the nearer end of an asymmetric range is kept until the farther one has
    come down to it. A tensor that fills fewer bins than there are levels keeps its whole range.
    """
    bits, signed = scheme.activation_bits, scheme.signed
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
    costs = divergences(bins, starts[wide], stops[wide], levels)
    best = len(costs) - 1 - int(np.argmin(costs[::-1]))
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
    the window, ``KL = (sum p log p - sum_levels p_level log(S / n)) / T - log T + log W``: differences of cumulative
    sums, a few operations per level. ``bins`` are counts ``[B]`` without the zeros; a window of ``[K]`` has at least
    ``levels`` bins, the number of quantization levels.
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
    kl = (self_information - cross) / total - np.log(total) + np.log(np.maximum(window, 1.0))
    impossible = ((first == 0) & (below > 0)) | ((last == 0) & (above > 0))
    return np.where(impossible, np.inf, kl)


def _xlogx(x: Floats) -> Floats:
    return x * np.log(np.maximum(x, 1.0))


CalibratorName = Literal["minmax", "moving_average", "percentile", "entropy", "mse"]
Calibrator = Callable[[Histogram, QuantScheme], tuple[float, float]]
"""The lowest and highest represented value; a signed scheme uses the larger of their magnitudes."""


def minmax(histogram: Histogram, scheme: QuantScheme) -> tuple[float, float]:
    """The whole range of values, without clipping (Krishnamoorthi 2018, arXiv 1806.08342, section 3.1)."""
    return histogram.low, histogram.high


def moving_average(histogram: Histogram, scheme: QuantScheme) -> tuple[float, float]:
    """The mean over images of each image's extrema, which outliers in single images hardly change.

    Jacob et al. 2018 (arXiv 1712.05877, section 3.1) smooth the extrema of each batch exponentially instead, which
    depends on the batch size and the order.
    """
    return histogram.mean_range


def percentile(histogram: Histogram, scheme: QuantScheme, percent: float = 99.99) -> tuple[float, float]:
    """The range of a percentage of all values, zeros included (Wu et al. 2020, arXiv 2004.09602, section 5).

    An asymmetric range leaves out half of the rest at either end. An empty range is replaced by that of all values.
    """
    inside = percent / 100
    if scheme.signed or histogram.low >= 0:
        top = histogram.magnitude_quantile(inside)
        low, high = max(-top, histogram.low), min(top, histogram.high)
    else:
        low, high = (histogram.quantile(fraction) for fraction in ((1 - inside) / 2, (1 + inside) / 2))
    return (low, high) if low < 0 or high > 0 else (histogram.low, histogram.high)


CALIBRATORS: Mapping[str, Calibrator] = MappingProxyType(
    {
        "minmax": minmax,
        "moving_average": moving_average,
        "percentile": percentile,
        "entropy": entropy,
        "mse": mean_squared_error,
    }
)


def activation_qparams(histogram: Histogram, calibrator: str, scheme: QuantScheme) -> QParams:
    """Scale and zero-point of one tensor from its histogram; ``RecipeError`` where no calibrator has that name."""
    if calibrator not in CALIBRATORS:
        raise RecipeError(f"unknown calibrator {calibrator!r}", nearest(calibrator, CALIBRATORS))
    return range_qparams(*CALIBRATORS[calibrator](histogram, scheme), scheme)


def range_qparams(low: float, high: float, scheme: QuantScheme) -> QParams:
    """Scale and zero-point of a range.

    Signed: ``scale = max(-low, high) / (2**(bits-1) - 1)``, zero-point 0. Unsigned: ``scale = (high - low) /
    (2**bits - 1)`` and ``zero_point = round(-low / scale)``, so that 0.0 is represented exactly (Jacob et al. 2018,
    arXiv 1712.05877, section 2.1); without negative values the zero-point is 0.
    """
    low, high, bits = min(low, 0.0), max(high, 0.0), scheme.activation_bits
    if scheme.signed:
        return QParams(scale=(_scale(max(-low, high) / ((1 << (bits - 1)) - 1)),), bits=bits, signed=True)
    levels = (1 << bits) - 1
    scale = _scale((high - low) / levels)
    return QParams(scale=(scale,), zero_point=min(round(-low / scale), levels), bits=bits, signed=False)


def _scale(step: float) -> float:
    return float(float32_scales(np.array(step)))
