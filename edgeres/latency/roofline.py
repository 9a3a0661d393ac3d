"""Roofline model: predicted latency of a network on a device that was not measured, or was measured with one network.

``host_latency = call + s * call_work / r + gpu_compute`` and ``gpu_compute = sum over kernels of
[s * max(ops / gain / r, bytes / (share * bandwidth)) + launch]``, rate ``r = efficiency * peak``: the roofline of
Williams et al. 2009 (CACM 52(4)) per kernel, a cost per launch, and a cost per call that only the host sees.

* ``ops`` are two per MAC of the tiles that cover a layer; ``gain`` is what Winograd's algorithm saves on a 3x3 of
  stride 1 (Lavin and Gray 2016, arXiv 1509.09308).
* ``bytes`` are input, weight and output. Jetsons move them at a fixed share of their memory's bandwidth. The other
  classes have ``balance / r`` per byte instead: at batch 1 their caches hold most activations, and public measurements
  do not give the memory's share. Weights are read once from memory, which is a lower bound of every kernel's time.
* ``s`` is 1 unless one network was measured on the device; then it is solved for so that the roofline gives the
  measured time.

The parameters are those of a ``KernelClass``. They are fitted to public measurements (``python -m
benchmarks.prediction``). The prediction errors on chips left out of the fit are stored with them, and give the band of
every prediction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Literal

from edgeres.errors import TargetError, UsageError
from edgeres.settings import parse, settings
from edgeres.targets.runtime import yaml_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.artifacts.budget_check import Figure
    from edgeres.latency.workload import Work
    from edgeres.targets.target import Target


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
    rows = yaml_files("rooflines")["classes"]
    return {row["name"]: parse(KernelClass, row, "classes.yaml", TargetError) for row in rows}


Bound = Literal["compute", "memory", "weights", "launch", "measured"]
_FIXED_SHARE = 0.8
"""Largest share of a measured latency that launches and calls may take; they are scaled down where they exceed it."""
_STEPS = 60
"""Bisection steps for ``s``: more than a double has binary digits."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Time of one kernel and its largest term; ``share_of_tiles`` is useful MACs over those of the covering tiles."""

    work: Work
    ms: float
    bound: Bound
    share_of_tiles: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """Roofline of one device, with the classes of its INT8 and of its float kernels.

    Attributes:
        float_bytes: Bytes of a float in its float kernels.
        peaks: Operations per second by bytes of a number; unpublished ones are missing.
        bandwidth: Bytes per second of the memory; None where unpublished.
        multiple: Channels per tile of its kernels.
        gpu: Whether GPU compute time and host latency are distinct figures.
        unlike: Why public measurements do not cover this device's efficiency; empty where they do.
        slowness: The ``s`` of the module's docstring.
        fixed: Factor on the class's launch and call times.
    """

    integer: KernelClass
    floating: KernelClass
    float_bytes: Literal[2, 4]
    peaks: dict[int, float]
    bandwidth: float | None
    multiple: int
    gpu: bool = False
    unlike: str = ""
    slowness: float = 1.0
    fixed: float = 1.0

    def main(self, works: Sequence[Work]) -> KernelClass:
        """The class that a prediction's band is taken from: that of the integer kernels, where there are any."""
        return self._kind(any(work.integer for work in works))[0]

    def _kind(self, integer: bool) -> tuple[KernelClass, int]:
        """Class of integer or of float kernels, and bytes of a number in them."""
        return (self.integer, 1) if integer else (self.floating, self.float_bytes)

    def missing(self, works: Sequence[Work]) -> str:
        """Why a network cannot be predicted without a measured one; empty where it can."""
        if self.unlike:
            return self.unlike
        for work in works:
            kind, width = self._kind(work.integer)
            if kind.efficiency is None:
                return f"public latencies of {kind.title} give no share of a peak"
            if width not in self.peaks:
                return f"the device profile has no {_PEAK[width]}"
        return ""

    def costs(self, works: Sequence[Work]) -> tuple[Cost, ...]:
        """Time of every kernel; residual adds are part of the convolution before them."""
        return tuple(self._cost(work) for work in works if work.kind != "add")

    def call_ms(self, works: Sequence[Work]) -> float:
        """Overhead of a call on the host, in milliseconds."""
        kind, width = self._kind(any(work.integer for work in works))
        return self.fixed * kind.call_ms + self.slowness * 1e3 * kind.call_gops * 1e9 / self._rate(kind, width)

    def total_ms(self, works: Sequence[Work], figure: Figure = "host_latency") -> float:
        """Host latency or GPU compute time of one image, in milliseconds."""
        call = self.call_ms(works) if figure == "host_latency" else 0.0
        return call + sum(cost.ms for cost in self.costs(works))

    def fixed_ms(self, works: Sequence[Work]) -> float:
        """The part of ``total_ms`` that does not depend on the image size: call, launches, and reads of weights."""
        return self.call_ms(works) + sum(self._fixed_ms(work) for work in works if work.kind != "add")

    def calibrated(self, works: Sequence[Work], measured_ms: float, figure: Figure = "host_latency") -> Roofline:
        """The roofline scaled so that it predicts the measured latency of a network with these kernels.

        Raises:
            UsageError: The latency is not above zero.
        """
        if not 0 < measured_ms < float("inf"):
            raise UsageError(f"a measured latency of {measured_ms} ms", "give milliseconds above zero")
        idle = replace(self, slowness=0.0, bandwidth=None).total_ms(works, figure)
        fixed = min(1.0, _FIXED_SHARE * measured_ms / idle) if idle else 1.0
        low, high = 0.0, 1.0
        while replace(self, slowness=high, fixed=fixed).total_ms(works, figure) < measured_ms:
            low, high = high, 2 * high
        for _ in range(_STEPS):
            middle = (low + high) / 2
            above = replace(self, slowness=middle, fixed=fixed).total_ms(works, figure) > measured_ms
            low, high = (low, middle) if above else (middle, high)
        scaled = replace(self, slowness=high, fixed=fixed)
        if scaled.total_ms(works, figure) > 1.001 * measured_ms:  # the memory is faster than its profile says
            return replace(self, bandwidth=None).calibrated(works, measured_ms, figure)
        return scaled

    def _fixed_ms(self, work: Work) -> float:
        kind, width = self._kind(work.integer)
        reached = (kind.bandwidth_share or 1.0) * self.bandwidth if self.bandwidth else float("inf")
        return 1e3 * (self.fixed * kind.layer_us * 1e-6 + width * work.weights / reached)

    def _cost(self, work: Work) -> Cost:
        kind, width = self._kind(work.integer)
        padded = work.padded_macs(self.multiple)
        gain = kind.gain if (work.kind, work.kernel, work.stride, work.groups) == ("conv", 3, 1, 1) else 1.0
        rate = self._rate(kind, width) / self.slowness if self.slowness else float("inf")
        moved = width * (work.activations + work.weights)
        by_share = kind.bandwidth_share * self.bandwidth if kind.bandwidth_share and self.bandwidth else None
        times: dict[Bound, float] = {
            "compute": 2 * padded / gain / rate,
            "memory": self.slowness * moved / by_share if by_share else kind.balance * moved / rate,
            "weights": width * work.weights / self.bandwidth if self.bandwidth else 0.0,
        }
        bound = max(times, key=lambda name: times[name])
        launch = self.fixed * kind.layer_us * 1e-6
        seconds = times[bound] + launch
        return Cost(work, 1e3 * seconds, "launch" if launch > times[bound] else bound, work.macs / (padded or 1))

    def _rate(self, kind: KernelClass, width: int) -> float:
        """Operations per second; a nominal value where no peak is known, which calibration corrects."""
        return (kind.efficiency or 1.0) * self.peaks.get(width, _NOMINAL / width)


_NOMINAL = 1e12
_ARM = ("neon", "dotprod", "i8mm")
_TENSOR_CORES, _TF32 = 7, 8
"""Compute capabilities from which on GPUs have tensor cores (Volta), and those compute FP32 as TF32 (Ampere)."""
_PEAK = {1: "int8_tops", 2: "fp16_tops", 4: "fp32_tops"}
FloatPrecision = Literal["fp16", "fp32"]
Precision = Literal["int8", "fp16", "fp32"]


def float_precisions(target: Target) -> tuple[FloatPrecision, ...]:
    """Precisions in which a target can run a float network; the first is its default."""
    isa = target.device.isa
    if target.latency_class == "gpu":
        return ("fp16", "fp32")
    if isa in _ARM:
        return ("fp32",) if isa == "neon" else ("fp32", "fp16")
    return ("fp32",) if isa or target.build_on == "host" else ("fp16",)


def roofline_of(target: Target, precision: Precision = "int8") -> Roofline:
    """The roofline of a target for networks of one precision, from its device profile.

    Float layers of an INT8 network run in the target's default precision: FP16 in a TensorRT engine, FP32 on CPUs. A
    device that is neither a GPU nor a CPU of known instructions nor this host is an NPU.
    """
    device, gpu = target.device, target.latency_class == "gpu"
    integer, floating = (kernel_classes()[name] for name in _classes(target, precision))
    width = float_precisions(target)[0] if precision == "int8" else precision
    tops = {1: device.int8_tops, 2: device.fp16_tops, 4: device.fp32_tops}
    if gpu and _generation(target) >= _TF32 and device.fp16_tops:
        tops[4] = device.fp16_tops / 2  # TensorRT computes FP32 as TF32 by default
    unlike = ""
    if gpu and not target.runtime.jetpack and _generation(target) < _TENSOR_CORES:
        unlike = "the roofline of a graphics card rests on tensor cores, which this one does not have"
    return Roofline(
        integer=integer,
        floating=floating,
        float_bytes=4 if width == "fp32" else 2,
        peaks={width: 1e12 * value for width, value in tops.items() if value is not None},
        bandwidth=None if device.bandwidth_gbs is None else device.bandwidth_gbs * 1e9,
        multiple=target.scheme.channel_multiple if target.scheme else 1,
        gpu=gpu,
        unlike=unlike,
    )


def _classes(target: Target, precision: Precision) -> tuple[str, str]:
    """Names of the classes of a target's INT8 kernels and of its float kernels."""
    isa = target.device.isa
    if target.latency_class == "gpu":
        if not target.runtime.jetpack:
            return "card", "card" if precision == "int8" else "card_float"
        generation = _generation(target)
        cores = "jetson" if generation >= _TF32 else "jetson_xavier" if generation >= _TENSOR_CORES else "jetson_cuda"
        return cores, "jetson_cuda" if precision == "fp32" and generation < _TF32 else cores
    if isa in _ARM:
        floating = "arm_fp16" if precision == "fp16" else "arm_fp32"
        return ("arm_int8" if isa == "neon" else "arm_dot"), floating
    return ("x86_int8", "x86_fp32") if isa or target.build_on == "host" else ("npu", "npu")


def _generation(target: Target) -> int:
    """Major compute capability of a GPU; without one in the profile, that of a current GPU."""
    return int((target.device.compute_capability or "8").partition(".")[0])
