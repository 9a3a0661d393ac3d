"""Selections from a run that the Markdown and the HTML report share: table cells, plotted series, worst images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edgeres.runs import figures
from edgeres.runs.verdict import float_and_int8, int8_slowness
from edgeres.tasks.registry import task_kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeres.runs.findings import Flip, TensorScale
    from edgeres.runs.run import LatencyRow, Run, StageRow

UNVERIFIED = "The run ended before the deployed network was evaluated."
NO_CLASSES = "The outputs of this task are not one class an image."
_STAGE_HEADS = ("MACs", "Parameters", "Size", "Time")
LATENCY_HEADS = ("Variant", "Runtime", "Batch", "Threads", "p50", "95 % interval", "p90", "p99", "Calls")
FLIPS_SHOWN = 24
"""Most flipped images on the page; ``report.json`` has all of them."""
_CONFUSIONS = 8
"""Most listed errors."""
_FATES = ("lost", "gained", "both wrong")


def metric_title(run: Run) -> str:
    """The metric of a run as a heading: ``Top-1``."""
    return run.metric[0].upper() + run.metric[1:] if run.metric[1:].islower() else run.metric


def stage_heads(run: Run) -> tuple[str, ...]:
    """Heads of the table of stages."""
    return ("Stage", metric_title(run), *_STAGE_HEADS)


def stage_cells(run: Run, none: str, stopped: str) -> list[tuple[str, ...]]:
    """Cells under ``stage_heads``; ``none`` replaces unknown figures, ``stopped`` the time of the stage that failed."""
    rows = []
    for index, row in enumerate(run.stages):
        time = run.time_of(index)
        score = none if row.measured is None else figures.percent(row.measured)
        counts = (none if count is None else figures.scaled(count) for count in (row.macs, row.parameters))
        size = none if row.mib is None else f"{figures.number(row.mib)} MiB"
        spent = none if time is None else "cached" if time.cached else figures.seconds(time.seconds)
        rows.append((row.stage, score, *counts, size, spent))
    return [*rows, (run.error.stage or "start", *[none] * 4, stopped)] if run.error else rows


def latency_cells(rows: Iterable[LatencyRow]) -> list[tuple[str, ...]]:
    """Cells under ``LATENCY_HEADS``."""
    cells: list[tuple[str, ...]] = []
    for row in rows:
        p50, p90, p99, high = map(figures.millis, (row.p50_ms, row.p90_ms, row.p99_ms, row.high_ms))
        times = (p50, f"{figures.number(row.low_ms)} to {high}", p90, p99)
        cells.append((row.variant, row.runtime, str(row.batch), str(row.threads), *times, f"{row.n:,}"))
    return cells


def int8_conclusion(rows: Sequence[LatencyRow]) -> str:
    """How much faster int8 is than float32, or that it is not; empty without both."""
    pair = float_and_int8(rows)
    faster = figures.number(pair[0].p50_ms / pair[1].p50_ms) if pair else ""
    return int8_slowness(rows) or (f"At p50, int8 is {faster} times as fast as float32." if faster else "")


def trail(stages: Sequence[StageRow], field: Literal["measured", "macs"]) -> list[tuple[str, float]]:
    """``(stage, figure)`` of the stages that measured it; MACs only where they changed."""
    series: list[tuple[str, float]] = []
    for row in stages:
        figure = row.measured if field == "measured" else row.macs
        if figure is not None and not (field == "macs" and series and series[-1][1] == figure):
            series.append((row.stage, float(figure)))
    return series


def reference_float(run: Run) -> str:
    """The float network that the accuracy section compares with, one sentence."""
    stages = [row.stage for row in run.stages]
    if "evaluate" not in stages:
        return "Float is the network as it was given, before anything was changed."
    behind = stages[stages.index("evaluate") :]
    changed = list(dict.fromkeys(name for name in ("prune", "recover") if name in behind))
    before = f", before {' and '.join(changed)}" if changed else ""
    return f"Float is the network that the first 'evaluate' measured{before}; all figures are of validation images."


def tuned_float(run: Run) -> str:
    """The float network that quantization techniques are compared with, one sentence."""
    stages = [row.stage for row in run.stages]
    before = stages[: stages.index("quantize")] if "quantize" in stages else stages
    changed = next((name for name in reversed(before) if name in ("prune", "recover")), "")
    which = f"the float network that was quantized, behind '{changed}'" if changed else "the float network"
    return f"Same answer and {task_kind(run.task).divergence} compare with {which}, on tuning images."


def confusion_cells(run: Run) -> list[tuple[str, str, str]]:
    """The most frequent errors: true class, predicted class, images, in descending order, ties by class index."""
    errors = [cell for cell in run.confusion.cells if cell[0] != cell[1]] if run.confusion else []
    errors.sort(key=lambda cell: (-cell[2], cell[0], cell[1]))
    return [(run.class_name(true), run.class_name(guess), f"{count:,}") for true, guess, count in errors[:_CONFUSIONS]]


def fate(flip: Flip) -> Literal["lost", "gained", "both wrong"]:
    """Whether a flip turned a right prediction wrong, a wrong one right, or changed between wrong ones."""
    if flip.float_prediction == flip.label:
        return "lost"
    return "gained" if flip.deployed_prediction == flip.label else "both wrong"


def worst_first(flips: Iterable[Flip]) -> list[Flip]:
    """Flips sorted: lost images, gained ones, then wrong both times; within each by descending float confidence."""
    return sorted(flips, key=lambda flip: (_FATES.index(fate(flip)), -(flip.float_confidence or 0.0), flip.index))


def noisiest(tensors: Iterable[TensorScale], count: int) -> list[TensorScale]:
    """The tensors of lowest SQNR, in ascending order; those without a figure are left out."""
    known = [(row.sqnr_db, place, row) for place, row in enumerate(tensors) if row.sqnr_db is not None]
    return [row for _, _, row in sorted(known, key=lambda entry: entry[:2])[:count]]
