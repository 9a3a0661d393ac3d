"""``QuantizationContext``: float network, calibration images, scheme and evaluator, shared by all techniques."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Literal

from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.quant.observer import observe
from edgeres.quant.placement import place
from edgeres.quant.quantized import Quantized
from edgeres.quant.table import calibration_digest, quant_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights
    from edgeres.progress import Progress
    from edgeres.quant.calibration_table import CalibrationTable
    from edgeres.quant.calibrator import CalibratorName
    from edgeres.quant.histogram import Histogram
    from edgeres.quant.placement import Placement
    from edgeres.quant.weights import WeightMethod
    from edgeres.recovery.candidate import Candidate
    from edgeres.recovery.evaluation import Evaluation
    from edgeres.recovery.evaluator import Evaluator
    from edgeres.targets.target import QuantScheme

HISTOGRAM_PASS = 1.3
"""Cost of a pass with histograms, in forward passes."""


@dataclass(frozen=True, slots=True)
class QuantizationContext:
    """Inputs that all techniques share.

    ``spec`` is the folded network with its float weights; ``calibration`` are the images for scales, rounding and
    biases. The first technique uses ``calibrator`` and the method of weight ranges, ``auto`` for those nearest to
    float, or the scales of a saved table instead.
    """

    spec: ResNetSpec
    weights: Weights
    scheme: QuantScheme
    calibration: Split
    preprocess: Preprocess
    seed: int
    evaluator: Evaluator
    progress: Progress
    calibrator: Literal["auto"] | CalibratorName = "auto"
    weight_method: Literal["auto"] | WeightMethod = "auto"
    scales: CalibrationTable | None = None

    def placement(self, float_layers: tuple[str, ...] = ()) -> Placement:
        """Q/DQ placement with every layer of the scheme in integers, except for ``float_layers``."""
        return place(graph(self.spec), self.scheme, float_layers)

    def images(self) -> Iterable[NDArray[np.float32]]:
        """Calibration images in batches."""
        return (batch for batch, _ in self.calibration.batches(self.preprocess))

    def observed(self, weights: Weights, label: str, float_layers: tuple[str, ...] = ()) -> dict[str, Histogram]:
        """Histograms of every activation that needs a scale."""
        tensors = self.placement(float_layers).observed
        with self.progress.task(label, len(self.calibration)) as advance:
            return observe(Network(self.spec, weights).eval(), self.images(), tensors, advance)

    def calibrated(
        self,
        weights: Weights,
        histograms: Mapping[str, Histogram],
        calibrator: str,
        method: WeightMethod,
        float_layers: tuple[str, ...] = (),
    ) -> Quantized:
        """A network with scales from histograms."""
        table = quant_table(
            weights,
            histograms,
            self.placement(float_layers),
            self.scheme,
            calibrator=calibrator,
            method=method,
            data=calibration_digest(self.calibration, self.preprocess),
            images=len(self.calibration),
        )
        return Quantized(self.spec, weights, replace(table, float_layers=float_layers), self.scheme)

    def evaluate(self, candidate: Candidate) -> Evaluation:
        """Metrics of a candidate on the tuning images."""
        return self.evaluator.evaluation(candidate.quantized, f"evaluate {list(candidate.settings)[-1]}")

    def nearest(self, variants: Mapping[str, Candidate], technique: str) -> Candidate:
        """The variant of a technique that is nearest to float on the tuning images; a single one is not evaluated.

        The technique's settings in it record the comparison.
        """
        if len(variants) == 1:
            return next(iter(variants.values()))
        compared = self.evaluator.nearest({name: one.quantized for name, one in variants.items()}, technique)
        best = variants[compared.name]
        finite = {name: kl for name, kl in compared.divergences.items() if isfinite(kl)}
        settings = replace(best.settings[technique], kl_of_variants=finite)
        return replace(best, settings={**best.settings, technique: settings})
