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
from edgeres.runs.findings import Accuracy, Calibration, Confusion, Count, Flip, Sha256, TensorScale
from edgeres.runs.stage import StageRow, StageTime
from edgeres.settings import settings

__all__ = [
    "MEASURED_EACH_TIME",
    "SCHEMA",
    "Accuracy",
    "Calibration",
    "Confusion",
    "Device",
    "Failure",
    "FileRow",
    "Flip",
    "LatencyRow",
    "LayerSensitivity",
    "Provenance",
    "Run",
    "SplitRow",
    "StageRow",
    "StageTime",
    "TensorScale",
    "Timings",
    "is_timed",
]

SCHEMA: Literal["edgeres.report/3"] = "edgeres.report/3"
MEASURED_EACH_TIME = ("latency_", "peak_rss_")
"""Name prefixes of budget lines whose values differ from run to run."""
_ROUNDED = 1.5
"""Upper bound of value over limit for a value that rounds to its limit: it exceeds it by at most half of it."""


@settings
class Failure:
    """The error that ended a run.

    Attributes:
        stage: Stage that failed; empty when the run failed before its first one.
        kind: Class of the error, such as ``StageError``.
        what: The error and its place.
        hint: Remedy, or empty.
        exit_code: Exit code of the command.
    """

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
        data: Name of the data set.
        splits: Its splits.
        weights: sha256 of the initial weights; None when the run trained them.
        scales: sha256 of the given calibration table; None where images were observed.
        recipe: The recipe as YAML, locked.
        code: sha256 of edgeres' own source files, which distinguishes checkouts of one version; None where
            it was not recorded.
        seed: Seed of all random generators.
        python: Python version.
        platform: Operating system and architecture.
        cpu: CPU model.
        cores: Number of cores the run could use; None where it was not recorded.
        packages: Version of each package in use.
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
    """Latency of one inference call, in milliseconds.

    Attributes:
        variant: ``float32`` or ``int8``.
        runtime: Name of the runtime.
        batch: Images in a call.
        threads: Threads of the runtime.
        p50_ms: Median.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        n: Number of timed calls.
        low_ms: Lower end of the 95 % interval of the median.
        high_ms: Upper end of the interval.
        how: Place and method of the measurement, one sentence.
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
        stages: Durations of stages.
        lines: Budget lines whose values are timed or sampled: see ``is_timed``.
        latency: Latency measurements.
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
        """Refuses a line that is not timed."""
        for line in self.lines:
            _check(line, timed=True)


@settings
class Run:
    """A finished, stopped or failed run.

    Attributes:
        schema: Version of this layout.
        edgeres: Version of edgeres.
        command: The command line, quoted for a shell.
        model: Name of the network.
        target: The target.
        strict: Whether an unmeasured line fails the run.
        until: Last requested stage, or empty.
        error: Why the run ended early, or None.
        notes: Notes on the run as a whole.
        lines: Budget lines except those under ``timings``.
        stages: Stages that finished, in order.
        accuracy: None before verification.
        confusion: None before verification.
        flips: Images whose prediction differs from float, by index.
        kernels: None where they were not counted.
        calibration: None for a float network.
        sensitivity: Effect of quantizing each layer alone; empty where it was not measured.
        evidence: Results of checks, one sentence each.
        files: Files of the run folder by relative path.
        provenance: Inputs of the run; None when it failed before they were known.
        timings: Figures that differ from run to run.
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
        """Refuses a line whose status does not follow from its value, or that belongs under ``timings``."""
        for line in self.lines:
            _check(line, timed=False)

    @property
    def every_line(self) -> tuple[BudgetCheck, ...]:
        """All budget lines, the timed ones last."""
        return self.lines + self.timings.lines

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
    return line.name.startswith(MEASURED_EACH_TIME)


def _check(line: BudgetCheck, *, timed: bool) -> None:
    if is_timed(line) is not timed:
        raise ValueError(f"{line.name} belongs {'to the lines of the run' if timed else 'under timings'}")
    if line.status == "unmeasured" and line.value is not None:
        raise ValueError(f"{line.name} is unmeasured and has a value")
    if line.status == "passed" and (line.value is None or line.value >= _ROUNDED * line.limit > 0):
        raise ValueError(f"{line.name} cannot have passed: value {line.value}, limit {line.limit}")
