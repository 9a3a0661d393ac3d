"""Calibrators: the range of values that an activation's integers cover, from its histogram.

A range ``(low, high)`` always includes zero. ``activation_qparams`` converts it to scale and zero-point by the target's
scheme: symmetric signed integers, unsigned ones from zero up for tensors without negative values, and unsigned ones
with a zero-point for the others.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field

from edgeres.errors import RecipeError, nearest
from edgeres.quant.entropy import least_divergent
from edgeres.quant.mse import least_error
from edgeres.quant.qparams import QParams
from edgeres.quant.scale import float32_scales
from edgeres.settings import settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeres.quant.histogram import Histogram
    from edgeres.targets.target import QuantScheme


CalibratorName = Literal["minmax", "moving_average", "percentile", "entropy", "mse"]


class Calibrator(Protocol):
    """A frozen settings class with one method from a histogram to a range."""

    name: ClassVar[str]

    def range(self, histogram: Histogram, scheme: QuantScheme) -> tuple[float, float]:
        """The lowest and highest represented value; a signed scheme uses the larger of their magnitudes."""


@settings
class MinMax:
    """The whole range of values, without clipping (Krishnamoorthi 2018, arXiv 1806.08342, section 3.1)."""

    name: ClassVar[str] = "minmax"

    def range(self, histogram: Histogram, scheme: QuantScheme) -> tuple[float, float]:
        """Smallest and largest value."""
        return histogram.low, histogram.high


@settings
class MovingAverage:
    """The mean over images of each image's extrema, which outliers in single images hardly change.

    Jacob et al. 2018 (arXiv 1712.05877, section 3.1) smooth the extrema of each batch exponentially, which depends on
    the batch size and the order. This is the exact mean of the extrema of each image, which depends on neither.
    """

    name: ClassVar[str] = "moving_average"

    def range(self, histogram: Histogram, scheme: QuantScheme) -> tuple[float, float]:
        """Mean over the images of their smallest and of their largest value."""
        return histogram.mean_low, histogram.mean_high


@settings
class Percentile:
    """The range of a percentage of all values, zeros included (Wu et al. 2020, arXiv 2004.09602, section 5).

    A symmetric range covers that percentage of the magnitudes; an asymmetric one leaves out half of the rest at either
    end. Where so few values differ from zero that the range would be empty, nothing is clipped.

    Attributes:
        percent: Percentage of the values inside the range.
    """

    name: ClassVar[str] = "percentile"
    percent: Annotated[float, Field(gt=50, le=100)] = 99.99

    def range(self, histogram: Histogram, scheme: QuantScheme) -> tuple[float, float]:
        """Quantiles of the magnitudes, or of both ends."""
        inside = self.percent / 100
        if scheme.signed or histogram.low >= 0:
            top = histogram.magnitude_quantile(inside)
            low, high = max(-top, histogram.low), min(top, histogram.high)
        else:
            low, high = (histogram.quantile(fraction) for fraction in ((1 - inside) / 2, (1 + inside) / 2))
        return (low, high) if low < 0 or high > 0 else (histogram.low, histogram.high)


@settings
class Entropy:
    """The clipping threshold of least KL divergence (Migacz, "8-bit Inference with TensorRT", GTC 2017)."""

    name: ClassVar[str] = "entropy"

    def range(self, histogram: Histogram, scheme: QuantScheme) -> tuple[float, float]:
        """The range of least KL divergence, clipped at one magnitude on both sides of zero."""
        return least_divergent(histogram, scheme.activation_bits, scheme.signed)


@settings
class MeanSquaredError:
    """The range that minimises the expected squared rounding and clipping error ``E[(x - Q(x))**2]``.

    Both ends of an asymmetric range are searched. (Sung et al. 2015, arXiv 1511.06488; Banner et al. 2019, arXiv
    1810.05723, have the closed forms for Gaussian and Laplace activations.)
    """

    name: ClassVar[str] = "mse"

    def range(self, histogram: Histogram, scheme: QuantScheme) -> tuple[float, float]:
        """The range of least expected squared error."""
        return least_error(histogram, scheme.activation_bits, scheme.signed)


_ALL: tuple[Calibrator, ...] = (MinMax(), MovingAverage(), Percentile(), Entropy(), MeanSquaredError())

CALIBRATORS: Mapping[str, Calibrator] = MappingProxyType({calibrator.name: calibrator for calibrator in _ALL})
"""Every calibrator with its default settings, by name."""


def activation_qparams(histogram: Histogram, calibrator: Calibrator | str, scheme: QuantScheme) -> QParams:
    """Scale and zero-point of one activation tensor.

    Signed: ``scale = max(-low, high) / (2**(bits-1) - 1)``, zero-point 0. Unsigned: ``scale = (high - low) / (2**bits -
    1)`` and ``zero_point = round(-low / scale)``, so that 0.0 is represented exactly (Jacob et al. 2018, arXiv
    1712.05877, section 2.1); without negative values the zero-point is 0. ``calibrator`` may be the name of one in
    ``CALIBRATORS``.

    Raises:
        RecipeError: No calibrator has that name.
    """
    if isinstance(calibrator, str):
        if calibrator not in CALIBRATORS:
            raise RecipeError(f"unknown calibrator {calibrator!r}", nearest(calibrator, CALIBRATORS))
        calibrator = CALIBRATORS[calibrator]
    low, high = calibrator.range(histogram, scheme)
    low, high = min(low, 0.0), max(high, 0.0)
    bits = scheme.activation_bits
    if scheme.signed:
        scale = _scale(max(-low, high) / ((1 << (bits - 1)) - 1))
        return QParams(scale=(scale,), bits=bits, signed=True)
    levels = (1 << bits) - 1
    scale = _scale((high - low) / levels)
    return QParams(scale=(scale,), zero_point=min(round(-low / scale), levels), bits=bits, signed=False)


def _scale(step: float) -> float:
    return float(float32_scales(np.array(step)))
