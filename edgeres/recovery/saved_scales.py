"""Scales from a saved calibration table, without a pass over images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeres.quant.calibration_table import fitting
from edgeres.quant.quantized import Quantized
from edgeres.recovery.context import Candidate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.quant.calibration_table import CalibrationTable
    from edgeres.recovery.context import QuantizationContext
    from edgeres.recovery.search import Effort, Tried


@dataclass(frozen=True, slots=True)
class Reuse:
    """First technique where a calibration table is given.

    Attributes:
        context: Network, images and evaluator.
        saved: The table.
    """

    name: ClassVar[str] = "calibrate"
    effort: ClassVar[Effort] = "quick"
    remedy: ClassVar[bool] = False

    context: QuantizationContext
    saved: CalibrationTable

    def predicted(self) -> float:
        """Predicted seconds: nearly none, since no image is read."""
        return 0.0

    def candidate(self, tried: Sequence[Tried[Candidate]], best: Tried[Candidate] | None) -> Candidate:
        """The float network with the table's scales.

        Raises:
            DataError: The scales are for another network, scheme or preprocessing.
        """
        context = self.context
        table = fitting(self.saved, context.spec, context.weights, context.scheme, context.preprocess)
        settings = {self.name: {"calibrator": table.calibrator, "weights": "kept", "scales": self.saved.digest}}
        return Candidate(Quantized(context.spec, context.weights, table, context.scheme), context.weights, settings)
