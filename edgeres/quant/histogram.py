"""``Histogram``: exact counts of a tensor's values, the same whatever the order, batches or shards they come in.

The bins have a power-of-two width ``w`` and are aligned at zero. Bin 0 holds the values equal to zero, bin ``i > 0``
the interval ``((i-1) w, i w]`` and bin ``-i`` its mirror image, so a value has the index ``sign(x) ceil(|x| / w)``.
There are ``BINS`` bins on each side, and ``w = 2**exponent / BINS`` with the smallest exponent whose range
``[-2**exponent, 2**exponent]`` holds every value seen: the grid is a function of ``max |x|`` alone.

When a larger value comes, the width doubles and neighbouring bins are merged. That loses nothing, because
``ceil(ceil(y) / 2) = ceil(y / 2)`` for every real ``y``: merging a fine histogram gives the coarse histogram of the
same values, count by count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Counts = NDArray[np.int64]

BITS = 13
BINS = 1 << BITS  # bins on each side of zero; at least half of them lie below ``max |x|``, 32 to a step of signed INT8
FINEST = -100  # smallest exponent of a grid: ``2**(BITS - FINEST)`` is still a float32
_UNIT = 149  # every finite float32 is an integer multiple of ``2**-149``, so sums in that unit are exact integers


def grid_exponent(peak: float) -> int:
    """The exponent of the grid for a largest magnitude: ``ceil(log2(peak))``, at least ``FINEST``."""
    if peak == 0:
        return FINEST
    mantissa, exponent = math.frexp(peak)
    return max(exponent - (mantissa == 0.5), FINEST)


def coarsened(counts: Counts, doublings: int) -> Counts:
    """Counts ``[2 BINS + 1]`` on a grid whose width has been doubled that many times."""
    if doublings == 0:
        return counts
    group = 1 << min(doublings, BITS)
    bins = BINS // group
    merged = np.zeros_like(counts)
    merged[BINS - bins : BINS] = counts[:BINS].reshape(bins, group).sum(axis=1)
    merged[BINS] = counts[BINS]
    merged[BINS + 1 : BINS + 1 + bins] = counts[BINS + 1 :].reshape(bins, group).sum(axis=1)
    return merged


def exact_units(value: float) -> int:
    """A float32 value as an integer number of ``2**-149``."""
    numerator, denominator = float(value).as_integer_ratio()
    return numerator * ((1 << _UNIT) // denominator)


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Counts and extrema of one tensor over any number of images.

    The grid spans ``[-2**exponent, 2**exponent]``; bin ``i`` of the read-only counts int64 ``[2 BINS + 1]`` stands at
    ``BINS + i``. ``low_sum`` and ``high_sum`` are sums of the images' extrema in units of ``2**-149``.
    """

    exponent: int
    counts: Counts
    low: float
    high: float
    low_sum: int
    high_sum: int
    images: int

    def __post_init__(self) -> None:
        self.counts.setflags(write=False)

    def merged(self, other: Histogram) -> Histogram:
        """The histogram of both sets of images; commutative and associative to the last bit."""
        exponent = max(self.exponent, other.exponent)
        counts = coarsened(self.counts, exponent - self.exponent) + coarsened(other.counts, exponent - other.exponent)
        low, high = min(self.low, other.low), max(self.high, other.high)
        sums = self.low_sum + other.low_sum, self.high_sum + other.high_sum
        return Histogram(exponent, counts, low, high, *sums, self.images + other.images)

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent - BITS)

    @property
    def positive(self) -> Counts:
        """Counts ``[BINS]`` of the positive values, by rising magnitude."""
        return self.counts[BINS + 1 :]

    @property
    def negative(self) -> Counts:
        """Counts ``[BINS]`` of the negative values, by rising magnitude."""
        return self.counts[BINS - 1 :: -1]

    @property
    def mean_range(self) -> tuple[float, float]:
        """Means over the images of their smallest and of their largest value, correctly rounded."""
        low, high = (float(Fraction(total, self.images << _UNIT)) for total in (self.low_sum, self.high_sum))
        return low, high

    def quantile(self, fraction: float) -> float:
        """The smallest value that at least this fraction of all values do not exceed, within one bin width.

        The bin is exact (numpy calls this quantile ``inverted_cdf``), the place inside it is interpolated.
        """
        return min(max(_quantile(self.counts, -BINS, fraction) * self.width, self.low), self.high)

    def magnitude_quantile(self, fraction: float) -> float:
        """The same of the magnitudes ``|x|``."""
        magnitudes = np.concatenate([self.counts[BINS : BINS + 1], self.positive + self.negative])
        return min(_quantile(magnitudes, 0, fraction) * self.width, max(-self.low, self.high))


def _quantile(counts: Counts, first: int, fraction: float) -> float:
    """Quantile in units of the bin width; ``first`` is the index of the first bin."""
    cumulative = np.cumsum(counts)
    total = int(cumulative[-1])
    rank = min(max(math.ceil(fraction * total), 1), total)
    place = int(np.searchsorted(cumulative, rank))
    index = first + place
    if index == 0:
        return 0.0
    beyond = (int(cumulative[place]) - rank) / int(counts[place])
    upper_edge = index if index > 0 else index + 1
    return upper_edge - beyond
