"""NNCF's post-training quantization as a candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeres.errors import StageError
from edgeres.onnx_graph.nncf import nncf_quantized
from edgeres.quant.table import calibration_digest
from edgeres.recovery.context import Candidate
from edgeres.recovery.search import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.recovery.context import QuantizationContext
    from edgeres.recovery.search import Effort, Tried

_PASSES = 6.0
_START_S = 15.0
"""Seconds of NNCF's start-up, and float passes over the images after it."""


@dataclass(frozen=True, slots=True)
class Nncf:
    """NNCF's post-training quantization under the target's scheme, from the float network."""

    name: ClassVar[str] = "nncf"
    effort: ClassVar[Effort] = "max"
    remedy: ClassVar[bool] = False

    context: QuantizationContext

    def predicted(self) -> float:
        """Predicted seconds: NNCF's passes over the calibration images."""
        return _START_S + _PASSES * self.context.evaluator.pass_s * len(self.context.calibration)

    def candidate(self, tried: Sequence[Tried[Candidate]], best: Tried[Candidate] | None) -> Candidate | Refusal:
        """NNCF's network, or why there is none."""
        context = self.context
        images = _Singles(context.calibration, context.preprocess)
        data = calibration_digest(context.calibration, context.preprocess)
        try:
            with context.progress.task("quantize by NNCF", len(images)) as advance:
                made = nncf_quantized(context.spec, context.weights, context.scheme, images, advance, data=data)
        except StageError as failure:
            return Refusal(f"left out: {failure.what}")
        settings = {self.name: {"calibrator": made.table.calibrator}}
        seen = tried[0].candidate.histograms if tried else {}  # the first candidate observed the same float network
        return Candidate(made, context.weights, settings, rounded=True, histograms=seen)


@dataclass(frozen=True, slots=True)
class _Singles:
    """Images one at a time, iterable many times."""

    split: Split
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.split)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (batch for batch, _ in self.split.batches(self.preprocess, 1))
