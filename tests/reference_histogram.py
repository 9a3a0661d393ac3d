"""The histogram of an array in memory, computed at once: what the streamed counts of calibration are compared with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgeres.quant.histogram import BINS, BITS, Histogram, exact_units, grid_exponent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def content(histogram: Histogram) -> tuple[object, ...]:
    """Everything in a histogram, to compare by."""
    scalars = (histogram.exponent, histogram.low, histogram.high, histogram.low_sum, histogram.high_sum)
    return (*scalars, histogram.images, histogram.counts.tobytes())


def contents(histograms: Mapping[str, Histogram]) -> dict[str, tuple[object, ...]]:
    return {name: content(histogram) for name, histogram in histograms.items()}


def histogram_of(values: NDArray[np.float32]) -> Histogram:
    """The histogram of a tensor ``[N,...]``, one image per entry of the first axis."""
    images = values.reshape(len(values), -1).astype(np.float64)
    lows, highs = images.min(axis=1), images.max(axis=1)
    low, high = float(lows.min()), float(highs.max())
    assert math.isfinite(low)
    assert math.isfinite(high)
    exponent = grid_exponent(max(-low, high))
    indices = np.copysign(np.ceil(np.ldexp(np.abs(images), BITS - exponent)), images).astype(np.int64)
    counts = np.bincount(indices.ravel() + BINS, minlength=2 * BINS + 1).astype(np.int64)
    low_sum, high_sum = (sum(exact_units(value) for value in ends) for ends in (lows, highs))
    return Histogram(exponent, counts, low, high, low_sum, high_sum, len(images))
