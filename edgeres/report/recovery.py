"""Report section on accuracy recovery: the techniques that were tried, and the sensitivity of each layer."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, floor, log10
from typing import TYPE_CHECKING

from edgeres.report.candidates import divergence, folded, heads, most_sensitive, next_step, recovery_rows
from edgeres.report.markup import NONE, Markup, bullets, how, join, plot, section, table, tag
from edgeres.report.select import metric_title, tuned_float
from edgeres.report.svg import WIDTH, Axis, apart, ends, figure, grid, levels, ticks
from edgeres.runs.figures import millis, percent, seconds
from edgeres.tasks.registry import task_kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeres.artifacts.results import LayerSensitivity
    from edgeres.report.candidates import CandidateRow
    from edgeres.runs.run import Run

    Point = tuple[str, float, float, bool]
    """A technique: its name, both coordinates, and whether it is the chosen one."""

TITLE = "What was tried to keep the accuracy"
_TOP, _BOTTOM, _LEFT = 10, 170, 52
_FLOOR = 1e-9
"""Smallest KL divergence on the logarithmic axis, in nats."""


def recovery(run: Run) -> Markup:
    """Table of techniques with accuracy, latency and time, their plots, and the sensitivity of each layer."""
    rows = recovery_rows(run)
    if not rows:
        why = "No technique was searched: the network stays in float, another quantizer chose, or the run ended before."
        return section("recovery", TITLE, tag("p.missing", why), _sensitivity(run))
    cells: list[tuple[str, ...]] = []
    notes = []
    all_predicted = all(row.expected for row in rows if row.latency_ms is not None)
    for row in folded(rows):
        name, *measured, what = replace(row, expected=row.expected and not all_predicted).cells(NONE)
        if row.tried:
            cells.append((tag("b", f"\u2713 {name}") if row.technique.chosen else name, *measured))
        notes.append(join(tag("b", name), f": {what}"))
    legend = how(
        f"Evaluated on the tuning images, which are disjoint from calibration and validation. {tuned_float(run)} "
        "Integer layers: convolutions and matrix products. \u2713: chosen."
    )
    columns = [f"{head} (expected)" if head == "Latency" and all_predicted else head for head in heads(run)[:-1]]
    listed = table(columns, cells, "Accuracy recovery", words=2)
    plots = tag("div.pair", _spending(run, rows), _tradeoff(run, rows), _sensitivity(run))
    return section("recovery", TITLE, tag("p", next_step(run)), listed, legend, bullets("ul", notes), plots)


def _spending(run: Run, rows: Iterable[CandidateRow]) -> Markup:
    points = spending(rows)
    reading = f"mean {task_kind(run.task).divergence} to float, lower is better, against the time spent so far"
    return (
        plot("What each technique won", spending_plot(points, task_kind(run.task).divergence), reading)
        if len(points) > 1
        else Markup()
    )


def _tradeoff(run: Run, rows: Sequence[CandidateRow]) -> Markup:
    points = tradeoff(rows)
    predicted = ", predicted by a roofline" if any(row.expected for row in rows) else ""
    reading = f"tuning images; one image on the target{predicted}; filled: chosen"
    return plot("Accuracy against latency", tradeoff_plot(points, metric_title(run)), reading) if points else Markup()


def _sensitivity(run: Run) -> Markup:
    if not run.sensitivity:
        return Markup()
    names = next((row.technique.float_layers for row in recovery_rows(run) if row.technique.chosen), ())
    reading = f"mean {task_kind(run.task).divergence} to float with that layer alone in integers; hollow: left in float"
    drawn = plot("Sensitivity of each layer", sensitivity_plot(run.sensitivity, names), reading)
    worst = ", ".join(f"{row.layer} {divergence(row.kl)}" for row in most_sensitive(run))
    return tag("div", drawn, how(f"Most sensitive: {worst}."))


def spending(rows: Iterable[CandidateRow]) -> list[Point]:
    """``(name, cumulative seconds, KL, chosen)`` of every technique that was timed, in order."""
    spent, points = 0.0, []
    for row in rows:
        if row.seconds is not None and row.technique.kl is not None:
            spent += row.seconds
            points.append((row.technique.name, spent, row.technique.kl, row.technique.chosen))
    return points


def spending_plot(points: Sequence[Point], measure: str = "KL") -> Markup:
    """KL divergence to float against cumulative time, one dot per technique, names to the right."""
    right = WIDTH - 178  # space for "block_reconstruction 1.6e-03"
    longest = max(spent for _, spent, _, _ in points) or 1.0
    up = kl_axis([kl for _, _, kl, _ in points])
    spots = [(_LEFT + 8 + spent / longest * (right - _LEFT - 16), _height(up, kl)) for _, spent, kl, _ in points]
    leads, dots = _dots(points, spots, [f"{name} {divergence(kl)}" for name, _, kl, _ in points], right)
    marks = map(join, leads, dots)
    line = tag("polyline.path", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in spots))
    below = ends("0 s", seconds(longest), _LEFT + 8, right, _BOTTOM + 18)
    words = ", ".join(f"{name} {divergence(kl)} after {seconds(spent)}" for name, spent, kl, _ in points)
    return figure(f"{measure} to float: {words}", _BOTTOM + 24, _powers(up, right), line, *marks, below)


def tradeoff(rows: Iterable[CandidateRow]) -> list[Point]:
    """``(name, milliseconds, score in percent, chosen)`` of techniques; empty where all are equally fast."""
    points = [
        (row.technique.name, row.latency_ms, row.technique.measured, row.technique.chosen)
        for row in rows
        if row.latency_ms is not None and row.technique.measured is not None
    ]
    return points if len({ms for _, ms, _, _ in points}) > 1 else []


def tradeoff_plot(points: Sequence[Point], metric: str = "Top-1") -> Markup:
    """One dot per technique, the chosen one filled; up and to the left is better."""
    right, top = WIDTH - 170, 12
    tops = [top1 for _, _, top1, _ in points]
    margin = max(0.2, 0.12 * (max(tops) - min(tops)))
    across = Axis(0.0, 1.04 * max(ms for _, ms, _, _ in points), _LEFT, right)
    up = Axis(max(0.0, min(tops) - margin), min(100.0, max(tops) + margin), _BOTTOM, top)
    spots = [(across(ms), up(top1)) for _, ms, top1, _ in points]
    leads, dots = _dots(points, spots, [f"{name} {top1:.2f}" for name, _, top1, _ in points], right)
    words = ", ".join(f"{name} {percent(top1)} in {millis(ms)}" for name, ms, top1, _ in points)
    lines = levels([(up(at), f"{at:g} %") for at in ticks(up.low, up.high, 4)], _LEFT, right)
    below = grid(ticks(across.low, across.high, 3), across, top, _BOTTOM, " ms")
    return figure(f"{metric} against latency: {words}", _BOTTOM + 24, lines, below, *leads, *dots)


def _dots(
    points: Sequence[Point], spots: Sequence[tuple[float, float]], names: Sequence[str], right: float
) -> tuple[list[Markup], list[Markup]]:
    """Lines from the dots to their names, and dots with names; those that were not chosen are hollow."""
    labels = apart([y for _, y in spots], _BOTTOM + 6)
    leads, dots = [], []
    for (_, _, _, chosen), (x, y), name, label in zip(points, spots, names, labels, strict=True):
        leads.append(tag("line.grid", x1=x, y1=y, x2=right + 4.0, y2=label))
        dot = tag("circle.dot" if chosen else "circle.dot.hollow", cx=x, cy=y, r=5.0)
        dots.append(join(dot, tag("text", name, x=right + 7, y=label + 4)))
    return leads, dots


def sensitivity_plot(rows: Sequence[LayerSensitivity], left_in_float: tuple[str, ...] = ()) -> Markup:
    """KL divergence of every layer in order of execution, on a logarithmic axis; the largest is named."""
    right, up = WIDTH - 8, kl_axis([row.kl for row in rows])
    step = (right - _LEFT - 20) / max(1, len(rows) - 1)
    spots = [(_LEFT + 10 + index * step, _height(up, row.kl)) for index, row in enumerate(rows)]
    dots = []
    for row, (x, y) in zip(rows, spots, strict=True):
        kind = "circle.dot.hollow" if row.layer in left_in_float else "circle.dot"
        noise = "no noise" if row.sqnr_db is None else f"SQNR {row.sqnr_db:.1f} dB"
        title = tag("title", f"{row.layer}: KL {divergence(row.kl)}, {noise}")
        dots.append(tag(kind, title, cx=x, cy=y, r=4.5 if len(rows) <= 60 else 3.0))
    worst, (x, y) = max(zip(rows, spots, strict=True), key=lambda pair: pair[0].kl)
    late = x > WIDTH / 2
    name = tag("text.end.over" if late else "text.over", worst.layer, x=x + (-9 if late else 9), y=y + 4)
    below = ends("first layer", "last layer", _LEFT, right, _BOTTOM + 18)
    words = f"Sensitivity of {len(rows)} layers, most of all {worst.layer} with a KL of {divergence(worst.kl)}"
    return figure(words, _BOTTOM + 24, _powers(up, right), *dots, name, below)


def kl_axis(values: Sequence[float]) -> Axis:
    """Vertical axis of the logarithms of KL divergences, between two powers of ten."""
    low = floor(log10(max(_FLOOR, min(values))))
    return Axis(low, max(low + 1, ceil(log10(max(_FLOOR, *values)))), _BOTTOM, _TOP)


def _height(up: Axis, kl: float) -> float:
    return up(log10(max(_FLOOR, kl)))


def _powers(up: Axis, right: float) -> Markup:
    """Grid lines at powers of ten, at most seven."""
    stride = ceil((up.high - up.low) / 6)
    powers = range(int(up.low), int(up.high) + 1, stride)
    return levels([(up(power), f"1e{power}") for power in powers], _LEFT, right)
