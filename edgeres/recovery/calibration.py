"""Techniques that take seconds: calibration, equalization, a first layer in float, range search, bias correction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from edgeres.model.cost import parameters, share_of_macs
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.quant.algorithms.bias_correction import empirical_bias
from edgeres.quant.algorithms.channel_scaling import rescaled
from edgeres.quant.algorithms.equalization import balancing_scales
from edgeres.quant.algorithms.fisher_information import importance
from edgeres.quant.algorithms.mixed_precision import left_in_float
from edgeres.quant.algorithms.range_search import refined
from edgeres.quant.calibrator import CALIBRATORS
from edgeres.recovery.context import Candidate, nearest
from edgeres.recovery.search import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.recovery.context import CalibratorName, QuantizationContext, WeightMethod
    from edgeres.recovery.search import Effort, Tried

    Earlier = Sequence[Tried[Candidate]]
    Best = Tried[Candidate] | None

_FEW_MACS = 0.02
"""Largest share of the MACs of a first layer left in float: at a quarter of the speed it takes 6 % of the time."""

_LOOKED_AT = 64
"""Images whose gradients give the importance of a channel."""

_MEANS = 256
"""Images whose means correct biases; each has as many values of a channel as the channel has pixels."""

_BACKWARDS = 8.0
"""Cost of a backward pass that keeps the gradient of every activation, in forward passes."""

_OBSERVED = 1.3
"""Cost of a pass with histograms, in forward passes."""

_BALANCING = 2.4e4
"""MACs per weight that the search for channel scales amounts to, measured on ResNet-18."""


@dataclass(frozen=True, slots=True)
class Calibrate:
    """Scales from histograms, with weights rounded to nearest; the first technique.

    Attributes:
        context: Network, images and evaluator.
        calibrator: One of ``CALIBRATORS``, or ``auto`` for the one nearest to float.
        weights: Method of weight ranges, or ``auto`` for the nearest to float with the best calibrator.
    """

    name: ClassVar[str] = "calibrate"
    effort: ClassVar[Effort] = "quick"
    remedy: ClassVar[bool] = False

    context: QuantizationContext
    calibrator: Literal["auto"] | CalibratorName
    weights: Literal["auto"] | WeightMethod

    def predicted(self) -> float:
        """Predicted seconds: one pass over the calibration images."""
        return _OBSERVED * self.context.evaluator.pass_s * len(self.context.calibration)

    def candidate(self, tried: Earlier, best: Best) -> Candidate:
        """The best of the calibrators, then the best of the weight methods with it."""
        context = self.context
        histograms = context.observed(context.weights, "calibrate")

        def made(calibrator: str, method: WeightMethod) -> Candidate:
            quantized = context.calibrated(context.weights, histograms, calibrator, method)
            settings = {self.name: {"calibrator": calibrator, "weights": method}}
            return Candidate(quantized, context.weights, settings, histograms=histograms)

        method: WeightMethod = "max" if self.weights == "auto" else self.weights
        calibrators = CALIBRATORS if self.calibrator == "auto" else (self.calibrator,)
        found = {f"{calibrator}, {method}": made(calibrator, method) for calibrator in calibrators}
        first = nearest(found, context.evaluator, self.name)
        if self.weights != "auto":
            return first
        calibrator, _ = chosen_scales(first)
        both = {f"{calibrator}, {method}": first, f"{calibrator}, mse": made(calibrator, "mse")}
        return _with_comparisons(nearest(both, context.evaluator, self.name), first, self.name)


def _with_comparisons(best: Candidate, first: Candidate, technique: str) -> Candidate:
    """The better of two comparisons, with the divergences of both."""
    mine, before = best.settings[technique], first.settings[technique]
    assert isinstance(mine, dict)
    assert isinstance(before, dict)
    compared = before.get("kl_of_variants", {}) | mine.get("kl_of_variants", {})
    return replace(best, settings={**best.settings, technique: {**mine, "kl_of_variants": compared}})


@dataclass(frozen=True, slots=True)
class Equalization:
    """Cross-layer equalization weighted by Fisher information, followed by a new calibration."""

    name: ClassVar[str] = "equalization"
    effort: ClassVar[Effort] = "quick"
    remedy: ClassVar[bool] = False

    context: QuantizationContext

    def predicted(self) -> float:
        """Predicted seconds: a short backward pass, the search for channel scales, and a pass with histograms."""
        evaluator, images = self.context.evaluator, len(self.context.calibration)
        search = _BALANCING * parameters(self.context.spec) / evaluator.macs_per_s
        return evaluator.pass_s * (_BACKWARDS * min(_LOOKED_AT, images) + _OBSERVED * images) + search

    def candidate(self, tried: Earlier, best: Best) -> Candidate:
        """The last candidate with other channel scales, calibrated as before or by least squared error.

        Equalized channels fill a range evenly, for which squared error is the measure. A first layer in float is kept
        even where uncorrected biases hide its gain: bias correction compares the candidates again.
        """
        context, base = self.context, tried[-1].candidate
        weights, (calibrator, method) = (
            rescaled(context.spec, context.weights, self._balanced(base)),
            chosen_scales(base),
        )
        layers = base.quantized.table.float_layers
        histograms = context.observed(weights, "calibrate, equalized", layers)

        def made(calibrator: str) -> Candidate:
            quantized = context.calibrated(weights, histograms, calibrator, method, layers)
            settings = {**base.settings, self.name: {"by": "importance", "calibrator": calibrator}}
            return Candidate(quantized, weights, settings, histograms=histograms)

        found = {name: made(name) for name in dict.fromkeys((calibrator, "mse"))}
        return nearest(found, context.evaluator, self.name)

    def _balanced(self, base: Candidate) -> Mapping[str, NDArray[np.float64]]:
        """Channel scales of least expected KL divergence, from each channel's importance and the present scales."""
        context, quantized = self.context, base.quantized
        few = min(_LOOKED_AT, len(context.calibration))
        with context.progress.task("importance of channels", few) as advance:
            found = importance(
                context.spec,
                context.weights,
                quantized.placement,
                context.images,
                limit=few,
                seed=context.seed,
                advance=advance,
            )
        return balancing_scales(quantized, found)


@dataclass(frozen=True, slots=True)
class FirstLayer:
    """The first convolution in float, where it has few of the MACs.

    The image is the most expensive tensor to round in a narrow network: its noise passes every layer, and its three
    channels, each with 256 levels of its own, share 256 codes.
    """

    name: ClassVar[str] = "first_layer"
    effort: ClassVar[Effort] = "quick"
    remedy: ClassVar[bool] = False

    context: QuantizationContext

    def predicted(self) -> float:
        """Predicted seconds: nearly none, since no image is read."""
        return 0.0

    def candidate(self, tried: Earlier, best: Best) -> Candidate | Refusal:
        """The best candidate so far with its first convolution in float, or why it stays in integers."""
        assert best is not None
        base, first = best.candidate, graph(self.context.spec).weighted[0].name
        if first not in base.quantized.table.weights:
            return Refusal(f"left out: {first} is in float already")
        share = share_of_macs(self.context.spec, (first,), self.context.preprocess.crop)
        if share > _FEW_MACS:
            return Refusal(f"left out: {first} has {100 * share:.1f} % of the MACs, more than {100 * _FEW_MACS:.0f} %")
        settings = {**base.settings, self.name: {"float_layers": [first], "float_share_of_macs": share}}
        quantized = left_in_float(base.quantized, base.reference, (first,))
        return replace(base, quantized=quantized, settings=settings)


@dataclass(frozen=True, slots=True)
class RangeSearch:
    """Activation ranges of least expected KL divergence."""

    name: ClassVar[str] = "range_search"
    effort: ClassVar[Effort] = "quick"
    remedy: ClassVar[bool] = False

    context: QuantizationContext

    @property
    def _images(self) -> int:
        return min(2 * _LOOKED_AT, len(self.context.calibration))

    def predicted(self) -> float:
        """Predicted seconds: a forward and a backward pass over a few images for all candidate ranges."""
        return 12 * self.context.evaluator.pass_s * self._images

    def candidate(self, tried: Earlier, best: Best) -> Candidate:
        """The last candidate with other activation scales; their gain is compared once biases are corrected."""
        context, base = self.context, tried[-1].candidate
        with context.progress.task("refine activation ranges", self._images) as advance:
            made = refined(base.quantized, context.images, limit=self._images, seed=context.seed, advance=advance)
        return replace(base, quantized=made, settings={**base.settings, self.name: {"images": self._images}})


def chosen_scales(base: Candidate) -> tuple[str, WeightMethod]:
    """Calibrator and weight method of a candidate."""
    settings = base.settings["calibrate"]
    assert isinstance(settings, dict)
    return settings["calibrator"], settings["weights"]


@dataclass(frozen=True, slots=True)
class BiasCorrection:
    """Empirical bias correction: removes the mean error that quantization adds to each channel."""

    name: ClassVar[str] = "bias_correction"
    effort: ClassVar[Effort] = "quick"
    remedy: ClassVar[bool] = False

    context: QuantizationContext

    def predicted(self) -> float:
        """Predicted seconds: a float and a quantized pass for every candidate that is corrected, at most three."""
        return 12 * self.context.evaluator.pass_s * self._images

    def candidate(self, tried: Earlier, best: Best) -> Candidate:
        """The best candidate so far or a later one, whichever is nearest to float with corrected biases.

        Other ranges and channel scales move the means of channels, so their gain is visible only after the correction.
        """
        assert best is not None
        bases = {one.technique: one.candidate for one in (best, *tried[-2:])}
        return nearest({name: self._corrected(base) for name, base in bases.items()}, self.context.evaluator, self.name)

    @property
    def _images(self) -> int:
        return min(_MEANS, len(self.context.calibration))

    def _corrected(self, base: Candidate) -> Candidate:
        context = self.context
        reference = Network(context.spec, base.reference).eval()
        few = context.calibration.take(range(self._images))
        with context.progress.task("correct biases", self._images) as advance:
            corrected = empirical_bias(reference, base.quantized, lambda: context.evaluator.images(few), advance)
        settings = {**base.settings, self.name: {"images": self._images}}
        return replace(base, quantized=corrected, settings=settings)
