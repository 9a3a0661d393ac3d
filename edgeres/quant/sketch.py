"""``Sketch``: distribution of a tensor under its scale, small enough for a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from edgeres.quant.histogram import BINS
from edgeres.settings import settings

if TYPE_CHECKING:
    from edgeres.quant.histogram import Histogram
    from edgeres.quant.qparams import QParams

COLUMNS = 48
"""Number of columns of a sketch, as many as a small plot shows."""

Share = Annotated[float, Field(ge=0, le=1)]


@settings
class Sketch:
    """Histogram of a tensor over the calibration images, with its clipping and quantization noise.

    Attributes:
        scale: Scale of the tensor.
        zero_point: Zero-point of the tensor.
        low: Smallest value.
        high: Largest value.
        zeros: Share of the values that are zero.
        columns: Values other than zero, counted in ``COLUMNS`` columns of equal width from ``low`` to ``high``.
        clipped: Share of the values beyond the last rounding border on either side.
        sqnr_db: Signal to quantization noise in dB, ``10 log10(sum x^2 / sum (x - Q(x))^2)``; None without noise.
    """

    scale: float
    zero_point: int
    low: float
    high: float
    zeros: Share
    columns: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=COLUMNS, max_length=COLUMNS)]
    clipped: Share
    sqnr_db: float | None

    def __post_init__(self) -> None:
        """Refuses a range that is reversed."""
        if self.low > self.high:
            raise ValueError("low is above high")

    def is_of(self, params: QParams) -> bool:
        """Whether the sketch is of these quantization parameters."""
        return params.scale == (self.scale,) and params.zero_point == self.zero_point


def sketch(histogram: Histogram, params: QParams) -> Sketch:
    """The sketch of a tensor under one scale.

    Each value is taken at the middle of its bin. A bin is at most 1/32 of a step of signed INT8, which changes the
    noise by less than a thousandth.
    """
    bins = np.flatnonzero(histogram.counts)
    counts = histogram.counts[bins].astype(np.float64)
    index = (bins - BINS).astype(np.float64)
    values = (index - 0.5 * np.sign(index)) * histogram.width
    scale, middle = params.scale[0], params.zero_point
    codes = np.clip(np.rint(values / scale) + middle, params.low, params.high)
    noise = float(counts @ (values - (codes - middle) * scale) ** 2)
    signal, total = float(counts @ values**2), float(counts.sum())
    border_low, border_high = ((end - middle) * scale for end in (params.low - 0.5, params.high + 0.5))
    outside = float(counts[(values < border_low) | (values > border_high)].sum())
    seen = index != 0
    span = _span(histogram)  # the middle of the outermost bins may lie beyond it
    columns, _ = np.histogram(np.clip(values[seen], *span), COLUMNS, span, weights=counts[seen])
    return Sketch(
        scale=scale,
        zero_point=middle,
        low=histogram.low,
        high=histogram.high,
        zeros=float(counts[~seen].sum()) / total,
        columns=tuple(int(count) for count in columns),
        clipped=outside / total,
        sqnr_db=10 * float(np.log10(signal / noise)) if noise and signal else None,
    )


def _span(histogram: Histogram) -> tuple[float, float]:
    """From the smallest to the largest value; a constant tensor gets a span around it."""
    low, high = histogram.low, histogram.high
    return (low, high) if low < high else (low - histogram.width, high + histogram.width)
