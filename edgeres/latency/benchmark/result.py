"""``BenchmarkResult``: what was measured of one network on every runtime of this host, as it stands in a report."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgeres.backends.backend import LayerTime
from edgeres.latency.benchmark.worker_spec import Precision
from edgeres.settings import settings

__all__ = ["SCHEMA", "BenchmarkResult", "HostLoad", "LayerTime", "Peak", "Ratio", "Row"]

SCHEMA: Literal["edgeres.bench/1"] = "edgeres.bench/1"

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


@settings
class Ratio:
    """How many times as fast, with its 95 % bootstrap interval over rounds."""

    value: Positive
    low: Positive
    high: Positive

    @property
    def faster(self) -> bool:
        """Whether it is above one beyond noise."""
        return self.low > 1

    @property
    def slower(self) -> bool:
        """Whether it is below one beyond noise."""
        return self.high < 1


@settings
class Row:
    """One variant.

    Attributes:
        runtime: Name of the runtime.
        version: Its version; empty where it does not tell.
        precision: What it computes in.
        own: Whether it is the target's runtime.
        ships: Whether it is what the run ships.
        p50_ms: Median of one call.
        low_ms: Lower end of the 95 % bootstrap interval of the median.
        high_ms: Upper end of it.
        p10_ms: What a quiet machine comes nearest to.
        p90_ms: 90th percentile.
        n: Calls timed.
        rounds: Bursts they came in.
        speedup: Against the fastest float32 on any runtime; None where no float32 ran.
        over_float: Against float32 on the same runtime; None for float32 itself, or where it did not run.
        to_fastest: Against the fastest variant of all, at most about one.
        peak_share: Multiply-adds per second as a share of the processor's measured peak at that precision.
    """

    runtime: str
    version: str
    precision: Precision
    own: bool
    ships: bool
    p50_ms: Positive
    low_ms: Positive
    high_ms: Positive
    p10_ms: Positive
    p90_ms: Positive
    n: Count
    rounds: Count
    speedup: Ratio | None
    over_float: Ratio | None
    to_fastest: Ratio
    peak_share: Positive | None

    @property
    def name(self) -> str:
        """``int8 on openvino``."""
        return f"{self.precision} on {self.runtime}"


@settings
class Peak:
    """What the processor reaches with nothing but multiply-adds in registers, all threads together.

    Attributes:
        precision: ``int8`` or ``float32``.
        gmacs: Most 1e9 multiply-adds per second seen in any round.
        median_gmacs: The middle one, which has whatever else the machine did in it.
        n: How often it was measured.
    """

    precision: Literal["int8", "float32"]
    gmacs: Positive
    median_gmacs: Positive
    n: Count


@settings
class HostLoad:
    """The machine and what else it did.

    Attributes:
        cpu: Model name.
        cores: Processors that may be used.
        pinned: The ones that were.
        governor: Frequency governor; None where the kernel shows none, as in most virtual machines.
        load_before: Runnable processes over the last minute, before the workers began.
        load_after: The same at the end, the one running worker among them.
        stolen: Share of CPU time that the hypervisor took meanwhile; None where the kernel does not say.
    """

    cpu: str
    cores: Count
    pinned: tuple[int, ...]
    governor: str | None
    load_before: float
    load_after: float
    stolen: float | None


@settings
class BenchmarkResult:
    """A speed truth table.

    Attributes:
        network: Name of the network.
        target: The target it was compiled for.
        here: Whether the target's runtime was timed; other rows say nothing of another machine.
        accurate: Whether INT8 kept the accuracy limit of its run; None without INT8 or without a limit.
        macs: Multiply-adds of one image.
        threads: Of each runtime.
        seconds: What the rounds took.
        rows: Variants, the fastest first.
        peaks: What the processor reaches.
        machine: Where, and what else was going on.
        absent: Why a runtime is not among the rows, by name.
        layers: Kernels of INT8 variants by runtime, the slowest first.
    """

    schema: Literal["edgeres.bench/1"] = SCHEMA
    network: str
    target: str
    here: bool
    accurate: bool | None
    macs: Count
    threads: Count
    batch: Literal[1] = 1
    seconds: Positive
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    peaks: tuple[Peak, ...] = ()
    machine: HostLoad
    absent: dict[str, str] = Field(default_factory=dict)
    layers: dict[str, tuple[LayerTime, ...]] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses a table that is not sorted by speed."""
        if any(row.p50_ms > after.p50_ms for row, after in zip(self.rows, self.rows[1:], strict=False)):
            raise ValueError("rows are not sorted, the fastest first")
