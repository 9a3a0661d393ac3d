"""``QuantizationContext``, the inputs of all techniques, and ``Candidate``, a quantized network that one made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Literal

from edgeres.model.network import Network
from edgeres.quant.observer import observe
from edgeres.quant.placement import place
from edgeres.quant.quant_table import calibration_digest, quant_table, with_sketches
from edgeres.quant.quantized import Quantized
from edgeres.settings import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from pydantic import JsonValue

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.model.graph import Graph
    from edgeres.model.weights import Weights
    from edgeres.progress import Progress
    from edgeres.quant.calibration_table import CalibrationTable
    from edgeres.quant.calibrator import CalibratorName
    from edgeres.quant.histogram import Histogram
    from edgeres.quant.placement import Placement
    from edgeres.quant.qparams import WeightMethod
    from edgeres.quant.quant_table import QuantTable
    from edgeres.recovery.evaluator import Evaluation, Evaluator
    from edgeres.targets.target import QuantScheme


@dataclass(frozen=True, kw_only=True)
class TechniqueSettings:
    """Settings with which a technique made a candidate; techniques subclass it with fields of their own.

    ``kl_of_variants`` has the mean KL divergence from float in nats of every variant that the technique compared.
    """

    kl_of_variants: dict[str, float] = field(default_factory=dict)

    @property
    def record(self) -> dict[str, JsonValue]:
        """The settings as JSON data, without those that are None or empty; the comparison of variants comes last."""
        data = plain(self)
        data["kl_of_variants"] = data.pop("kl_of_variants")
        return {key: value for key, value in data.items() if value not in (None, {})}

    @property
    def note(self) -> str:
        """The settings in words, without the comparison of variants."""
        return ", ".join(f"{key} {value}" for key, value in self.record.items() if key != "kl_of_variants")


@dataclass(frozen=True, kw_only=True)
class Images(TechniqueSettings):
    """Number of calibration images that a technique read."""

    images: int


@dataclass(frozen=True, kw_only=True)
class FloatLayers(TechniqueSettings):
    """Layers that a technique left in float, with their share of the MACs, 0 to 1."""

    float_layers: tuple[str, ...]
    float_share_of_macs: float

    @property
    def note(self) -> str:
        """The layers, with their share in percent."""
        return f"in float: {', '.join(self.float_layers)} ({100 * self.float_share_of_macs:.1f} % of the MACs)"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A quantized network and how it was made.

    ``reference`` are float weights with the same channel scales; ``settings`` are those of the applied techniques by
    name, in order; ``rounded`` says that the weights lie on their grid already; ``histograms`` are those of
    ``reference``'s tensors, if there are any.
    """

    quantized: Quantized
    reference: Weights
    settings: Mapping[str, TechniqueSettings] = field(default_factory=dict)
    rounded: bool = False
    histograms: Mapping[str, Histogram] = field(default_factory=dict)

    @property
    def table(self) -> QuantTable:
        """Its scales with sketches of their tensors."""
        return with_sketches(self.quantized.table, self.histograms)

    @property
    def records(self) -> dict[str, JsonValue]:
        """The settings of the applied techniques as JSON data."""
        return {name: one.record for name, one in self.settings.items()}


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate of a technique with its metrics on the tuning images."""

    technique: str
    candidate: Candidate
    evaluation: Evaluation


def unrounded(tried: Sequence[Tried]) -> Candidate:
    """The best of the candidates whose weights are not on their grid yet, from which rounding starts."""
    best, *others = [one for one in tried if not one.candidate.rounded]
    for one in others:
        if one.evaluation.better_than(best.evaluation):
            best = one
    return best.candidate


HISTOGRAM_PASS = 1.3  # cost of a pass with histograms, in forward passes


@dataclass(frozen=True, slots=True)
class QuantizationContext:
    """Inputs that all techniques share.

    ``graph`` is the folded network with its float weights; ``calibration`` are the images for scales, rounding and
    biases. The first technique uses ``calibrator`` and the method of weight ranges, ``auto`` for those nearest to
    float, or the scales of a saved table instead. ``by_nncf`` is NNCF's network of an imported graph.
    """

    graph: Graph
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
    by_nncf: Quantized | None = None

    def placement(self, float_layers: tuple[str, ...] = ()) -> Placement:
        """Q/DQ placement with every layer of the scheme in integers, except for ``float_layers``."""
        return place(self.graph, self.scheme, float_layers)

    def images(self) -> Iterable[NDArray[np.float32]]:
        """Calibration images in batches."""
        return (batch for batch, _ in self.calibration.batches(self.preprocess))

    def observed(self, weights: Weights, label: str, float_layers: tuple[str, ...] = ()) -> dict[str, Histogram]:
        """Histograms of every activation that needs a scale."""
        tensors = self.placement(float_layers).observed
        with self.progress.task(label, len(self.calibration)) as advance:
            return observe(Network(self.graph, weights).eval(), self.images(), tensors, advance)

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
        return Quantized(self.graph, weights, replace(table, float_layers=float_layers), self.scheme)

    def evaluate(self, candidate: Candidate) -> Evaluation:
        """Metrics of a candidate on the tuning images."""
        return self.evaluator.evaluation(candidate.quantized, f"evaluate {list(candidate.settings)[-1]}")

    def nearest(self, variants: Mapping[str, Candidate], technique: str) -> Candidate:
        """The variant of a technique nearest to float, with the comparison in its settings; one is not evaluated."""
        if len(variants) == 1:
            return next(iter(variants.values()))
        name, divergences = self.evaluator.nearest({name: one.quantized for name, one in variants.items()}, technique)
        best = variants[name]
        finite = {name: kl for name, kl in divergences.items() if isfinite(kl)}
        settings = replace(best.settings[technique], kl_of_variants=finite)
        return replace(best, settings={**best.settings, technique: settings})
