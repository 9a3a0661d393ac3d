"""Plot of accuracy against latency: every technique of a run, and float."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.report.markup import Markup, join, tag
from edgeres.report.svg import WIDTH, Axis, apart, figure, grid, ticks
from edgeres.runs.figures import millis, percent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeres.report.candidates import CandidateRow

_TOP, _BOTTOM, _LEFT, _RIGHT = 12, 170, 52, WIDTH - 170

Point = tuple[str, float, float, bool]


def candidates(rows: Iterable[CandidateRow]) -> list[Point]:
    """``(name, milliseconds, top-1 in percent, chosen)`` of techniques; empty where all are equally fast."""
    found = [
        (row.technique.name, row.latency_ms, row.technique.top1, row.technique.chosen)
        for row in rows
        if row.latency_ms is not None and row.technique.top1 is not None
    ]
    return found if len({ms for _, ms, _, _ in found}) > 1 else []


def tradeoff_plot(points: list[Point]) -> Markup:
    """One dot per technique, the chosen one filled; up and to the left is better."""
    tops = [top1 for _, _, top1, _ in points]
    margin = max(0.2, 0.12 * (max(tops) - min(tops)))
    across = Axis(0.0, 1.04 * max(ms for _, ms, _, _ in points), _LEFT, _RIGHT)
    up = Axis(max(0.0, min(tops) - margin), min(100.0, max(tops) + margin), _BOTTOM, _TOP)
    spots = [(across(ms), up(top1)) for _, ms, top1, _ in points]
    labels = apart([y for _, y in spots], _BOTTOM + 6)
    lines = [
        join(
            tag("line.grid", x1=_LEFT, x2=_RIGHT, y1=up(at), y2=up(at)),
            tag("text.end.quiet", f"{at:g} %", x=_LEFT - 6, y=up(at) + 4),
        )
        for at in ticks(up.low, up.high, 4)
    ]
    leads = [tag("line.grid", x1=x, y1=y, x2=_RIGHT + 4.0, y2=labels[order]) for order, (x, y) in enumerate(spots)]
    marks = [
        join(
            tag("circle.dot" if chosen else "circle.dot.hollow", cx=x, cy=y, r=5.0),
            tag("text", f"{name} {top1:.2f}", x=_RIGHT + 7, y=labels[order] + 4),
        )
        for order, ((name, _, top1, chosen), (x, y)) in enumerate(zip(points, spots, strict=True))
    ]
    words = ", ".join(f"{name} {percent(top1)} in {millis(ms)}" for name, ms, top1, _ in points)
    below = grid(ticks(across.low, across.high, 3), across, _TOP, _BOTTOM, " ms")
    return figure(f"Top-1 against latency: {words}", _BOTTOM + 24, *lines, below, *leads, *marks)
