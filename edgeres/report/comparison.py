"""Comparison of two runs, from their reports alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from edgeres.errors import UsageError
from edgeres.runs.figures import bytes_, change, millis, percent, points, scaled, seconds, short
from edgeres.runs.verdict import headline, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from edgeres.runs.run import Run

Figure = float | str | None
ABSENT = "-"


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One figure of both runs.

    Attributes:
        name: Name of the figure.
        first: Value in the first run; None where that run lacks it.
        second: Value in the second run.
        write: Formats a value.
    """

    name: str
    first: Figure
    second: Figure
    write: Callable[[Any], str] = str

    @property
    def written(self) -> tuple[str, str, str]:
        """Both values and the change from the first to the second, as text."""
        both = [ABSENT if value is None else self.write(value) for value in (self.first, self.second)]
        return both[0], both[1], self._change()

    def _change(self) -> str:
        match self.first, self.second:
            case (int() | float()) as before, (int() | float()) as now:
                return points(now - before) if self.write in (percent, points) else change(now, before)
            case before, now:
                return "" if before == now else "differs"


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Figures of two runs; ``inputs``, ``recipe`` and ``versions`` hold only those that differ.

    Attributes:
        facts: Verdict, accuracy, costs, latency, integer layers.
        stages: Seconds of each stage.
        recipe: Settings, by ``stage.key``.
        inputs: Model, target, weights, data and seed.
        versions: Packages and machine.
        notes: Warnings that limit the comparison.
    """

    facts: tuple[ComparisonRow, ...]
    stages: tuple[ComparisonRow, ...]
    recipe: tuple[ComparisonRow, ...]
    inputs: tuple[ComparisonRow, ...]
    versions: tuple[ComparisonRow, ...]
    notes: tuple[str, ...]


def compare(first: Run, second: Run) -> RunComparison:
    """Compares two runs."""
    inputs = tuple(differing(_inputs(first), _inputs(second)))
    notes = [f"{run.model} for {run.target.name}: {headline(run)}" for run in (first, second) if run.error]
    if any(row.name.startswith("images of validation") for row in inputs):
        notes.append("judged on different validation images: the accuracies do not compare")
    return RunComparison(
        facts=(*_accuracy(first, second), *_costs(first, second), *_speed(first, second)),
        stages=tuple(_aligned(_seconds(first), _seconds(second), seconds)),
        recipe=tuple(differing(_recipe(first), _recipe(second))),
        inputs=inputs,
        versions=tuple(differing(_versions(first), _versions(second))),
        notes=tuple(notes),
    )


def differing(first: Mapping[str, str], second: Mapping[str, str]) -> Iterable[ComparisonRow]:
    """The entries that differ, in order of the first mapping, then of the second."""
    return (row for row in _aligned(first, second, str) if row.first != row.second)


def settings_of(recipe: str) -> dict[str, str]:
    """A locked recipe as ``stage.key`` to value; each stage is a key as well, numbered from its second occurrence on.

    Raises:
        UsageError: The text is no list of stages.
    """
    try:
        entries: Any = yaml.safe_load(recipe) or []
        if not isinstance(entries, list):
            raise TypeError(type(entries).__name__)
        stages = [item for entry in entries for item in ({entry: {}} if isinstance(entry, str) else entry).items()]
        found: dict[str, str] = {}
        seen: Counter[str] = Counter()
        for name, content in stages:
            seen[name] += 1
            stage = name if seen[name] == 1 else f"{name}#{seen[name]}"
            found |= {stage: "there", **flat(content or {}, f"{stage}.")}
    except (yaml.YAMLError, RecursionError, AttributeError, TypeError) as failure:
        raise UsageError(
            "the locked recipe of a run is no list of stages", "compile again to write it anew"
        ) from failure
    return found


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings flattened to dotted keys and formatted values."""
    found: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value)
    return found


def _aligned(
    first: Mapping[str, Any], second: Mapping[str, Any], write: Callable[[Any], str]
) -> Iterable[ComparisonRow]:
    return (ComparisonRow(name, first.get(name), second.get(name), write) for name in {**first, **second})


def _accuracy(first: Run, second: Run) -> tuple[ComparisonRow, ...]:
    def found(run: Run, field: str) -> float | None:
        return getattr(run.accuracy, field) if run.accuracy else None

    def row(name: str, field: str, write: Callable[[Any], str]) -> ComparisonRow:
        return ComparisonRow(name, found(first, field), found(second, field), write)

    return (
        ComparisonRow("verdict", outcome(first), outcome(second)),
        row("top-1 deployed", "deployed_top1", percent),
        row("top-1 float", "float_top1", percent),
        row("drop", "drop_pp", points),
    )


def _costs(first: Run, second: Run) -> tuple[ComparisonRow, ...]:
    def last(run: Run, field: str) -> float | None:
        return next((value for row in reversed(run.stages) if (value := getattr(row, field)) is not None), None)

    def size(run: Run) -> float | None:
        line = next((line.value for line in run.lines if line.name == "size_mib"), None)
        return last(run, "mib") if line is None else line

    return (
        ComparisonRow("MACs", last(first, "macs"), last(second, "macs"), scaled),
        ComparisonRow("parameters", last(first, "parameters"), last(second, "parameters"), scaled),
        ComparisonRow("size", size(first), size(second), _mebibytes),
    )


def _mebibytes(size: float) -> str:
    return bytes_(round(size * (1 << 20)))


def _speed(first: Run, second: Run) -> tuple[ComparisonRow, ...]:
    def timed(run: Run) -> dict[str, float]:
        found = {}
        for row in run.timings.latency:
            for name in ("p50", "p90"):
                found[f"latency {name}, {row.variant}"] = float(getattr(row, f"{name}_ms"))
        return found

    def integer(run: Run) -> str | None:
        return f"{run.kernels.integer} of {run.kernels.weighted}" if run.kernels else None

    rows = tuple(_aligned(timed(first), timed(second), millis)) or (
        ComparisonRow("latency", "unmeasured", "unmeasured"),
    )
    return (*rows, ComparisonRow("integer layers", integer(first), integer(second)))


def _seconds(run: Run) -> dict[str, float]:
    found: dict[str, float] = {}
    seen: Counter[str] = Counter()
    for time in run.timings.stages:
        seen[time.stage] += 1
        found[time.stage if seen[time.stage] == 1 else f"{time.stage}#{seen[time.stage]}"] = time.seconds
    return found


def _recipe(run: Run) -> dict[str, str]:
    return settings_of(run.provenance.recipe) if run.provenance else {}


def _inputs(run: Run) -> dict[str, str]:
    p = run.provenance
    known = {"model": run.model, "target": run.target.name, "runtime": run.target.runtime}
    if p is None:
        return known
    known["scales"] = short(p.scales) if p.scales else "observed"
    known |= {"data": p.data, "weights": short(p.weights) if p.weights else "trained or published", "seed": str(p.seed)}
    return known | {f"images of {split.name}": f"{split.images:,}, {short(split.digest)}" for split in p.splits}


def _versions(run: Run) -> dict[str, str]:
    p = run.provenance
    if p is None:
        return {"edgeres": run.edgeres}
    code, cores = short(p.code) if p.code else "unknown", "unknown" if p.cores is None else str(p.cores)
    machine = {"Python": p.python, "platform": p.platform, "CPU": p.cpu, "cores": cores}
    return {"edgeres": run.edgeres, "code": code, **machine, **p.packages}
