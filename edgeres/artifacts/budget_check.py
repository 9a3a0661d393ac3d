"""``BudgetCheck``: one figure against its limit, measured or predicted."""

from __future__ import annotations

from typing import Literal

from edgeres.settings import settings

Status = Literal["passed", "failed", "unmeasured"]


@settings
class Predicted:
    """A predicted figure with its band; ``basis`` is its source and the error of such predictions, one sentence."""

    value: float
    low: float
    high: float
    basis: str


Figure = Literal["gpu_compute", "host_latency"]
"""Kind of latency of one call: GPU compute time, or host latency from launch to the end of the last kernel."""

PredictedStatus = Literal["", "passes", "fails", "open"]
"""Predicted status of an unmeasured line: the whole band meets the limit, exceeds it, or neither."""


@settings
class BudgetCheck:
    """One budget line.

    A prediction is not a status: an unmeasured line stays ``unmeasured``, whatever is predicted. ``passed`` takes a
    measured or closed-form value.

    Attributes:
        name: The limited figure, with its unit: ``accuracy_drop_pp``, ``macs_g``, ``latency_p50_ms``.
        how: Method of the value, or why there is none.
        source: Source of the limit; ``derivation`` is how a documented one was scaled.
        figure: Kind of latency of a latency line; None for others.
    """

    name: str
    value: float | None
    limit: float
    status: Status
    how: str
    source: str
    derivation: str = ""
    figure: Figure | None = None
    predicted: Predicted | None = None
    predicted_status: PredictedStatus = ""

    def __post_init__(self) -> None:
        """Refuses a prediction of a measured figure, and a predicted status that its band does not support."""
        if (self.predicted is None) is not (self.predicted_status == ""):
            raise ValueError(
                f"{self.name} has a prediction without a predicted_status, or a predicted_status without a prediction"
            )
        if self.predicted is None:
            return
        if self.status != "unmeasured":
            raise ValueError(f"{self.name} is {self.status} and predicted all the same")
        passes, fails = self.predicted.high <= self.limit, self.predicted.low > self.limit
        if self.predicted_status != ("passes" if passes else "fails" if fails else "open"):
            raise ValueError(f"{self.name} cannot be {self.predicted_status!r}: {self.predicted}, limit {self.limit}")
