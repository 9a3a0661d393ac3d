"""NNCF's post-training quantization as a candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeres.errors import StageError
from edgeres.onnx_graph.nncf import SingleImages, nncf_quantized
from edgeres.quant.quant_table import calibration_digest
from edgeres.recovery.context import Candidate, TechniqueSettings
from edgeres.recovery.technique import Refusal, Technique

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeres.quant.histogram import Histogram
    from edgeres.quant.quantized import Quantized
    from edgeres.recovery.context import Tried

_PASSES = 6.0
_START_S = 15.0  # seconds of NNCF's start-up, and float passes over the images after it


@dataclass(frozen=True, kw_only=True)
class NncfSettings(TechniqueSettings):
    """Calibrator that NNCF's scales are recorded under."""

    calibrator: str


class Nncf(Technique):
    """NNCF's post-training quantization under the target's scheme, from the float network.

    The placement of an imported graph comes from NNCF, whose network is at hand then and costs nothing more.
    """

    name = "nncf"
    order = 60
    effort = "max"
    from_float = True
    changes_scales = True

    @property
    def ready(self) -> bool:
        """Whether NNCF's network is at hand."""
        return self.context.by_nncf is not None

    def predicted(self) -> float:
        """Predicted seconds: NNCF's passes over the calibration images."""
        if self.ready:
            return 0.0
        return _START_S + _PASSES * self.context.evaluator.pass_s * len(self.context.calibration)

    def candidate(self, tried: Sequence[Tried], best: Tried | None) -> Candidate | Refusal:
        """NNCF's network, or why there is none."""
        context = self.context
        # The first candidate observed the same float network.
        histograms = tried[0].candidate.histograms if tried else {}
        if context.by_nncf is not None:
            return self._made(context.by_nncf, histograms)
        images = SingleImages(context.calibration, context.preprocess)
        data = calibration_digest(context.calibration, context.preprocess)
        try:
            with context.progress.task("quantize by NNCF", len(images)) as advance:
                quantized = nncf_quantized(context.graph, context.weights, context.scheme, images, advance, data=data)
        except StageError as failure:
            return Refusal(f"left out: {failure.what}")
        return self._made(quantized, histograms)

    def _made(self, quantized: Quantized, histograms: Mapping[str, Histogram]) -> Candidate:
        settings = {self.name: NncfSettings(calibrator=quantized.table.calibrator)}
        return Candidate(quantized, self.context.weights, settings, rounded=True, histograms=histograms)


TECHNIQUE = Nncf
