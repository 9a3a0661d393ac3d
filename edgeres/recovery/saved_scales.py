"""Scales of an earlier calibration in place of a pass over images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeres.quant.calibration_table import fitting
from edgeres.quant.quantized import Quantized
from edgeres.recovery.context import Candidate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.quant.calibration_table import CalibrationTable
    from edgeres.recovery.context import Workshop
    from edgeres.recovery.search import Effort, Tried


@dataclass(frozen=True, slots=True)
class Reuse:
    """The first technique where a calibration table is given.

    Attributes:
        shop: What techniques share.
        saved: The table.
    """

    name: ClassVar[str] = "calibrate"
    effort: ClassVar[Effort] = "quick"
    remedy: ClassVar[bool] = False

    shop: Workshop
    saved: CalibrationTable

    def predicted(self) -> float:
        """Next to nothing: no image is read."""
        return 0.0

    def candidate(self, tried: Sequence[Tried[Candidate]], best: Tried[Candidate] | None) -> Candidate:
        """The float network with the table's scales.

        Raises:
            DataError: They are for another network, scheme or preprocessing.
        """
        shop = self.shop
        table = fitting(self.saved, shop.spec, shop.weights, shop.scheme, shop.preprocess)
        settings = {self.name: {"calibrator": table.calibrator, "weights": "kept", "scales": self.saved.digest}}
        return Candidate(Quantized(shop.spec, shop.weights, table, shop.scheme), shop.weights, settings)
