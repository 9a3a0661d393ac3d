"""``Run``: contents of a report as one frozen value; ``docs/report-schema.md`` documents every field.

Durations, latencies and everything else that differs between two equal runs is under ``timings`` alone, so that the
rest of equal runs is equal. Derived values (status, headline, exit code) are no fields: see ``verdict``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from edgeres.artifacts.artifact import KernelCounts
from edgeres.artifacts.budget_check import BudgetCheck
from edgeres.artifacts.results import LayerSensitivity, StageMetrics, TechniqueResult
from edgeres.data.census import Census
from edgeres.latency.benchmark.result import BenchmarkResult
from edgeres.runs.findings import Accuracy, Calibration, Confusion, Count, Flip, Percent, Sha256
from edgeres.settings import settings
from edgeres.tasks.registry import task_kind

if TYPE_CHECKING:
    from edgeres.artifacts.artifact import Step
    from edgeres.artifacts.results import Latency

SCHEMA: Literal["edgeres.report/4"] = "edgeres.report/4"
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
    """Inputs of a run, with the locked recipe as YAML.

    ``data_kind`` is the kind of source, such as ``class folders``; empty where it was not recorded. ``census`` counts
    the source's images by what they are as stored; None where it was not recorded.
    ``weights`` are None when the run trained them, ``scales`` where images were observed, ``code`` (over edgeres' own
    source files) and ``cores`` where they were not recorded.
    """

    data: str
    data_kind: str = ""
    census: Census | None = None
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
class StageRow:
    """One stage with figures of the network after it, on the validation split; None where it did not measure them.

    ``top1`` is that of a classifier, ``score`` the metric of any other task, in percent.

    ``metrics`` has all other figures of the stage, ``techniques`` those that were left out too.
    """

    stage: str
    top1: Percent | None = None
    score: Percent | None = None
    macs: Count | None = None
    parameters: Count | None = None
    mib: float | None = None
    metrics: StageMetrics = StageMetrics()
    notes: tuple[str, ...] = ()
    techniques: tuple[TechniqueResult, ...] = ()

    @property
    def measured(self) -> float | None:
        """The metric of the run's task, in percent."""
        return self.score if self.top1 is None else self.top1

    @classmethod
    def of(cls, step: Step) -> StageRow:
        """The row of a finished stage: the metrics that all stages share have fields of their own."""
        columns = {name: getattr(step.metrics, name) for name in ("top1", "score", "macs", "parameters", "mib")}
        rest = replace(step.metrics, top1=None, score=None, macs=None, parameters=None, mib=None)
        return cls(stage=step.stage, **columns, metrics=rest, notes=step.notes, techniques=step.techniques)


@settings
class StageTime:
    """Duration of a stage and seconds of its parts by name; rows of the same name pair with ``StageRow`` in order.

    Parts are techniques, ``predicted`` ones of skipped techniques, and latencies of graphs; ``cached`` is a stage from
    the store.
    """

    stage: str
    cached: bool
    seconds: Annotated[float, Field(ge=0)]
    timings: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)


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

    @classmethod
    def of(cls, timed: Latency, *, variant: str, runtime: str, threads: int, how: str) -> LatencyRow:
        """The row of a latency that was measured at batch 1."""
        figures = {name: getattr(timed, name) for name in ("p50_ms", "p90_ms", "p99_ms", "n", "low_ms", "high_ms")}
        return cls(variant=variant, runtime=runtime, batch=1, threads=threads, how=how, **figures)


@settings
class Timings:
    """Figures that differ between two equal runs, as those of budget lines that ``is_timed``.

    ``unmeasured`` says why ``latency`` is empty.
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

    ``until`` is the last requested stage, or empty. ``accuracy`` and ``confusion`` are None before verification,
    ``kernels`` where they were not counted, ``calibration`` for a float network, ``provenance`` when the run failed
    before its inputs were known. ``sensitivity`` has the effect of quantizing each layer alone.
    """

    schema: Literal["edgeres.report/4"] = SCHEMA
    edgeres: str
    command: str
    model: str
    task: str = "classification"
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
    def metric(self) -> str:
        """What the scores of this run are, in percent: ``top-1``."""
        return task_kind(self.task).metric

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
