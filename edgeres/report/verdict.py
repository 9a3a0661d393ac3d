"""What a run amounts to: status, headline and exit code, derived from its facts so that they cannot contradict them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

from edgeres.report.figures import (
    OUTLOOKS,
    between,
    compared,
    confidence,
    foretold,
    integer_layers,
    line_title,
    millis,
    percent,
    points,
    relation,
)
from edgeres.report.remedy import remedies

if TYPE_CHECKING:
    from edgeres.artifact import Line
    from edgeres.report.run import Run

Outcome = Literal["passed", "failed", "incomplete", "error"]


def outcome(run: Run) -> Outcome:
    """``error``: a stage failed. ``failed``: a budget line failed. ``passed``: every line was measured and holds.

    ``incomplete`` is the rest: nothing failed, but something is unmeasured or the run stopped before its verdict.
    """
    if run.error:
        return "error"
    counts = line_counts(run)
    if counts["failed"]:
        return "failed"
    return "passed" if counts["passed"] and not counts["unmeasured"] else "incomplete"


def exit_code(run: Run) -> int:
    """0 nothing failed, the error's own code, 3 over a budget, 4 unmeasured under ``--strict``."""
    match outcome(run):
        case "error":
            return run.error.exit_code if run.error else 1
        case "failed":
            return 3
        case "incomplete":
            return 4 if run.strict and not run.until else 0
        case "passed":
            return 0


def line_counts(run: Run) -> Counter[str]:
    """How many budget lines have each status."""
    return Counter(line.status for line in run.every_line)


def headline(run: Run) -> str:
    """The verdict in one sentence, its first word the outcome."""
    return f"{outcome(run).capitalize()}: {run.model} for {run.target.name} {reason(run)}"


def reason(run: Run) -> str:
    """The headline without its first words: why the outcome is what it is."""
    counts, lines = line_counts(run), run.every_line
    failed = "; ".join(_broken(line) for line in lines if line.status == "failed")
    missing = ", ".join(_missing(line) for line in lines if line.status == "unmeasured")
    if run.error:
        where = f"stopped in {run.error.stage}" if run.error.stage else "did not start"
        also = f" (failed as well: {failed})" if failed else ""
        return f"{where}: {' '.join(run.error.what.split())}{also}"
    if failed:
        unmeasured = f"; {counts['unmeasured']} unmeasured" if missing else ""
        return f"breaks {counts['failed']} of {len(lines)} budget lines: {failed}{unmeasured}."
    if not lines:
        return f"stopped after {run.until}, as asked; nothing was judged." if run.until else "was not judged."
    if missing:
        return f"keeps {counts['passed']} of {len(lines)} budget lines; unmeasured: {missing}."
    kept = f"all {len(lines)} budget lines" if len(lines) > 1 else "its one budget line"
    return f"keeps {kept}{_at(run)}."


def _at(run: Run) -> str:
    if run.accuracy is None:
        return ""
    return f", top-1 {percent(run.accuracy.deployed_top1)} ({points(-run.accuracy.drop_pp)} against float)"


def _missing(line: Line) -> str:
    expected = f" ({OUTLOOKS[line.outlook]})" if line.outlook else ""
    return f"{line_title(line.name).lower()}{expected}"


def _broken(line: Line) -> str:
    value, limit = compared(line)
    stands = f"{value} {relation(line)} {limit}" if value else f"({line.how})"
    return f"{line_title(line.name).lower()} {stands}"


def summary_lines(run: Run) -> tuple[str, ...]:
    """The report in a few lines of plain text, for a console: headline, budget lines, key figures, remedies, notes.

    How a figure came about and what a prediction rests on stand in the report. What stopped a run is no line of these:
    it is an error, and printed as one.
    """
    found = [] if run.error else [headline(run)]
    width = max((len(line_title(line.name)) for line in run.every_line), default=0)
    for line in run.every_line:
        found.append(f"{line.status:<10}  {line_title(line.name):<{width}}  {_figure(line)}")
    if run.accuracy:
        a = run.accuracy
        interval = f"{confidence(a.level)} interval {between(a.low_pp, a.high_pp)}"
        found.append(
            f"top-1 {percent(a.deployed_top1)} deployed, {percent(a.float_top1)} float; "
            f"drop {points(a.drop_pp)} ({interval}) on {a.n:,} images"
        )
    found.extend(
        f"{row.variant} on {row.runtime}: p50 {millis(row.p50_ms)}, p90 {millis(row.p90_ms)} (batch {row.batch})"
        for row in run.timings.latency
    )
    if run.kernels:
        found.append(f"{integer_layers(run.kernels)} ({run.kernels.how})")
    return (*found, *remedies(run), *run.notes)


def _figure(line: Line) -> str:
    value, limit = compared(line)
    if value:
        return f"{value} {relation(line)} {limit}"
    if line.outlook:
        return f"limit {limit}; {OUTLOOKS[line.outlook]}: {foretold(line)}"
    return f"limit {limit}"
