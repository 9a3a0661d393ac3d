"""Result of a benchmark, schema ``edgeres.bench/1``: latency of one network on every runtime of this host.

``sentences`` has the conclusions: the fastest variant, the one to deploy, and the layers that limit INT8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from edgeres.backends.backend import LayerTime
from edgeres.latency.benchmark.worker import Precision
from edgeres.settings import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA: Literal["edgeres.bench/1"] = "edgeres.bench/1"

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]

GATED = ("int8", "float32")
"""Precisions whose predictions the accuracy gate has compared; no other precision may be deployed."""
_NAMED = 5
"""Most layers that a sentence names."""


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
        cores: Number of processors this process may use.
        pinned: Processor ids of the threads.
        governor: None where the kernel shows none, as in most virtual machines.
        load_before: One-minute load average before the workers started; ``load_after`` includes the running worker.
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
        here: Whether the target's runtime was timed; other rows hold for this host alone.
        accurate: Whether INT8 kept the accuracy limit of its run; None without INT8 or without a limit.
        macs: Multiply-adds of one image.
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


def sentences(result: BenchmarkResult) -> tuple[str, ...]:
    """All conclusions of a benchmark, the most important first."""
    lines = [_fastest(result)]
    if not result.here:
        lines.append(f"none of this was timed on {result.target}: its runtime does not run here")
    lines += filter(None, (_deployed_sentence(result), _other_runtime(result)))
    if result.rows[0].precision not in GATED:
        lines.append(f"the accuracy gate has not checked {result.rows[0].name}")
    lines += [_non_integer_time(row, result.layers[row.runtime]) for row in _slower_than_float(result)]
    return tuple(lines)


def bottlenecks(layers: Sequence[LayerTime]) -> tuple[LayerTime, ...]:
    """Weighted layers that run in float and kernels that only change layout or type, the slowest first."""
    limiting = (layer for layer in layers if layer.role in ("float", "reformat"))
    return tuple(sorted(limiting, key=lambda layer: -layer.ms))


def should_ship(result: BenchmarkResult) -> VariantResult | None:
    """The variant to deploy on the target's runtime; None where that runtime was not timed.

    It is INT8, unless float32 is significantly faster or INT8 broke the accuracy limit.
    """
    own = {row.precision: row for row in result.rows if row.own and row.precision in GATED}
    int8 = own.get("int8")
    if int8 is None or result.accurate is False or (int8.over_float is not None and int8.over_float.slower):
        return own.get("float32")
    return int8


def _fastest(result: BenchmarkResult) -> str:
    first = result.rows[0]
    text = f"fastest: {first.name}, {first.p50_ms:.3g} ms"
    if first.speedup and first.precision != "float32":
        text += f", {_times(first.speedup)} as fast as the fastest float32"
    tied = [row.name for row in result.rows[1:] if row.to_fastest.high >= 1]
    return f"{text}; not distinguishable from {' and '.join(tied)}" if tied else text


def _deployed_sentence(result: BenchmarkResult) -> str:
    """Whether the deployed variant is the one that should be deployed."""
    best, ships = should_ship(result), next((row for row in result.rows if row.ships), None)
    if best is None or ships is None:
        return ""
    over = ships.over_float
    if best is not ships:
        why = "broke its accuracy limit" if result.accurate is False else f"is {_times(over)} as fast as float32"
        return f"ship the float variant: {ships.name} {why}; compile again with --variant float"
    if over is None:
        return f"what ships: {ships.name}"
    if not over.faster:
        return f"what ships: {ships.name}, which is not distinguishable from float32 there ({_times(over)} as fast)"
    return f"what ships: {ships.name}, {_times(over)} as fast as float32 there"


def _other_runtime(result: BenchmarkResult) -> str:
    """A faster runtime than the target's, among the variants that kept the accuracy limit."""
    best = should_ship(result)
    fit = [row for row in result.rows if row.precision == "float32" or (row.precision == "int8" and result.accurate)]
    if best is None or not fit or fit[0].own or best.to_fastest.high >= fit[0].to_fastest.low:
        return ""
    return f"{fit[0].name} takes {fit[0].p50_ms:.3g} ms where {best.name} takes {best.p50_ms:.3g} ms"


def _slower_than_float(result: BenchmarkResult) -> list[VariantResult]:
    """INT8 variants that are not faster than another precision and have a kernel profile."""
    int8 = [row for row in result.rows if row.precision == "int8" and row.runtime in result.layers]
    if result.rows[0].precision != "int8":
        return int8
    return [row for row in int8 if row.over_float is not None and not row.over_float.faster]


def _non_integer_time(row: VariantResult, layers: Sequence[LayerTime]) -> str:
    """Share of an INT8 variant's time in float layers and reformats."""
    total, limiting = sum(layer.ms for layer in layers), bottlenecks(layers)
    if not limiting:
        slow = ", ".join(f"{layer.name} {layer.ms:.3g} ms" for layer in layers[:_NAMED])
        return f"{row.name}: every weighted layer is in integers and nothing is reformatted; slowest: {slow}"
    share = sum(layer.ms for layer in limiting) / total
    named = ", ".join(f"{layer.name} ({layer.kind}, {layer.role}) {layer.ms:.3g} ms" for layer in limiting[:_NAMED])
    rest = f", and {len(limiting) - _NAMED} more" if len(limiting) > _NAMED else ""
    return f"{row.name}: {share:.0%} of its time is float layers and reformats: {named}{rest}"


def _times(ratio: Ratio | None) -> str:
    """``3.31 times (3.1 to 3.5)``."""
    assert ratio is not None
    return f"{ratio.value:.2f} times ({ratio.low:.2f} to {ratio.high:.2f})"
