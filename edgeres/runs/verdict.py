"""Verdict of a run, derived from its figures: status, headline, exit code, and what helps, one sentence each."""

from __future__ import annotations

from collections import Counter
from textwrap import wrap
from typing import TYPE_CHECKING, Literal

from edgeres.runs import figures
from edgeres.runs.figures import compared, further_text, line_title, number, output_text, points, relation
from edgeres.runs.run import is_timed
from edgeres.tasks.registry import task_kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.artifacts.budget_check import BudgetCheck
    from edgeres.runs.run import LatencyRow, Run

Outcome = Literal["passed", "failed", "incomplete", "error"]
_WIDTH = 120
"""Most characters of a budget line on a console."""
_INDENT = " " * 12
_NARROWER = "--recipe int8_pruned with a lower prune.macs takes channels away, a smaller preset has fewer"
_QAT = "--recipe qat trains with quantization in the loop"
_OTHER = "--budget {}=VALUE states another limit"
_HELPS = {
    "accuracy_drop_pp": f"{_QAT}, --variant float ships float",
    "macs_g": _NARROWER,
    "params_m": _NARROWER,
    "size_mib": _NARROWER,
    "peak_activation_mib": "a smaller --crop or a narrower network needs less memory for its activations",
    "peak_rss_mib": "a smaller --crop or a narrower network needs less memory",
    "latency_p50_ms": f"{_NARROWER}, a smaller --crop takes less time",
    "latency_p90_ms": "a quiet machine has a shorter tail; a narrower network takes less time",
    "latency_p99_ms": "a quiet machine has a shorter tail; a narrower network takes less time",
}
"""Remedy of a failed budget line by its name."""


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
    a = run.accuracy
    score = f", {a.metric} {figures.percent(a.deployed_score)} ({points(-a.drop_pp)} against float)" if a else ""
    return f"keeps {_all(len(lines))}{score}."


def _for_the_device(run: Run) -> bool:
    """Whether only measurements on a device are missing, and none of them is predicted to fail."""
    open_ = [line for line in run.every_line if line.status == "unmeasured"]
    left = bool(open_) and all(is_timed(line) and line.predicted_status != "fails" for line in open_)
    return left and outcome(run) == "incomplete" and not run.timings.latency and not run.until


def _all(count: int) -> str:
    return "its one budget line" if count == 1 else "both budget lines" if count == 2 else f"all {count} budget lines"


def _missing(line: BudgetCheck) -> str:
    expected = f" ({figures.PREDICTED[line.predicted_status]})" if line.predicted_status else ""
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
    lines = [] if run.error else [headline(run)]
    lines += _budget_lines(run.every_line)
    if a := run.accuracy:
        accuracy = f"{a.metric} {figures.percent(a.deployed_score)} deployed, {figures.percent(a.float_score)} float"
        drop = f"drop {points(a.drop_pp)} ({figures.drop_interval(a)})"
        lines += [f"{accuracy}; {drop} on {a.n:,} images", *map(further_text, a.further), *map(output_text, a.outputs)]
    for row in run.timings.latency:
        timed = f"p50 {figures.millis(row.p50_ms)}, p90 {figures.millis(row.p90_ms)}"
        lines.append(f"{row.variant} on {row.runtime}: {timed} (batch {row.batch})")
    if run.kernels:
        k = run.kernels
        lines.append(f"{k.integer} of {k.weighted} weighted layers run in integers ({k.how})")
    return (*lines, *remedies(run), *run.notes)


def _budget_lines(lines: Sequence[BudgetCheck]) -> list[str]:
    """Every budget line within 120 characters, with the kind of latency and the derivation of the limit.

    Where they do not fit, they follow on lines of their own.
    """
    width = max((len(line_title(line.name)) for line in lines), default=0)
    text = []
    for line in lines:
        value, limit = compared(line)
        figure = f"{value} {relation(line)} {limit}" if value else f"limit {limit}"
        if not value and line.predicted_status:
            figure += f"; {figures.PREDICTED[line.predicted_status]}: {figures.predicted_text(line)}"
        head = f"{line.status:<10}  {line_title(line.name):<{width}}  {figure}"
        meant = [line.figure.replace("_", " ")] if line.figure else []
        meant += [f"limit: {line.derivation}"] if line.derivation else []
        meaning = "; ".join(meant)
        whole = f"{head}  ({meaning})" if meant else head
        below = wrap(meaning, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False)
        text += [whole] if len(whole) <= _WIDTH else [head, *below]
    return text


def remedies(run: Run) -> tuple[str, ...]:
    """Remedies for each failed line, and for INT8 that is not faster than float."""
    if run.error:  # it has its own hint
        return ()
    sentences = [_helps(run, line) for line in run.every_line if line.status == "failed"]
    sentences.append(int8_slowness(run.timings.latency))
    return tuple(dict.fromkeys(text for text in sentences if text))


def _helps(run: Run, line: BudgetCheck) -> str:
    """Remedy of a failed line; for accuracy, by the stage that caused the drop where it is known."""
    if line.name == "accuracy_drop_pp" and (cause := drop_cause(run)):
        return cause
    known = _HELPS.get(line.name, "")
    ways = (*filter(None, [known if _trained(run) else known.removeprefix(f"{_QAT}, ")]), _OTHER.format(line.name))
    return f"{line_title(line.name)}: {'; '.join(ways)}"


def _trained(run: Run) -> bool:
    """Whether the stages that train know the labels of the run's task."""
    return task_kind(run.task).trained


def measuring(run: Run) -> str:
    """How to measure the unmeasured lines on the device; empty where there are none, or no bundle."""
    names = [line_title(line.name).lower() for line in run.every_line if line.status == "unmeasured"]
    if not names or not any(name.startswith("bundle/") for name in run.files):
        return ""
    return f"{', '.join(names)}: measured on the device, then 'edgeres measured RUN device.json' judges it here"


def drop_cause(run: Run) -> str:
    """Cause of an accuracy drop over its limit, pruning or INT8, with its remedy; empty where unknown."""
    limited = (line for line in run.every_line if line.name == "accuracy_drop_pp")
    failed, accuracy, narrow = any(line.status == "failed" for line in limited), run.accuracy, _narrow_score(run)
    if not failed or accuracy is None or narrow is None:
        return ""
    narrowed, rounded = accuracy.float_score - narrow, narrow - accuracy.deployed_score
    if narrowed > rounded:
        return (
            f"{number(narrowed)} pp went before INT8, with the channels that pruning removed: a higher prune.macs "
            "removes less, more recover.epochs repair more, a recipe without prune removes nothing"
        )
    return (
        f"{number(rounded)} pp went into INT8: 'edgeres quantize RUN --explain' lists what was tried against it, a "
        f"higher --time-budget tries more, {_QAT if _trained(run) else '--variant float ships float'}"
    )


def _narrow_score(run: Run) -> float | None:
    """Float score of the pruned network that was quantized; None where it was not measured."""
    stages = [row.stage for row in run.stages]
    if run.accuracy is None or "quantize" not in stages:
        return None
    if "prune" not in stages:
        return run.accuracy.float_score
    between = run.stages[stages.index("prune") : stages.index("quantize")]
    return next((row.measured for row in reversed(between) if row.measured is not None), None)


def int8_slowness(rows: Sequence[LatencyRow]) -> str:
    """A warning where int8 is not significantly faster than float32; empty where it is, or where one is missing.

    Significant: the 95 % intervals of the two medians are disjoint.
    """
    pair = float_and_int8(rows)
    if pair is None or pair[1].high_ms < pair[0].low_ms:
        return ""
    ratio = pair[0].p50_ms / pair[1].p50_ms
    how = "slower than float32" if pair[1].low_ms > pair[0].high_ms else "not faster than float32 beyond noise"
    return (
        f"INT8 is {how} on {pair[1].runtime} here ({ratio:.2f} times as fast): 'edgeres bench RUN' says where its time "
        "goes, 'edgeres compile --variant fastest' ships the faster one, --variant float ships float"
    )


def float_and_int8(rows: Sequence[LatencyRow]) -> tuple[LatencyRow, LatencyRow] | None:
    """float32 and int8 latencies of the same runtime, batch and threads."""
    for deployed in rows:
        if deployed.variant != "int8" or not deployed.p50_ms:
            continue
        alike = (deployed.runtime, deployed.batch, deployed.threads)
        for row in rows:
            if row.variant == "float32" and (row.runtime, row.batch, row.threads) == alike:
                return row, deployed
    return None
