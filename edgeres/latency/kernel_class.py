"""``KernelClass``: roofline parameters of one kind of runtime on one kind of device.

They are fitted to public measurements (``python -m benchmarks.prediction``). The prediction errors on chips left out of
the fit are stored with them, and give the band of every prediction.
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
    """Median and 90 % quantile of the relative error, in percent, on devices that were left out of the fit.

    90 % of the predictions were within ``factor``, either way. ``pooled`` errors are those of related classes, because
    the class has none of its own.
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
    """Roofline parameters of a class of kernels.

    Attributes:
        gain: Factor by which Winograd reduces the operations of a 3x3 of stride 1.
        balance: Operations in the time of one byte; 0 where ``bandwidth_share`` is used.
        bandwidth_share: Share of the memory's theoretical bandwidth that kernels reach; None where ``balance`` is used.
        layer_us: Fixed microseconds of a kernel beside its arithmetic and its bytes: launch, ramp and tail.
        call_ms: Fixed milliseconds of a call on the host, not on the GPU.
        call_gops: Fixed cost of a call in 1e9 operations, which takes longer on a slower device.
        efficiency: Share of the peak that the arithmetic reaches; None where public measurements have no peaks.
        calibrated: Error of predictions that were calibrated by another network on the same device.
        uncalibrated: Error of predictions from the device's peaks alone.
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
    """Every kernel class by name, with its fitted parameters."""
    path = files("edgeres.targets").joinpath("rooflines", "classes.yaml")
    data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {row["name"]: parse(KernelClass, row, "classes.yaml", TargetError) for row in data}
