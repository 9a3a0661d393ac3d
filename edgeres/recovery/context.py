"""``QuantizationContext``: float network, calibration images, scheme and evaluator, shared by all techniques."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Literal

from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.quant.observer import observe
from edgeres.quant.placement import place
from edgeres.quant.quantized import Quantized
from edgeres.quant.table import calibration_digest, quant_table, with_sketches

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights
    from edgeres.progress import Progress
    from edgeres.quant.histogram import Histogram
    from edgeres.quant.placement import Placement
    from edgeres.quant.quant_table import QuantTable
    from edgeres.recovery.evaluator import Evaluator
    from edgeres.targets.target import QuantScheme

CalibratorName = Literal["minmax", "moving_average", "percentile", "entropy", "mse"]
WeightMethod = Literal["max", "mse"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A quantized network and how it was made.

    Attributes:
        quantized: The network.
        reference: Float weights with the same channel scales, which only equalization changes.
        settings: Applied techniques and settings, in order.
        rounded: Whether its weights lie on their grid already, so that learned rounding does not apply.
        histograms: Calibration histograms of ``reference``'s tensors; empty where there are none.
    """

    quantized: Quantized
    reference: Weights
    settings: Mapping[str, object] = field(default_factory=dict)
    rounded: bool = False
    histograms: Mapping[str, Histogram] = field(default_factory=dict)

    @property
    def table(self) -> QuantTable:
        """Its scales with sketches of their tensors."""
        return with_sketches(self.quantized.table, self.histograms)


@dataclass(frozen=True, slots=True)
class QuantizationContext:
    """Inputs that all techniques share.

    Attributes:
        spec: The folded network.
        weights: Its float weights.
        scheme: The target's quantization scheme.
        calibration: Images for scales, rounding and biases.
        preprocess: Preprocessing of images.
        seed: Seed of all random generators.
        evaluator: Compares candidates with float.
        progress: Progress reporter.
    """

    spec: ResNetSpec
    weights: Weights
    scheme: QuantScheme
    calibration: Split
    preprocess: Preprocess
    seed: int
    evaluator: Evaluator
    progress: Progress

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


def nearest(variants: Mapping[str, Candidate], evaluator: Evaluator, technique: str) -> Candidate:
    """The variant of a technique that is nearest to float on the tuning images; a single one is not evaluated.

    Args:
        variants: Candidates by name.
        evaluator: Compares the variants.
        technique: Technique whose settings name the comparison.
    """
    if len(variants) == 1:
        return next(iter(variants.values()))
    found = evaluator.nearest({name: one.quantized for name, one in variants.items()}, technique)
    best, known = variants[found.name], {name: kl for name, kl in found.divergences.items() if isfinite(kl)}
    mine = best.settings[technique]
    assert isinstance(mine, dict)
    return replace(best, settings={**best.settings, technique: {**mine, "kl_of_variants": known}})
