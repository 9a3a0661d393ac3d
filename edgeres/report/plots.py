"""Plots as inline SVG, each with a text alternative."""

from __future__ import annotations

from math import ceil, floor, log10
from typing import TYPE_CHECKING

from edgeres.report import svg
from edgeres.report.markup import Markup, join, tag
from edgeres.report.svg import ROW, WIDTH, Axis, middle
from edgeres.runs.figures import change, drop_interval, millis, number, percent, points, scaled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeres.latency.benchmark.result import VariantResult
    from edgeres.runs.findings import Accuracy, TensorScale
    from edgeres.runs.run import LatencyRow

_IN_SIGHT = 3.0
"""A limit above this multiple of the largest value is written and not drawn, so that the bars stay visible."""
_NAME = 12
"""Characters of a class name beside a confusion matrix; tooltips hold the whole name."""


def accuracy_plot(rows: Sequence[tuple[str, float]], metric: str) -> Markup:
    """Top-1 in percent after each stage, as dots on a zoomed axis."""
    low, high = min(top1 for _, top1 in rows), max(top1 for _, top1 in rows)
    margin = max(0.5, (high - low) * 0.15)
    axis = Axis(max(0.0, low - margin), min(100.0, high + margin))
    bottom, marks = len(rows) * ROW, []
    for index, (stage, top1) in enumerate(rows):
        dot = tag("circle.dot", cx=axis(top1), cy=middle(index), r=4.5)
        marks.append(join(svg.label(stage, index), dot, svg.value(percent(top1), "", index)))
    path = " ".join(f"{axis(top1):.1f},{middle(index):.1f}" for index, (_, top1) in enumerate(rows))
    lines = svg.grid(svg.ticks(axis.low, axis.high, 3), axis, 0, bottom, " %")
    words = f"{metric} per stage: {svg.spoken(rows, percent)}"
    return svg.figure(words, bottom + 22, lines, tag("polyline.path", points=path), *marks)


def macs_plot(rows: Sequence[tuple[str, float]], budget: float | None) -> Markup:
    """MACs after each stage as bars from zero, with removed MACs as an outline."""
    most = max(macs for _, macs in rows) or 1.0
    drawn = budget is not None and budget <= _IN_SIGHT * most
    axis = Axis(0, max(most, budget) if drawn and budget else most)
    bars = []
    for index, (stage, macs) in enumerate(rows):
        before = rows[index - 1][1] if index else macs
        gone = svg.bar("bar.gone", axis(macs), axis(before), index) if before > macs else ""
        figures = svg.value(scaled(macs), change(macs, before), index)
        bars.append(join(svg.label(stage, index), gone, svg.bar("bar", axis(0), axis(macs), index), figures))
    bottom = len(rows) * ROW
    marks = _limits([("limit", budget)] if budget else [], axis, bottom, scaled)
    return svg.figure(f"MACs per stage: {svg.spoken(rows, scaled)}", bottom + (20 if budget else 2), *bars, marks)


def _limits(limits: Sequence[tuple[str, float]], axis: Axis, bottom: float, written: Callable[[float], str]) -> Markup:
    """Limits below the bars, one line of text each; limits far off the scale as text only."""
    marks = []
    for order, (name, at) in enumerate(limits):
        y, words = bottom + 14 * order, f"{name} {written(at)}"
        beyond = tag("text.limit", f"{words}, beyond this scale", x=axis(0), y=y + 15)
        marks.append(svg.limit(words, axis(at), 0, y) if at <= axis.high else beyond)
    return join(*marks)


def drop_plot(accuracy: Accuracy, budget: float | None) -> Markup:
    """The accuracy drop with its confidence interval, zero and the limit."""
    shown = [accuracy.low_pp, accuracy.high_pp, 0.0, *([] if budget is None else [budget])]
    margin = max(0.1, (max(shown) - min(shown)) * 0.08)
    axis = Axis(min(shown) - margin, max(shown) + margin, 12, WIDTH - 12)
    top, bottom = 20, 66
    lines = svg.grid(svg.ticks(axis.low, axis.high, 5), axis, top, bottom, " pp")
    zero = tag("line.zero", x1=axis(0), x2=axis(0), y1=top, y2=bottom)
    interval = svg.whisker(axis(accuracy.low_pp), axis(accuracy.high_pp), 43)
    marks = [interval, tag("circle.dot", cx=axis(accuracy.drop_pp), cy=43, r=6)]
    words = drop_interval(accuracy)
    if budget is not None:
        x, anchor = axis(budget), "end" if axis(budget) > WIDTH / 2 else "start"
        marks.append(tag("line.limit", x1=x, x2=x, y1=top - 4, y2=bottom))
        marks.append(tag("text.limit", f"limit {points(budget)}", x=x, y=11, text_anchor=anchor))
        words += f", limit {points(budget)}"
    return svg.figure(f"Accuracy drop {points(accuracy.drop_pp)}, {words}", bottom + 20, lines, zero, *marks)


def latency_bars(rows: Sequence[tuple[str, LatencyRow | VariantResult]], axis: Axis) -> list[Markup]:
    """One bar per row: p50 with the interval of the median, and p90 as a lighter bar behind it."""
    return [
        join(
            svg.label(name, index),
            svg.bar("bar.tail", axis(0), axis(row.p90_ms), index),
            svg.bar("bar", axis(0), axis(row.p50_ms), index),
            svg.whisker(axis(row.low_ms), axis(row.high_ms), middle(index)),
            svg.value(millis(row.p50_ms), f"/ {number(row.p90_ms)}", index),
        )
        for index, (name, row) in enumerate(rows)
    ]


def latency_plot(rows: Sequence[LatencyRow], limits: Sequence[tuple[str, float]]) -> Markup:
    """p50 as bars with the interval of the median, p90 as lighter bars, and the limits."""
    most = max(max(row.p90_ms, row.high_ms) for row in rows) or 1.0
    axis = Axis(0, max([most, *(at for _, at in limits if at <= _IN_SIGHT * most)]))
    bottom = len(rows) * ROW
    bars = latency_bars([(f"{row.variant}, {row.batch}", row) for row in rows], axis)
    words = ", ".join(f"{row.variant} p50 {millis(row.p50_ms)} and p90 {millis(row.p90_ms)}" for row in rows)
    marks = _limits(limits, axis, bottom, millis)
    return svg.figure(f"Latency: {words}", bottom + 4 + 14 * len(limits), *bars, marks)


def confusion_plot(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> Markup:
    """Heat map of a confusion matrix: hits in one colour, errors in another, shaded by their share of the row."""
    longest = min(_NAME, max(svg.columns(name) for name in classes))
    left, top, right = 14 + 6.8 * longest, 14 + 6 * longest, 6 + 3 * longest  # space for level and for turned names
    size = min(30.0, (WIDTH - left - right) / len(classes))
    squares: list[Markup] = []
    names: list[Markup] = []
    for row, counts in enumerate(matrix):
        y, x = top + row * size, left + (row + 0.5) * size + 3
        name, whole = svg.clip(classes[row], _NAME), tag("title", classes[row])
        names.append(tag("text.end", name, whole, x=left - 6, y=y + size / 2 + 4))
        names.append(tag("text", name, whole, transform=f"translate({x:.1f} {top - 5}) rotate(-65)"))
        total = sum(counts) or 1
        for column, count in enumerate(counts):
            squares.append(_cell(left + column * size, y, size, count, count / total, hit=row == column))
    words = f"Confusion matrix of {len(classes)} classes, rows true, columns predicted"
    return svg.figure(words, top + len(classes) * size + 4, *names, *squares)


def _cell(x: float, y: float, size: float, count: int, share: float, *, hit: bool) -> Markup:
    box: dict[str, float] = {"x": x + 0.5, "y": y + 0.5, "width": size - 1, "height": size - 1, "rx": 2}
    if not count:
        return tag("rect.cell", **box)
    strength = share if hit else min(1.0, 0.2 + 2 * share)
    shade = tag("rect.hit" if hit else "rect.miss", **box, fill_opacity=strength)
    kind = f"text.mid{'.on' if strength > 0.55 else ''}{'.small' if size < 20 or count > 999 else ''}"
    return join(tag("rect.cell", **box), shade, tag(kind, count, x=x + size / 2, y=y + size / 2 + 3.8))


def scales_plot(tensors: Sequence[TensorScale]) -> Markup:
    """Scale of every activation tensor in order of execution, on a logarithmic axis; uint8 tensors are hollow."""
    smallest, largest = min(row.scale for row in tensors), max(row.scale for row in tensors)
    low = floor(log10(smallest) - 0.03)
    high = max(low + 1, ceil(log10(largest) + 0.03))
    left, right, top, bottom = 46, WIDTH - 8, 8, 168
    up, step = Axis(low, high, bottom, top), (right - left - 16) / max(1, len(tensors) - 1)
    factors = (1, 2, 5) if high - low < 3 else (1,)
    marks = [*(factor * 10.0**power for power in range(low, high) for factor in factors), 10.0**high]
    lines = svg.levels([(up(log10(at)), f"{at:.1g}") for at in marks], left, right)
    dots = []
    for index, row in enumerate(tensors):
        title = tag("title", f"{row.tensor}: scale {row.scale:.6g}, zero-point {row.zero_point}")
        x, y, size = left + 8 + index * step, up(log10(row.scale)), 4 if len(tensors) <= 60 else 2.5
        dots.append(tag("circle.dot" if row.signed else "circle.dot.hollow", title, cx=x, cy=y, r=size))
    below = svg.ends("first tensor", "last tensor", left, right, bottom + 16)
    words = f"Scales of {len(tensors)} activation tensors, {smallest:.2g} to {largest:.2g}"
    return svg.figure(words, bottom + 22, lines, below, *dots)
