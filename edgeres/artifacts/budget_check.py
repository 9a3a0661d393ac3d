"""``BudgetCheck``: one figure against its limit, measured or only predicted."""

from __future__ import annotations

from typing import Literal

from edgeres.settings import settings

Status = Literal["passed", "failed", "unmeasured"]


@settings
class Predicted:
    """A figure nobody measured, as a model of the device expects it.

    Attributes:
        low: Lower end of its band.
        high: Upper end of it.
        basis: What it rests on and how far such predictions were off, one sentence.
    """

    value: float
    low: float
    high: float
    basis: str


Figure = Literal["gpu_compute", "host_latency"]
"""Which latency of one call: what the GPU computes, or what the caller waits, from launch to the last kernel's end."""

PredictedStatus = Literal["", "passes", "fails", "open"]
"""What a prediction says of an unmeasured line: its whole band keeps the limit, breaks it, or neither."""


@settings
class BudgetCheck:
    """One line of a verdict.

    A prediction is no status of its own: an unmeasured line stays unmeasured for every reader that counts, and can pass
    by no oversight. What is expected of it stands beside, and is shown as such.

    Attributes:
        name: What is limited, with its unit: ``accuracy_drop_pp``, ``macs_g``, ``latency_p50_ms``.
        value: The figure, None where nobody measured it.
        limit: The most it may be.
        status: Never ``passed`` without a measured or closed-form value.
        how: How the value came about, or why there is none.
        source: Where the limit comes from.
        derivation: How a documented limit became this one; empty where it is as documented, or not documented.
        figure: Which latency a latency line is about, None for any other.
        predicted: What is expected of an unmeasured figure, None where nobody can tell.
        predicted_status: Where the band of that lies; empty without one.
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
        """Refuses a prediction of what was measured, and an predicted_status that its band does not support."""
        if (self.predicted is None) is not (self.predicted_status == ""):
            raise ValueError(
                f"{self.name} has a prediction without an predicted_status, or an predicted_status without a prediction"
            )
        if self.predicted is None:
            return
        if self.status != "unmeasured":
            raise ValueError(f"{self.name} is {self.status} and predicted all the same")
        passes, fails = self.predicted.high <= self.limit, self.predicted.low > self.limit
        if self.predicted_status != ("passes" if passes else "fails" if fails else "open"):
            raise ValueError(f"{self.name} cannot be {self.predicted_status!r}: {self.predicted}, limit {self.limit}")
