"""Calibration: scales from histograms of the calibration images, or those of a saved calibration table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from edgeres.quant.calibration_table import fitting
from edgeres.quant.calibrator import CALIBRATORS
from edgeres.quant.quantized import Quantized
from edgeres.recovery.context import HISTOGRAM_PASS, Candidate, TechniqueSettings
from edgeres.recovery.technique import Technique

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.quant.calibration_table import CalibrationTable
    from edgeres.quant.qparams import WeightMethod
    from edgeres.recovery.context import Tried


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings(TechniqueSettings):
    """Calibrator of the activations, method of the weight ranges, and the digest of the saved table if one was used."""

    calibrator: str
    weights: Literal["max", "mse", "kept"]
    scales: str | None = None

    @property
    def note(self) -> str:
        """Calibrator and method, and the number of variants that were compared."""
        nearest = f", nearest to float of {len(self.kl_of_variants)} variants" if self.kl_of_variants else ""
        return f"{self.calibrator}, weights {self.weights}{nearest}"


class Calibrate(Technique):
    """Scales from histograms, with weights rounded to nearest, or the scales of the context's saved table."""

    name = "calibrate"
    order = 10
    effort = "quick"

    def predicted(self) -> float:
        """Predicted seconds: one pass over the calibration images; none for saved scales."""
        if self.context.scales is not None:
            return 0.0
        return HISTOGRAM_PASS * self.context.evaluator.pass_s * len(self.context.calibration)

    def candidate(self, tried: Sequence[Tried], best: Tried | None) -> Candidate:
        """The best of the calibrators, then the best of the weight methods with it.

        Raises:
            DataError: The saved scales are for another network, scheme or preprocessing.
        """
        context = self.context
        if context.scales is not None:
            return self._saved(context.scales)
        histograms = context.observed(context.weights, "calibrate")

        def calibrated(calibrator: str, method: WeightMethod) -> Candidate:
            quantized = context.calibrated(context.weights, histograms, calibrator, method)
            settings = {self.name: CalibrateSettings(calibrator=calibrator, weights=method)}
            return Candidate(quantized, context.weights, settings, histograms=histograms)

        method: WeightMethod = "max" if context.weight_method == "auto" else context.weight_method
        calibrators = CALIBRATORS if context.calibrator == "auto" else (context.calibrator,)
        variants = {f"{calibrator}, {method}": calibrated(calibrator, method) for calibrator in calibrators}
        first = context.nearest(variants, self.name)
        if context.weight_method != "auto":
            return first
        calibrator = first.quantized.table.calibrator
        both = {f"{calibrator}, {method}": first, f"{calibrator}, mse": calibrated(calibrator, "mse")}
        second = context.nearest(both, self.name)
        compared = first.settings[self.name].kl_of_variants | second.settings[self.name].kl_of_variants
        return replace(second, settings={self.name: replace(second.settings[self.name], kl_of_variants=compared)})

    def _saved(self, saved: CalibrationTable) -> Candidate:
        context = self.context
        table = fitting(saved, context.graph, context.weights, context.scheme, context.preprocess)
        settings = {self.name: CalibrateSettings(calibrator=table.calibrator, weights="kept", scales=saved.digest)}
        return Candidate(Quantized(context.graph, context.weights, table, context.scheme), context.weights, settings)


TECHNIQUE = Calibrate
