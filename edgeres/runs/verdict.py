"""Verdict of a run: status, headline and exit code, derived from its figures."""

from __future__ import annotations

from collections import Counter
from textwrap import wrap
from typing import TYPE_CHECKING, Literal

from edgeres.runs.figures import (
    OUTLOOKS,
    between,
    compared,
    confidence,
    integer_layers,
    line_title,
    millis,
    percent,
    points,
    predicted_text,
    relation,
)
from edgeres.runs.remedy import remedies
from edgeres.runs.run import is_timed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.artifacts.budget_check import BudgetCheck
    from edgeres.runs.run import Run

Outcome = Literal["passed", "failed", "incomplete", "error"]
_WIDTH = 120
"""Most characters of a budget line on a console."""
_INDENT = " " * 12


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
    """Exit code: 0 nothing failed, the error's own code, 3 over a budget, 4 unmeasured under ``--strict``."""
    if run.error:
        return run.error.exit_code
    return {"passed": 0, "failed": 3, "incomplete": 4 if run.strict and not run.until else 0}[outcome(run)]


def line_counts(run: Run) -> Counter[str]:
    """Number of budget lines by status."""
    return Counter(line.status for line in run.every_line)


def headline(run: Run) -> str:
    """The verdict in one sentence."""
    return f"{opening(run)}: {run.model} for {run.target.name} {reason(run)}"


def opening(run: Run) -> str:
    """The outcome in a word; an incomplete run may be ready for its device."""
    return "Ready for the device" if _for_the_device(run) else outcome(run).capitalize()


def reason(run: Run) -> str:
    """The reason of the outcome: the headline without its first words."""
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
    if _for_the_device(run):
        here = f"keeps {_all(counts['passed'])} judged here; " if counts["passed"] else ""
        return f"{here}the device measures {missing}."
    if missing:
        return f"keeps {counts['passed']} of {len(lines)} budget lines; unmeasured: {missing}."
    return f"keeps {_all(len(lines))}{_at(run)}."


def _for_the_device(run: Run) -> bool:
    """Whether only measurements on a device are missing, and none of them is predicted to fail."""
    open_ = [line for line in run.every_line if line.status == "unmeasured"]
    left = bool(open_) and all(is_timed(line) and line.predicted_status != "fails" for line in open_)
    return left and outcome(run) == "incomplete" and not run.timings.latency and not run.until


def _all(count: int) -> str:
    return "its one budget line" if count == 1 else "both budget lines" if count == 2 else f"all {count} budget lines"


def _at(run: Run) -> str:
    if run.accuracy is None:
        return ""
    return f", top-1 {percent(run.accuracy.deployed_top1)} ({points(-run.accuracy.drop_pp)} against float)"


def _missing(line: BudgetCheck) -> str:
    expected = f" ({OUTLOOKS[line.predicted_status]})" if line.predicted_status else ""
    return f"{line_title(line.name).lower()}{expected}"


def _broken(line: BudgetCheck) -> str:
    value, limit = compared(line)
    stands = f"{value} {relation(line)} {limit}" if value else f"({line.how})"
    return f"{line_title(line.name).lower()} {stands}"


def summary_lines(run: Run) -> tuple[str, ...]:
    """Console summary of a report in plain text: headline, budget lines, key figures, remedies, notes.

    The method of a figure and the basis of a prediction are in the report only. The error of a stopped run is printed
    separately.
    """
    found = [] if run.error else [headline(run)]
    found.extend(_budget_lines(run.every_line))
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


def _budget_lines(lines: Sequence[BudgetCheck]) -> list[str]:
    """Every budget line within 120 characters, with the kind of latency and the derivation of the limit.

    Where they do not fit, they follow on lines of their own.
    """
    width = max((len(line_title(line.name)) for line in lines), default=0)
    found = []
    for line in lines:
        value, limit = compared(line)
        figure = f"{value} {relation(line)} {limit}" if value else f"limit {limit}"
        if not value and line.predicted_status:
            figure += f"; {OUTLOOKS[line.predicted_status]}: {predicted_text(line)}"
        head = f"{line.status:<10}  {line_title(line.name):<{width}}  {figure}"
        meant = [line.figure.replace("_", " ")] if line.figure else []
        meant += [f"limit: {line.derivation}"] if line.derivation else []
        whole = f"{head}  ({'; '.join(meant)})" if meant else head
        found += [whole] if len(whole) <= _WIDTH else [head, *_indented("; ".join(meant))]
    return found


def _indented(text: str) -> list[str]:
    return wrap(text, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False)
