"""``Prediction``: how long one image takes on a device that is not here, with its band. Never a measurement."""

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
    """A network somebody measured on the device.

    Attributes:
        name: What it is, for people.
        works: What its kernels had to do.
        ms: How long one image took.
        precision: What it was measured in.
        figure: Which latency that is.
    """

    name: str
    works: tuple[Work, ...]
    ms: float
    precision: Precision = "int8"
    figure: Figure = "host_latency"


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted latency of one image in milliseconds: what the host waits, which is what a latency budget limits.

    Attributes:
        ms: Host latency: from launch to the end of the last kernel, copies of image and answer left out.
        low_ms: Lower end of the band that 90 % of predictions for unseen devices lay in.
        high_ms: Upper end of it.
        costs: Every kernel's share.
        call_ms: What a call costs the host beside its kernels.
        basis: What it rests on and how far such predictions were off, one sentence.
        notes: What the user should know.
        gpu_compute_ms: The part of ``ms`` that the GPU computes, trtexec's ``GPU Compute Time``; None where the two
            figures are one.
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
        """As an artifact and a report keep it."""
        return Predicted(value=self.ms, low=self.low_ms, high=self.high_ms, basis=self.basis)


def predict(model: ModelProto, target: Target) -> Prediction | None:
    """What a roofline expects of an ONNX graph, from the device profile alone.

    Returns:
        None where the profile, or the public rows behind the class of kernels, do not tell.
    """
    works = of_model(model)
    roofline = roofline_of(target, "int8" if any(work.integer for work in works) else float_precisions(target)[0])
    return None if roofline.missing(works) else predicted(works, roofline)


def predicted(works: Sequence[Work], roofline: Roofline, measured: Measured | None = None) -> Prediction:
    """What a roofline expects of a network.

    Args:
        works: What its kernels have to do.
        roofline: The device's.
        measured: A network measured on that device; without one, the roofline must miss nothing for this network.
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
    """Where the network is not like those the bands come from."""
    first = works[0]
    side = first.side * first.stride
    if _VALIDATED[0] <= side <= _VALIDATED[1]:
        return ()
    return (f"the band comes from images of 224 to 256 pixels; these have about {side:g}",)
