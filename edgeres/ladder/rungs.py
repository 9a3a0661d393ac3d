"""The rungs, from the cheapest to the dearest: each one a technique applied to the best candidate so far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from edgeres.ladder.climb import best_of
from edgeres.ladder.workshop import Candidate, Screening
from edgeres.model.cost import parameters
from edgeres.model.network import Network
from edgeres.quant.balance import balancing_scales
from edgeres.quant.bias import empirical_bias
from edgeres.quant.calibrator import CALIBRATORS
from edgeres.quant.importance import importance
from edgeres.quant.refine import refined
from edgeres.quant.rescale import rescaled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.ladder.climb import Tried
    from edgeres.ladder.workshop import CalibratorName, WeightMethod, Workshop

    Earlier = Sequence[Tried[Candidate]]

_LOOKED_AT = 64
"""Images whose gradients tell what a channel matters."""

_BACKWARDS = 8.0
"""A pass backwards that keeps every activation's gradient, in plain passes."""

_OBSERVED = 1.3
"""A pass with histograms, in plain passes."""

_BALANCING = 2.4e4
"""MACs for each weight that the search for balanced scales amounts to, as ResNet-18 took."""


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
    """Channels brought to ranges that share a scale well, by what they matter to the answers; calibrated anew."""

    name: ClassVar[str] = "equalize"
    quick: ClassVar[bool] = True

    shop: Workshop

    def predicted(self) -> float:
        """A short pass backwards, the search for balanced scales, and a pass for the histograms."""
        jury, images = self.shop.jury, len(self.shop.calibration)
        search = _BALANCING * parameters(self.shop.spec) / jury.macs_per_s
        return jury.pass_s * (_BACKWARDS * min(_LOOKED_AT, images) + _OBSERVED * images) + search

    def candidate(self, tried: Earlier) -> Candidate:
        """The first rung's network with other channel scales, calibrated as that one was."""
        shop, base = self.shop, tried[0].candidate
        weights, (calibrator, method) = rescaled(shop.spec, shop.weights, self._balanced(tried)), chosen_scales(base)
        histograms = shop.observed(weights, "calibrate, equalized")
        quantized = shop.calibrated(weights, histograms, calibrator, method)
        settings = {**base.settings, self.name: {"by": "importance"}}
        return Candidate(quantized, weights, settings, histograms=histograms)

    def _balanced(self, tried: Earlier) -> Mapping[str, NDArray[np.float64]]:
        """Channel scales of least expected divergence, from the first rung's scales and each channel's importance."""
        shop, quantized = self.shop, tried[0].candidate.quantized
        few = min(_LOOKED_AT, len(shop.calibration))
        with shop.progress.task("importance of channels", few) as advance:
            found = importance(
                shop.spec, shop.weights, shop.placement, shop.images, limit=few, seed=shop.seed, advance=advance
            )
        return balancing_scales(quantized, found)


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
        """The last candidate with other scales: only corrected biases show what a change of scales is worth."""
        shop, base = self.shop, tried[-1].candidate
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
        """A float pass and a quantized one, for one candidate or for two."""
        return 8 * self.shop.jury.pass_s * len(self.shop.calibration)

    def candidate(self, tried: Earlier) -> Candidate:
        """The best candidate so far or the last one, whichever is nearer to float once its biases are corrected."""
        screening = Screening(self.shop.jury, self.name)
        for base in dict.fromkeys((best_of(tried).rung, tried[-1].rung)):
            screening.add(base, self._corrected(next(one.candidate for one in tried if one.rung == base)))
        return screening.best()

    def _corrected(self, base: Candidate) -> Candidate:
        shop = self.shop
        reference = Network(shop.spec, base.reference).eval()
        with shop.progress.task("correct biases", len(shop.calibration)) as advance:
            corrected = empirical_bias(reference, base.quantized, shop.images, advance)
        settings = {**base.settings, self.name: {"images": len(shop.calibration)}}
        return replace(base, quantized=corrected, settings=settings)
