"""Comparison of two runs, from their reports alone, and its HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from edgeres.errors import UsageError
from edgeres.report.html import page
from edgeres.report.markup import Markup, bullets, how, join, section, table, tag
from edgeres.runs.figures import bytes_, change, millis, percent, points, scaled, seconds, short
from edgeres.runs.verdict import headline, outcome, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from edgeres.runs.run import Run

Figure = float | str | None
ABSENT = "-"
_SECTIONS = {
    "facts": "Accuracy, costs, speed",
    "stages": "Seconds of each stage",
    "recipe": "Settings that differ",
    "inputs": "Inputs that differ",
    "versions": "Versions that differ",
}


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One figure of both runs, None where a run lacks it; ``write`` formats a value."""

    name: str
    first: Figure
    second: Figure
    write: Callable[[Any], str] = str

    @property
    def written(self) -> tuple[str, str, str]:
        """Both values and the change from the first to the second, as text."""
        first, second = (ABSENT if value is None else self.write(value) for value in (self.first, self.second))
        match self.first, self.second:
            case (int() | float()) as before, (int() | float()) as now:
                return first, second, points(now - before) if self.write in (percent, points) else change(now, before)
            case before, now:
                return first, second, "" if before == now else "differs"


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Figures of two runs; ``recipe`` (by ``stage.key``), ``inputs`` and ``versions`` hold only those that differ.

    ``stages`` are the seconds of each stage, ``notes`` are warnings that limit the comparison.
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
        facts=_facts(first, second),
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
        settings: dict[str, str] = {}
        for stage, (_, content) in zip(_numbered([name for name, _ in stages]), stages, strict=True):
            settings |= {stage: "there", **flat(content or {}, f"{stage}.")}
    except (yaml.YAMLError, RecursionError, AttributeError, TypeError) as failure:
        raise UsageError(
            "the locked recipe of a run is no list of stages", "compile again to write it anew"
        ) from failure
    return settings


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings flattened to dotted keys and formatted values."""
    settings: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, dict) and value:
            settings |= flat(value, f"{prefix}{key}.")
        else:
            settings[f"{prefix}{key}"] = str(value)
    return settings


def _aligned(
    first: Mapping[str, Any], second: Mapping[str, Any], write: Callable[[Any], str]
) -> Iterable[ComparisonRow]:
    return (ComparisonRow(name, first.get(name), second.get(name), write) for name in {**first, **second})


def _facts(first: Run, second: Run) -> tuple[ComparisonRow, ...]:
    def row(name: str, figure: Callable[[Run], Figure], write: Callable[[Any], str] = str) -> ComparisonRow:
        return ComparisonRow(name, figure(first), figure(second), write)

    def accuracy(field: str) -> Callable[[Run], float | None]:
        return lambda run: getattr(run.accuracy, field) if run.accuracy else None

    def last(field: str) -> Callable[[Run], float | None]:
        return lambda run: next((v for r in reversed(run.stages) if (v := getattr(r, field)) is not None), None)

    def size(run: Run) -> float | None:
        value = next((line.value for line in run.lines if line.name == "size_mib"), None)
        return last("mib")(run) if value is None else value

    metric = first.metric if first.metric == second.metric else "score"
    latencies = tuple(_aligned(_latencies(first), _latencies(second), millis))
    return (
        row("verdict", outcome),
        row(f"{metric} deployed", accuracy("deployed_score"), percent),
        row(f"{metric} float", accuracy("float_score"), percent),
        row("drop", accuracy("drop_pp"), points),
        row("MACs", last("macs"), scaled),
        row("parameters", last("parameters"), scaled),
        row("size", size, lambda mib: bytes_(round(mib * (1 << 20)))),
        *(latencies or (ComparisonRow("latency", "unmeasured", "unmeasured"),)),
        row("integer layers", lambda run: f"{k.integer} of {k.weighted}" if (k := run.kernels) else None),
    )


def _latencies(run: Run) -> dict[str, float]:
    rows = run.timings.latency
    return {f"latency {name}, {row.variant}": getattr(row, f"{name}_ms") for row in rows for name in ("p50", "p90")}


def _numbered(names: Sequence[str]) -> list[str]:
    """Names with their number from the second occurrence on: ``evaluate``, ``evaluate#2``."""
    counts = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [name if count == 1 else f"{name}#{count}" for name, count in zip(names, counts, strict=True)]


def _seconds(run: Run) -> dict[str, float]:
    times = run.timings.stages
    return dict(zip(_numbered([time.stage for time in times]), (time.seconds for time in times), strict=True))


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


def comparison_page(
    names: tuple[str, str], runs: tuple[Run, Run], comparison: RunComparison, notes: Sequence[str]
) -> str:
    """The HTML page of two runs under the names that the user gave them; equal for equal runs."""
    heading = tag("h1", names[0], tag("span.quiet", " and "), names[1])
    top = tag("div.top", heading, *(_run(name, run) for name, run in zip(names, runs, strict=True)))
    sections = (_section(anchor, getattr(comparison, anchor), names) for anchor in _SECTIONS)
    header = tag("header", top, bullets("ul.notes", notes))
    return page(f"{names[0]} and {names[1]}", header, _SECTIONS.items(), *sections)


def _run(name: str, run: Run) -> Markup:
    result = outcome(run)
    pill = {"passed": "passed", "failed": "failed", "error": "failed", "incomplete": "unmeasured"}[result]
    why = f" {name}: {run.model} for {run.target.name} {reason(run)}"
    return tag("p.headline", tag(f"span.pill.{pill}", result.capitalize()), why)


def _section(anchor: str, rows: Sequence[ComparisonRow], names: tuple[str, str]) -> Markup:
    title = _SECTIONS[anchor]
    if not rows:
        return section(anchor, title, how("Nothing differs."))
    cells = [(row.name, *(_cell(text) for text in row.written)) for row in rows]
    return section(anchor, title, tag("div.prose", table(("", *names, "Change"), cells, title)))


def _cell(text: str) -> Markup:
    """A table cell; a long value may wrap, a figure may not."""
    return tag("span.wraps", text) if " " in text or len(text) > 24 else join(text)
