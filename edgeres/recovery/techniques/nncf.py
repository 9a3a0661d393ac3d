"""NNCF's post-training quantization as a candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeres.errors import StageError
from edgeres.onnx_graph.nncf import nncf_quantized
from edgeres.quant.quant_table import calibration_digest
from edgeres.recovery.context import Candidate, TechniqueSettings
from edgeres.recovery.technique import Refusal, Technique

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.recovery.context import Tried

_PASSES = 6.0
_START_S = 15.0  # seconds of NNCF's start-up, and float passes over the images after it


@dataclass(frozen=True, kw_only=True)
class NncfSettings(TechniqueSettings):
    """Calibrator that NNCF's scales are recorded under."""

    calibrator: str


class Nncf(Technique):
    """NNCF's post-training quantization under the target's scheme, from the float network."""

    name = "nncf"
    order = 60
    effort = "max"
    from_float = True
    changes_scales = True

    def predicted(self) -> float:
        """Predicted seconds: NNCF's passes over the calibration images."""
        return _START_S + _PASSES * self.context.evaluator.pass_s * len(self.context.calibration)

    def candidate(self, tried: Sequence[Tried], best: Tried | None) -> Candidate | Refusal:
        """NNCF's network, or why there is none."""
        context = self.context
        images = _SingleImages(context.calibration, context.preprocess)
        data = calibration_digest(context.calibration, context.preprocess)
        try:
            with context.progress.task("quantize by NNCF", len(images)) as advance:
                quantized = nncf_quantized(context.spec, context.weights, context.scheme, images, advance, data=data)
        except StageError as failure:
            return Refusal(f"left out: {failure.what}")
        settings = {self.name: NncfSettings(calibrator=quantized.table.calibrator)}
        # The first candidate observed the same float network.
        histograms = tried[0].candidate.histograms if tried else {}
        return Candidate(quantized, context.weights, settings, rounded=True, histograms=histograms)


@dataclass(frozen=True, slots=True)
class _SingleImages:
    """Images one at a time, iterable many times."""

    split: Split
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.split)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (batch for batch, _ in self.split.batches(self.preprocess, 1))


TECHNIQUE = Nncf
