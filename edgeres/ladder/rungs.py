"""The rungs, from the cheapest to the dearest: each one a technique applied to the best candidate so far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from edgeres.ladder.climb import best_of
from edgeres.ladder.workshop import Candidate, Screening
from edgeres.model.network import Network
from edgeres.quant.bias import empirical_bias
from edgeres.quant.calibrator import CALIBRATORS
from edgeres.quant.equalize import channel_peaks, equalized

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.ladder.climb import Tried
    from edgeres.ladder.workshop import CalibratorName, WeightMethod, Workshop

    Earlier = Sequence[Tried[Candidate]]

STRENGTHS = (0.5, 1.0)
"""Exponents of equalization that are tried."""

_OBSERVED = 1.3
"""A pass with histograms, in plain passes."""


@dataclass(frozen=True, slots=True)
class Calibrate:
    """Scales from histograms, each weight rounded to the nearest; the first rung.

    Attributes:
        shop: What rungs share.
        calibrator: One of ``CALIBRATORS``, or ``auto`` for the one nearest to float.
        weights: How a weight range is chosen, or ``auto`` for the nearest to float, tried with the best calibrator.
    """

    name: ClassVar[str] = "calibrate"
    quick: ClassVar[bool] = True

    shop: Workshop
    calibrator: Literal["auto"] | CalibratorName
    weights: Literal["auto"] | WeightMethod

    def predicted(self) -> float:
        """One pass over the calibration images."""
        return _OBSERVED * self.shop.jury.pass_s * len(self.shop.calibration)

    def candidate(self, tried: Earlier) -> Candidate:
        """The best of the calibrators, then the best of the weight methods with it."""
        shop, screening = self.shop, Screening(self.shop.jury, self.name)
        histograms = shop.observed(shop.weights, "calibrate")

        def add(calibrator: str, method: WeightMethod) -> None:
            quantized = shop.calibrated(shop.weights, histograms, calibrator, method)
            settings = {self.name: {"calibrator": calibrator, "weights": method}}
            screening.add(f"{calibrator}, {method}", Candidate(quantized, shop.weights, settings))

        for calibrator in CALIBRATORS if self.calibrator == "auto" else (self.calibrator,):
            add(calibrator, "max" if self.weights == "auto" else self.weights)
        if self.weights == "auto":
            add(screening.best().quantized.table.calibrator, "mse")
        return screening.best()


@dataclass(frozen=True, slots=True)
class Equalize:
    """Channels of one tensor brought to like ranges, then calibrated anew."""

    name: ClassVar[str] = "equalize"
    quick: ClassVar[bool] = True

    shop: Workshop

    def predicted(self) -> float:
        """One pass for the peaks, one for the histograms of each strength."""
        return (1 + _OBSERVED * len(STRENGTHS)) * self.shop.jury.pass_s * len(self.shop.calibration)

    def candidate(self, tried: Earlier) -> Candidate:
        """The strength nearest to float, with the calibrator that was the best before."""
        shop, base, screening = self.shop, best_of(tried).candidate, Screening(self.shop.jury, self.name)
        with shop.progress.task("channel peaks", len(shop.calibration)) as advance:
            peaks = channel_peaks(Network(shop.spec, shop.weights).eval(), shop.images(), advance)
        for strength in STRENGTHS:
            screening.add(f"strength {strength:g}", self._variant(base, peaks, strength))
        return screening.best()

    def _variant(self, base: Candidate, peaks: Mapping[str, NDArray[np.float64]], strength: float) -> Candidate:
        shop = self.shop
        weights = equalized(shop.spec, shop.weights, peaks, shop.placement, strength)
        calibrator, method = chosen_scales(base)
        histograms = shop.observed(weights, f"calibrate, equalized by {strength:g}")
        quantized = shop.calibrated(weights, histograms, calibrator, method)
        return Candidate(quantized, weights, {**base.settings, self.name: {"strength": strength}})


def chosen_scales(base: Candidate) -> tuple[str, WeightMethod]:
    """Calibrator and weight method of a candidate."""
    settings = base.settings["calibrate"]
    assert isinstance(settings, dict)
    return settings["calibrator"], settings["weights"]


@dataclass(frozen=True, slots=True)
class CorrectBias:
    """Biases that take back what quantization adds to the mean of each channel."""

    name: ClassVar[str] = "bias"
    quick: ClassVar[bool] = True

    shop: Workshop

    def predicted(self) -> float:
        """A float pass and a quantized one."""
        return 4 * self.shop.jury.pass_s * len(self.shop.calibration)

    def candidate(self, tried: Earlier) -> Candidate:
        """The best candidate so far with other biases."""
        shop, base = self.shop, best_of(tried).candidate
        reference = Network(shop.spec, base.reference).eval()
        with shop.progress.task("correct biases", len(shop.calibration)) as advance:
            corrected = empirical_bias(reference, base.quantized, shop.images, advance)
        settings = {**base.settings, self.name: {"images": len(shop.calibration)}}
        return replace(base, quantized=corrected, settings=settings)
