"""The rungs, from the cheapest to the dearest: each one a technique applied to the best candidate so far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from edgeres.ladder.climb import best_of
from edgeres.ladder.workshop import Candidate, Screening
from edgeres.model.network import Network
from edgeres.quant.balance import balancing_scales
from edgeres.quant.bias import empirical_bias
from edgeres.quant.calibrator import CALIBRATORS
from edgeres.quant.equalize import channel_peaks, equalized
from edgeres.quant.importance import importance
from edgeres.quant.refine import refined
from edgeres.quant.rescale import rescaled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.ladder.climb import Tried
    from edgeres.ladder.workshop import CalibratorName, WeightMethod, Workshop
    from edgeres.model.weights import Weights

    Earlier = Sequence[Tried[Candidate]]

STRENGTHS = (0.5,)
"""Exponents of equalization by peaks that are tried."""

_LOOKED_AT = 64
"""Images whose gradients tell what a channel matters."""

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
            screening.add(
                f"{calibrator}, {method}", Candidate(quantized, shop.weights, settings, histograms=histograms)
            )

        for calibrator in CALIBRATORS if self.calibrator == "auto" else (self.calibrator,):
            add(calibrator, "max" if self.weights == "auto" else self.weights)
        if self.weights == "auto":
            add(screening.best().quantized.table.calibrator, "mse")
        return screening.best()


@dataclass(frozen=True, slots=True)
class Equalize:
    """Channels brought to ranges that share a scale well, by their peaks or by what they matter; calibrated anew."""

    name: ClassVar[str] = "equalize"
    quick: ClassVar[bool] = True

    shop: Workshop

    def predicted(self) -> float:
        """One pass for the peaks, a short one backwards, one for the histograms of each variant."""
        variants = len(STRENGTHS) + 1
        return (1.5 + _OBSERVED * variants) * self.shop.jury.pass_s * len(self.shop.calibration)

    def candidate(self, tried: Earlier) -> Candidate:
        """The variant nearest to float, with the calibrator that was the best before."""
        shop, base, screening = self.shop, best_of(tried).candidate, Screening(self.shop.jury, self.name)
        with shop.progress.task("channel peaks", len(shop.calibration)) as advance:
            peaks = channel_peaks(Network(shop.spec, shop.weights).eval(), shop.images(), advance)
        for strength in STRENGTHS:
            weights = equalized(shop.spec, shop.weights, peaks, shop.placement, strength)
            screening.add(f"strength {strength:g}", self._variant(base, weights, {"by": "peaks", "strength": strength}))
        weights = rescaled(shop.spec, shop.weights, self._balanced(tried))
        screening.add("balanced", self._variant(base, weights, {"by": "importance"}))
        return screening.best()

    def _balanced(self, tried: Earlier) -> Mapping[str, NDArray[np.float64]]:
        """Channel scales of least expected divergence, from the first rung's scales and each channel's importance."""
        shop, quantized = self.shop, tried[0].candidate.quantized
        few = min(_LOOKED_AT, len(shop.calibration))
        with shop.progress.task("importance of channels", few) as advance:
            found = importance(
                shop.spec, shop.weights, shop.placement, shop.images, limit=few, seed=shop.seed, advance=advance
            )
        return balancing_scales(quantized, found)

    def _variant(self, base: Candidate, weights: Weights, settings: dict[str, object]) -> Candidate:
        shop, (calibrator, method) = self.shop, chosen_scales(base)
        histograms = shop.observed(weights, "calibrate, equalized")
        quantized = shop.calibrated(weights, histograms, calibrator, method)
        return Candidate(quantized, weights, {**base.settings, self.name: settings}, histograms=histograms)


@dataclass(frozen=True, slots=True)
class Refine:
    """Activation ranges chosen by what their error does to the answers."""

    name: ClassVar[str] = "refine"
    quick: ClassVar[bool] = True

    shop: Workshop

    @property
    def _images(self) -> int:
        return min(2 * _LOOKED_AT, len(self.shop.calibration))

    def predicted(self) -> float:
        """A pass forwards and back over a few images, with every candidate range on the way."""
        return 12 * self.shop.jury.pass_s * self._images

    def candidate(self, tried: Earlier) -> Candidate:
        """The best candidate so far with other activation scales."""
        shop, base = self.shop, best_of(tried).candidate
        with shop.progress.task("refine activation ranges", self._images) as advance:
            made = refined(base.quantized, shop.images, limit=self._images, seed=shop.seed, advance=advance)
        return replace(base, quantized=made, settings={**base.settings, self.name: {"images": self._images}})


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
