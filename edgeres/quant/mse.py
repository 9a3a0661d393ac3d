"""MSE calibration: the range with the least expected squared quantization error.

Values are assumed to be spread evenly inside their bin. Then the error of a range needs no pass over the bins: with
``v_q`` the value of code ``q``, and ``M0`` and ``M1`` the number and the sum of the values that round to it,
``sum (x - Q(x))**2 = sum x**2 - 2 sum_q v_q M1_q + sum_q v_q**2 M0_q``, and both moments are differences of cumulative
functions at the rounding borders. Zeros have no error in any range and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeres.quant.histogram import BINS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.quant.histogram import Counts, Histogram

    Floats = NDArray[np.float64]

_ONE_END = 2.0 ** -(np.arange(128) / 16)
_TWO_ENDS = 2.0 ** -(np.arange(25) / 4)
"""Shares of the whole range tried first at one end, and at each of two ends."""


@dataclass(frozen=True, slots=True)
class Density:
    """Cumulative moments of a histogram in units of its bin width, with values spread evenly inside each bin.

    ``first`` is the lower edge of the first bin, ``counts`` are values per bin ``[B]``, ``below`` and ``sum_below``
    number and sum of the values below each bin edge ``[B+1]``, ``squares`` the sum of all squares.
    """

    first: int
    counts: Floats
    below: Floats
    sum_below: Floats
    squares: float

    @classmethod
    def of(cls, counts: Counts, first: int) -> Density:
        """The density of consecutive bins."""
        mass = counts.astype(np.float64)
        left = first + np.arange(len(counts), dtype=np.float64)
        below, sum_below = (np.concatenate([[0.0], np.cumsum(part)]) for part in (mass, mass * (left + 0.5)))
        # The mean square over [l, l+1] is l**2 + l + 1/3.
        return cls(first, mass, below, sum_below, float((mass * (left * (left + 1) + 1 / 3)).sum()))

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
        error: Floats = self.squares + (values * (values * number - 2 * total)).sum(axis=1)
        return error


def least_error(histogram: Histogram, bits: int, signed: bool) -> tuple[float, float]:
    """The range with the least expected squared error.

    A signed scheme divides the magnitudes into ``2**(bits-1) - 1`` steps, an unsigned one the range into
    ``2**bits - 1``. The search tries shares of the whole range down to ``2**-8`` (of each end of an asymmetric range on
    its own, down to ``2**-6``), then refines twice around the best.
    """
    low, high = (end / histogram.width for end in (histogram.low, histogram.high))
    if signed:
        low, high = 0.0, max(-low, high)
        density = Density.of(histogram.positive + histogram.negative, 0)
    else:
        low, high = min(low, 0.0), max(high, 0.0)
        density = Density.of(np.concatenate([histogram.negative[::-1], histogram.positive]), -BINS)
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
