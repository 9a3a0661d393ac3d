"""Result of a benchmark, schema ``edgeres.bench/1``: latency of one network on every runtime of this host."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgeres.backends.backend import LayerTime
from edgeres.latency.benchmark.worker import Precision
from edgeres.settings import settings

__all__ = ["SCHEMA", "BenchmarkResult", "HostLoad", "LayerTime", "ProcessorPeak", "Ratio", "VariantResult"]

SCHEMA: Literal["edgeres.bench/1"] = "edgeres.bench/1"

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


@settings
class Ratio:
    """Speedup as a ratio of median latencies, with its 95 % bootstrap interval over rounds."""

    value: Positive
    low: Positive
    high: Positive

    @property
    def faster(self) -> bool:
        """Whether the whole interval is above one."""
        return self.low > 1

    @property
    def slower(self) -> bool:
        """Whether the whole interval is below one."""
        return self.high < 1


@settings
class VariantResult:
    """Latency of one variant at batch 1, in ms.

    ``low_ms`` to ``high_ms`` is the 95 % bootstrap interval of the median ``p50_ms`` of ``n`` calls in ``rounds``
    bursts; ``p10_ms`` is nearest to an idle machine.

    Attributes:
        version: Version of the runtime; empty where unknown.
        own: Whether it is the target's runtime.
        ships: Whether it is the variant that the run deploys.
        speedup: Speedup over the fastest float32 on any runtime; None where no float32 ran.
        over_float: Speedup over float32 on the same runtime; None for float32 itself, or where it did not run.
        to_fastest: Speedup over the fastest variant of all, at most about one.
        peak_share: Multiply-adds per second as a share of the processor's measured peak in that precision.
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
class ProcessorPeak:
    """Maximum and median of ``n`` measured peaks of the processor, in 1e9 multiply-adds per second of all threads.

    Other load of the machine lowers the median.
    """

    precision: Literal["int8", "float32"]
    gmacs: Positive
    median_gmacs: Positive
    n: Count


@settings
class HostLoad:
    """Host and its load during the benchmark.

    Attributes:
        cpu: Model name of the processor.
        cores: Number of processors this process may use.
        pinned: Processor ids of the threads.
        governor: Frequency governor; None where the kernel shows none, as in most virtual machines.
        load_before: One-minute load average before the workers started.
        load_after: The same at the end, the running worker included.
        stolen: Share of CPU time that the hypervisor took meanwhile; None where the kernel does not report it.
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
    """Latencies of all variants of one network.

    Attributes:
        target: Target it was compiled for.
        here: Whether the target's runtime was timed; other rows hold for this host alone.
        accurate: Whether INT8 kept the accuracy limit of its run; None without INT8 or without a limit.
        macs: Multiply-adds of one image.
        threads: Threads of each runtime.
        seconds: Duration of the rounds.
        rows: Variants, the fastest first.
        absent: Why a runtime is not among the rows, by name.
        layers: Kernel times of INT8 variants by runtime, the slowest first.
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
    rows: Annotated[tuple[VariantResult, ...], Field(min_length=1)]
    peaks: tuple[ProcessorPeak, ...] = ()
    machine: HostLoad
    absent: dict[str, str] = Field(default_factory=dict)
    layers: dict[str, tuple[LayerTime, ...]] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses rows that are not sorted by median latency."""
        if any(row.p50_ms > after.p50_ms for row, after in zip(self.rows, self.rows[1:], strict=False)):
            raise ValueError("rows are not sorted, the fastest first")
