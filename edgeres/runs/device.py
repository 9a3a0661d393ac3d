"""``DeviceReport``: validated contents of ``device.json``, which a bundle's commands write on the device.

The file is copied between machines by the user, so every derived figure is checked: percentiles, intervals and bounds
are computed again from its samples and must agree with the stored ones.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from edgeres.backends.bundle.device import FORMAT, LEAST, MOST, figures, seal
from edgeres.errors import UsageError
from edgeres.runs.findings import Count, Sha256
from edgeres.settings import parse, settings

if TYPE_CHECKING:
    from pathlib import Path

_LARGEST = 4 << 20
"""Largest accepted ``device.json`` in bytes: 20,000 samples take a tenth of it."""
_SAME = 1e-9

Milliseconds = Annotated[float, Field(gt=0, le=600_000)]
Nanoseconds = Annotated[int, Field(ge=1_000, le=600_000_000_000)]
"""Duration of one inference: at least 1 us, at most 10 minutes."""
Positive = Annotated[int, Field(gt=0)]
Text = Annotated[str, Field(max_length=300)]
Temperature = Annotated[float, Field(ge=-60, le=200)]
Megahertz = Annotated[float, Field(ge=0, le=20_000)]


@settings
class DeviceMachine:
    """Board, processor and cores of the device."""

    board: Text | None
    cpu: Text
    cores: Positive | None
    machine: Text


@settings
class Executor:
    """The runtime, its version, and threads of the calling program."""

    name: Literal["tensorrt", "onnxruntime", "litert", "executorch"]
    version: Text
    threads: Positive


@settings
class DeviceKernels:
    """Layers by TensorRT's engine inspector: number of weighted layers, of those that read int8, and of every kind."""

    weighted: Count
    integer: Count
    kernels: dict[str, Count]

    def __post_init__(self) -> None:
        if self.integer > self.weighted:
            raise ValueError(f"{self.integer} of {self.weighted} weighted layers in int8")


@settings
class BuiltEngine:
    """The engine: sha256 of its ONNX file, TensorRT version and compute capability of the GPU."""

    plan_sha256: Sha256
    manifest_sha256: Sha256
    tensorrt: Text
    gpu: Text
    sm: Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")]
    driver: Positive
    census: DeviceKernels


@settings
class GoldenAnswers:
    """Comparison of the device's outputs with the golden outputs; see the bundle's ``device.compare``."""

    images: Positive
    top1_agreeing: Count
    max_abs_delta: Annotated[float, Field(ge=0)] | None
    tolerance: Annotated[float, Field(gt=0)]
    passed: bool

    def __post_init__(self) -> None:
        if self.passed is not (self.max_abs_delta is not None and self.max_abs_delta <= self.tolerance):
            raise ValueError("passed is not what max_abs_delta and tolerance amount to")
        if self.top1_agreeing > self.images:
            raise ValueError(f"top-1 agrees on {self.top1_agreeing} of {self.images}")


@settings
class Timing:
    """Latency of one image in ms: percentiles, the median's 95 % interval, bounds of the tail with 99 % confidence."""

    batch: Literal[1]
    warmup: Positive
    protocol: Text
    samples_ns: Annotated[tuple[Nanoseconds, ...], Field(min_length=LEAST, max_length=MOST)]
    p50: Milliseconds
    p90: Milliseconds
    p99: Milliseconds
    low: Milliseconds
    high: Milliseconds
    p90_high: Milliseconds | None
    p99_high: Milliseconds | None

    def __post_init__(self) -> None:
        for name, value in figures(self.samples_ns).items():
            stated = getattr(self, name)
            if (stated is None) is not (value is None) or (value and abs(stated - value) > _SAME * value):
                raise ValueError(f"{name} is {stated} and its samples say {value}")


@settings
class State:
    """Clocks, temperature and load of the device at one moment; see the bundle's ``device.conditions``."""

    load: Annotated[float, Field(ge=0)]
    governor: Text | None
    cpu_mhz: tuple[Megahertz, ...]
    gpu_mhz: dict[str, Megahertz]
    temperature_c: dict[str, Temperature]
    stolen_s: Annotated[float, Field(ge=0)] | None
    nvpmodel: Text | None


@settings
class Conditions:
    """The state of the device before and after the timing."""

    before: State
    after: State


@settings
class OwnImages:
    """Top-1 on the user's images on the device."""

    n: Positive
    right: Count
    classes: Positive

    def __post_init__(self) -> None:
        if self.right > self.n:
            raise ValueError(f"{self.right} of {self.n} images answered right")


@settings
class DeviceReport:
    """Contents of ``device.json`` without its seal.

    ``manifest_sha256`` identifies the run, ``model_sha256`` is of the executed file or of the one the engine was built
    from. ``images`` is the accuracy on the user's images, if there were any.
    """

    format: Literal[1]
    model: Text
    target: Text
    manifest_sha256: Sha256
    model_sha256: Sha256
    machine: DeviceMachine
    runtime: Executor
    engine: BuiltEngine | None
    golden: GoldenAnswers
    latency_ms: Timing
    conditions: Conditions
    images: OwnImages | None

    def __post_init__(self) -> None:
        if (self.engine is None) is (self.runtime.name == "tensorrt"):
            raise ValueError(f"{self.runtime.name} {'without' if self.engine is None else 'with'} an engine")
        if self.engine is not None and self.engine.manifest_sha256 != self.manifest_sha256:
            raise ValueError("the engine was built from another bundle")


def read_device(path: Path) -> DeviceReport:
    """Reads ``device.json``; ``UsageError`` where it was changed after it was written, or is inconsistent."""
    again = "measure again on the device"
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"{path} has {path.stat().st_size:,} bytes, more than a device writes", again)
        data: Any = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as failure:
        raise UsageError(f"cannot read {path}: {failure.strerror}", "name the device.json of a bundle") from failure
    except (ValueError, RecursionError) as failure:
        raise UsageError(f"{path} is no JSON: {failure}", again) from failure
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UsageError(f"{path} is no device report of format {FORMAT}", "name the device.json of a bundle")
    try:
        intact = data.pop("seal", None) == seal(data)
    except ValueError:  # a number too large for a float
        intact = False
    if not intact:
        raise UsageError(f"{path} is not what the device wrote (its seal is broken)", again)
    return parse(DeviceReport, data, str(path))


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is no measurement")
