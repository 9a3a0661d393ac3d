"""``Run``: contents of a report as one frozen value; ``docs/report-schema.md`` documents every field.

Durations, latencies and everything else that differs between two equal runs is under ``timings`` alone, so that the
rest of equal runs is equal. Derived values (status, headline, exit code) are no fields: see ``verdict``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgeres.artifacts.artifact import KernelCounts
from edgeres.artifacts.budget_check import BudgetCheck
from edgeres.artifacts.results import LayerSensitivity
from edgeres.latency.benchmark.result import BenchmarkResult
from edgeres.runs.findings import Accuracy, Calibration, Confusion, Count, Flip, Sha256
from edgeres.runs.stage import StageRow, StageTime
from edgeres.settings import settings

SCHEMA: Literal["edgeres.report/3"] = "edgeres.report/3"
_ROUNDED = 1.5
"""Upper bound of value over limit for a value that rounds to its limit: it exceeds it by at most half of it."""


@settings
class Failure:
    """The error that ended a run; the stage is empty when it failed before its first one."""

    stage: str
    kind: str
    what: str
    hint: str = ""
    exit_code: int = 1


@settings
class Device:
    """The target in a report, by names only."""

    name: str
    title: str
    backend: str
    runtime: str


@settings
class FileRow:
    """A file of the run folder."""

    sha256: Sha256
    size: Count


@settings
class SplitRow:
    """A data split: its name, number of images, and digest of their content and labels."""

    name: str
    images: Count
    digest: str


@settings
class Provenance:
    """Inputs of a run.

    Attributes:
        weights: sha256 of the initial weights; None when the run trained them.
        scales: sha256 of the given calibration table; None where images were observed.
        recipe: The recipe as YAML, locked.
        code: sha256 of edgeres' own source files, which distinguishes checkouts of one version; None where
            it was not recorded.
        cores: Number of cores the run could use; None where it was not recorded.
    """

    data: str
    splits: tuple[SplitRow, ...] = ()
    weights: Sha256 | None = None
    scales: Sha256 | None = None
    recipe: str
    code: Sha256 | None = None
    seed: int
    python: str
    platform: str
    cpu: str
    cores: Count | None = None
    packages: dict[str, str] = Field(default_factory=dict)


@settings
class LatencyRow:
    """Latency percentiles of ``n`` calls of the ``float32`` or ``int8`` network, and the median's 95 % interval, in ms.

    ``how`` is the place and method of the measurement, one sentence.
    """

    variant: str
    runtime: str
    batch: Annotated[int, Field(gt=0)]
    threads: Annotated[int, Field(gt=0)]
    p50_ms: Annotated[float, Field(ge=0)]
    p90_ms: Annotated[float, Field(ge=0)]
    p99_ms: Annotated[float, Field(ge=0)]
    n: Annotated[int, Field(gt=0)]
    low_ms: Annotated[float, Field(ge=0)]
    high_ms: Annotated[float, Field(ge=0)]
    how: str


@settings
class Timings:
    """Figures that differ between two equal runs.

    Attributes:
        total_s: Wall time of the run in seconds; None when it was not recorded.
        lines: Budget lines whose values are timed or sampled: see ``is_timed``.
        unmeasured: Why ``latency`` is empty; one sentence.
        bench: Benchmark of the runtimes of this host; None where it was not run.
    """

    total_s: float | None = None
    stages: tuple[StageTime, ...] = ()
    lines: tuple[BudgetCheck, ...] = ()
    latency: tuple[LatencyRow, ...] = ()
    unmeasured: str = ""
    bench: BenchmarkResult | None = None

    def __post_init__(self) -> None:
        for line in self.lines:
            _check(line, timed=True)


@settings
class Run:
    """A finished, stopped or failed run.

    Attributes:
        command: The command line, quoted for a shell.
        strict: Whether an unmeasured line fails the run.
        until: Last requested stage, or empty.
        lines: Budget lines except those under ``timings``.
        stages: Stages that finished, in order.
        accuracy: None before verification, as are ``confusion`` and, where they were not counted, ``kernels``.
        flips: Images whose prediction differs from float, by index.
        calibration: None for a float network.
        sensitivity: Effect of quantizing each layer alone; empty where it was not measured.
        evidence: Results of checks, one sentence each.
        files: Files of the run folder by relative path.
        provenance: None when the run failed before its inputs were known.
    """

    schema: Literal["edgeres.report/3"] = SCHEMA
    edgeres: str
    command: str
    model: str
    target: Device
    strict: bool = False
    until: str = ""
    error: Failure | None = None
    notes: tuple[str, ...] = ()
    lines: tuple[BudgetCheck, ...] = ()
    stages: tuple[StageRow, ...] = ()
    accuracy: Accuracy | None = None
    confusion: Confusion | None = None
    flips: tuple[Flip, ...] = ()
    kernels: KernelCounts | None = None
    calibration: Calibration | None = None
    sensitivity: tuple[LayerSensitivity, ...] = ()
    evidence: tuple[str, ...] = ()
    files: dict[str, FileRow] = Field(default_factory=dict)
    provenance: Provenance | None = None
    timings: Timings = Timings()

    def __post_init__(self) -> None:
        for line in self.lines:
            _check(line, timed=False)

    @property
    def every_line(self) -> tuple[BudgetCheck, ...]:
        """All budget lines, the timed ones last."""
        return self.lines + self.timings.lines

    def limit_of(self, name: str) -> float | None:
        """Limit of a budget line; None where there is no such line."""
        return next((line.limit for line in self.every_line if line.name == name), None)

    def time_of(self, row: int) -> StageTime | None:
        """Duration of a row of ``stages``; None when that stage did not run this time."""
        name = self.stages[row].stage
        nth = sum(other.stage == name for other in self.stages[:row])
        times = [time for time in self.timings.stages if time.stage == name]
        return times[nth] if nth < len(times) else None

    def class_name(self, index: int) -> str:
        """Name of a class, or its index where names are unknown."""
        known = self.confusion is not None and index < len(self.confusion.classes)
        return self.confusion.classes[index] if self.confusion and known else str(index)


def is_timed(line: BudgetCheck) -> bool:
    """Whether a budget line belongs under ``timings``, because its value differs from run to run."""
    return line.name.startswith(("latency_", "peak_rss_"))


def _check(line: BudgetCheck, *, timed: bool) -> None:
    if is_timed(line) is not timed:
        raise ValueError(f"{line.name} belongs {'to the lines of the run' if timed else 'under timings'}")
    if line.status == "unmeasured" and line.value is not None:
        raise ValueError(f"{line.name} is unmeasured and has a value")
    if line.status == "passed" and (line.value is None or line.value >= _ROUNDED * line.limit > 0):
        raise ValueError(f"{line.name} cannot have passed: value {line.value}, limit {line.limit}")
