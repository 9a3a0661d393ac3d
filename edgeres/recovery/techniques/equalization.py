"""Cross-layer equalization weighted by Fisher information, followed by a new calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeres.model.cost import parameters
from edgeres.quant.algorithms.channel_scaling import FIXED, channel_units, rescaled
from edgeres.quant.algorithms.equalization import balancing_scales
from edgeres.quant.algorithms.fisher_information import importance
from edgeres.recovery.context import HISTOGRAM_PASS, Candidate, TechniqueSettings
from edgeres.recovery.technique import NO_GRADIENT, Refusal, Technique
from edgeres.recovery.techniques.calibrate import CalibrateSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.recovery.context import Tried

_IMAGES = 64  # images whose gradients give the importance of a channel
_BACKWARDS = 8.0  # cost of a backward pass that keeps the gradient of every activation, in forward passes
_BALANCING = 2.4e4  # MACs per weight that the search for channel scales amounts to, measured on ResNet-18

_FIXED = "left out: no channel can be scaled, since what stands between layers is not homogeneous, such as SiLU"


@dataclass(frozen=True, kw_only=True)
class EqualizationSettings(TechniqueSettings):
    """Measure by which channels are scaled, and the calibrator of the new scales."""

    by: str = "importance"
    calibrator: str


class Equalization(Technique):
    """Cross-layer equalization weighted by Fisher information, followed by a new calibration."""

    name = "equalization"
    order = 30
    effort = "quick"
    changes_scales = True

    def predicted(self) -> float:
        """Predicted seconds: a short backward pass, the search for channel scales, and a pass with histograms."""
        evaluator, calibration = self.context.evaluator, self.context.calibration
        search = _BALANCING * parameters(self.context.graph) / evaluator.macs_per_s
        return evaluator.pass_s * (_BACKWARDS * self.images(_IMAGES) + HISTOGRAM_PASS * len(calibration)) + search

    def candidate(self, tried: Sequence[Tried], best: Tried | None) -> Candidate | Refusal:
        """The last candidate with other channel scales, calibrated as before or by least squared error.

        Equalized channels fill a range evenly, for which squared error is the measure. A first layer in float is kept
        even where uncorrected biases hide its gain: bias correction compares the candidates again.
        """
        context, base, images = self.context, tried[-1].candidate, self.images(_IMAGES)
        graph, placement, seed = context.graph, base.quantized.placement, context.seed
        if not graph.differentiable:
            return Refusal(NO_GRADIENT)
        if not any(np.any(channel_units(graph).of[op.inputs[0]] != FIXED) for op in graph.weighted if not op.rows):
            return Refusal(_FIXED)
        with context.progress.task("importance of channels", images) as advance:
            fisher = importance(
                graph,
                context.weights,
                placement,
                context.images,
                limit=images,
                seed=seed,
                direction=context.evaluator.task.direction,
                advance=advance,
            )
        weights = rescaled(graph, context.weights, balancing_scales(base.quantized, fisher))
        before, layers = base.settings["calibrate"], base.quantized.table.float_layers
        assert isinstance(before, CalibrateSettings)
        method = before.weights
        assert method != "kept"
        histograms = context.observed(weights, "calibrate, equalized", layers)

        def calibrated(calibrator: str) -> Candidate:
            quantized = context.calibrated(weights, histograms, calibrator, method, layers)
            settings = {**base.settings, self.name: EqualizationSettings(calibrator=calibrator)}
            return Candidate(quantized, weights, settings, histograms=histograms)

        variants = {name: calibrated(name) for name in dict.fromkeys((before.calibrator, "mse"))}
        return context.nearest(variants, self.name)


TECHNIQUE = Equalization
