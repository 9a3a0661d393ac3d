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
    """A network whose latency was measured on the device; it calibrates the roofline.

    Attributes:
        name: Display name.
        works: Its kernels.
        ms: Measured latency of one image in milliseconds.
        precision: Precision of the measurement.
        figure: Host latency or GPU compute time.
    """

    name: str
    works: tuple[Work, ...]
    ms: float
    precision: Precision = "int8"
    figure: Figure = "host_latency"


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted host latency of one image in milliseconds, which a latency budget limits.

    Attributes:
        ms: Host latency: from launch to the end of the last kernel, copies of image and logits left out.
        low_ms: Lower end of the band that held 90 % of predictions for unseen devices.
        high_ms: Upper end of the band.
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

    Returns:
        The prediction; None where the profile lacks a peak, or public measurements lack the class of kernels.
    """
    works = of_model(model)
    roofline = roofline_of(target, "int8" if any(work.integer for work in works) else float_precisions(target)[0])
    return None if roofline.missing(works) else predicted(works, roofline)


def predicted(works: Sequence[Work], roofline: Roofline, measured: Measured | None = None) -> Prediction:
    """Predicted latency of a network by a roofline.

    Args:
        works: The network's kernels.
        roofline: Roofline of the device.
        measured: A network measured on that device; without one, ``roofline.missing(works)`` must be empty.
    """
    if measured:
        roofline = roofline.calibrated(measured.works, measured.ms, measured.figure)
        kind = roofline.main(works)
        missed, on = kind.calibrated, f"a roofline calibrated by {measured.name} ({measured.ms:g} ms)"
    else:
        kind = roofline.main(works)
        assert kind.uncalibrated is not None
        missed, on = kind.uncalibrated, "a roofline from the device's peaks"
    ms = roofline.total_ms(works)
    return Prediction(
        ms=ms,
        low_ms=ms / missed.factor,
        high_ms=ms * missed.factor,
        costs=roofline.costs(works),
        call_ms=roofline.call_ms(works),
        basis=f"{on}; {kind.title}: {missed}",
        notes=_notes(works),
        gpu_compute_ms=roofline.total_ms(works, "gpu_compute") if roofline.gpu else None,
    )


def _notes(works: Sequence[Work]) -> tuple[str, ...]:
    """Warnings where the network differs from those that the bands were validated on."""
    first = works[0]
    side = first.side * first.stride
    if _VALIDATED[0] <= side <= _VALIDATED[1]:
        return ()
    return (f"the band comes from images of 224 to 256 pixels; these have about {side:g}",)
