"""``Prediction``: latency of one image in ms on a device that is not measured, from a roofline, with its 90 % band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeres.artifacts.budget_check import Predicted
from edgeres.latency.roofline import float_precisions, roofline_of
from edgeres.latency.workload import of_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto

    from edgeres.artifacts.budget_check import Figure
    from edgeres.latency.roofline import Cost, Precision, Roofline
    from edgeres.latency.workload import Work
    from edgeres.targets.target import Target

_VALIDATED = (192, 288)
"""Sides in pixels around those of the public rows, 224 and 256."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A network whose latency of one image was measured on the device; it calibrates the roofline."""

    name: str
    works: tuple[Work, ...]
    ms: float
    precision: Precision = "int8"
    figure: Figure = "host_latency"


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted host latency of one image in milliseconds, which a latency budget limits.

    It is the time from launch to the end of the last kernel, copies of image and logits left out; ``low_ms`` to
    ``high_ms`` is the band that held 90 % of predictions for unseen devices.

    Attributes:
        costs: Time of every kernel.
        call_ms: Overhead of a call on the host.
        basis: Source of the prediction and error of such predictions, one sentence.
        notes: Warnings for the user.
        gpu_compute_ms: The part of ``ms`` that the GPU computes, trtexec's ``GPU Compute Time``; None where the two are
            equal.
    """

    ms: float
    low_ms: float
    high_ms: float
    costs: tuple[Cost, ...]
    call_ms: float
    basis: str
    notes: tuple[str, ...] = ()
    gpu_compute_ms: float | None = None

    @property
    def predicted(self) -> Predicted:
        """The prediction as artifacts and reports store it."""
        return Predicted(value=self.ms, low=self.low_ms, high=self.high_ms, basis=self.basis)


def predict(model: ModelProto, target: Target) -> Prediction | None:
    """Predicted latency of an ONNX graph on a target, from its device profile alone.

    None where the profile lacks a peak, or public measurements lack the class of kernels.
    """
    works = of_model(model)
    roofline = roofline_of(target, "int8" if any(work.integer for work in works) else float_precisions(target)[0])
    return None if roofline.missing(works) else predicted(works, roofline)


def predicted(works: Sequence[Work], roofline: Roofline, measured: Measured | None = None) -> Prediction:
    """Predicted latency of a network by a device's roofline, calibrated by a network ``measured`` on that device.

    Without one, ``roofline.missing(works)`` must be empty.
    """
    kind = roofline.main(works)
    error, basis = kind.uncalibrated, "a roofline from the device's peaks"
    if measured:
        roofline = roofline.calibrated(measured.works, measured.ms, measured.figure)
        error, basis = kind.calibrated, f"a roofline calibrated by {measured.name} ({measured.ms:g} ms)"
    assert error is not None
    ms, side = roofline.total_ms(works), works[0].side * works[0].stride
    unlike = f"the band comes from images of 224 to 256 pixels; these have about {side:g}"
    return Prediction(
        ms=ms,
        low_ms=ms / error.factor,
        high_ms=ms * error.factor,
        costs=roofline.costs(works),
        call_ms=roofline.call_ms(works),
        basis=f"{basis}; {kind.title}: {error}",
        notes=() if _VALIDATED[0] <= side <= _VALIDATED[1] else (unlike,),
        gpu_compute_ms=roofline.total_ms(works, "gpu_compute") if roofline.gpu else None,
    )
