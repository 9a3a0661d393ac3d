"""``KernelClass``: parameters of the roofline of one kind of runtime on one kind of device.

They are fitted to public rows (``python -m benchmarks.prediction``); the errors on chips that the fit had not seen are
kept beside them, and are the band of every prediction.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from edgeres.errors import TargetError
from edgeres.settings import parse, settings


@settings
class PredictionError:
    """How far predictions were off on devices that the fit had not seen.

    Attributes:
        median_pct: Median relative error in percent.
        p90_pct: Its 90 % quantile.
        factor: 90 % of the predictions were within this factor, either way.
        predictions: How many there were.
        chips: On how many chips.
        pooled: Whether they are of related classes, because the class has none of its own.
    """

    median_pct: float
    p90_pct: float
    factor: float
    predictions: int
    chips: int
    pooled: bool = False

    def __str__(self) -> str:
        of = f"{self.predictions} predictions on {self.chips} chip{'s' if self.chips > 1 else ''} left out of the fit"
        of += ", of related classes" if self.pooled else ""
        return f"missed by {self.median_pct:g} % (median) and {self.p90_pct:g} % (p90) in {of}"


@settings
class KernelClass:
    """Kernels of one kind of runtime on one kind of device.

    Attributes:
        name: Identifier.
        title: One line for people.
        gain: Factor by which a 3x3 of stride 1 has fewer operations.
        balance: Operations in the time of one byte; 0 where bytes have a time of their own.
        bandwidth_share: Share of the memory's theoretical bandwidth that kernels reach; None where ``balance`` is used.
        layer_us: Microseconds that a kernel takes beside its arithmetic and its bytes: launch, ramp and tail.
        call_ms: Milliseconds of a call that the host sees and the GPU does not, whatever the network.
        call_gops: The same in 1e9 operations, so that a slower device takes longer over it.
        efficiency: Share of the peak its arithmetic reaches; None where public rows have no peaks.
        calibrated: What predictions missed that were calibrated by another network on the same device.
        uncalibrated: What predictions missed from the device's peaks alone.
    """

    name: str
    title: str
    gain: float = 1.0
    balance: float = 0.0
    bandwidth_share: float | None = None
    layer_us: float = 0.0
    call_ms: float = 0.0
    call_gops: float = 0.0
    efficiency: float | None = None
    calibrated: PredictionError
    uncalibrated: PredictionError | None = None


@cache
def kernel_classes() -> dict[str, KernelClass]:
    """Every class by name, as fitted."""
    path = files("edgeres.targets").joinpath("rooflines", "classes.yaml")
    data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {row["name"]: parse(KernelClass, row, "classes.yaml", TargetError) for row in data}
