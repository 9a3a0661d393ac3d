"""The speed truth table in a report: the same cells for the page, for Markdown and for a console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.latency.benchmark.conclusions import sentences
from edgeres.report.markup import Markup, join, table, tag
from edgeres.report.parts import how, plot
from edgeres.report.plots import latency_bars
from edgeres.report.svg import ROW, Axis, figure
from edgeres.runs.figures import millis, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.latency.benchmark.result import BenchmarkResult, Ratio, Row

HEADS = ("Variant", "p50", "95 % interval", "p10", "p90", "Calls", "x float32", "Of peak")


def cells(truth: BenchmarkResult) -> list[tuple[str, ...]]:
    """A row of words for each variant, the fastest first; what ships is marked."""
    return [
        (
            f"{row.name}{' (ships)' if row.ships else ''}",
            f"{number(row.p50_ms)} ms",
            f"{number(row.low_ms)} to {number(row.high_ms)}",
            number(row.p10_ms),
            number(row.p90_ms),
            f"{row.n:,}",
            _ratio(row.speedup),
            f"{row.peak_share:.0%}" if row.peak_share else "-",
        )
        for row in truth.rows
    ]


def footnotes(truth: BenchmarkResult) -> tuple[str, ...]:
    """How it was measured, what the processor reaches, and why other runtimes are not in the table."""
    at, stolen = truth.machine, truth.machine.stolen
    pinned = f"processor{'s' if truth.threads > 1 else ''} {', '.join(map(str, at.pinned))}"
    threads = f"{truth.threads} thread{'s' if truth.threads > 1 else ''}"
    told = [
        f"one process per variant, one running and the others stopped, bursts in turn for {truth.seconds:.0f} s; batch "
        f"{truth.batch}, {threads} on {pinned}; intervals by bootstrap over rounds; "
        "x float32: times as fast as the fastest float32",
        f"{at.cpu}, governor {at.governor or 'not shown'}, load {at.load_before:.2g} before and {at.load_after:.2g} "
        f"after on {at.cores} cores" + (f", {stolen:.1%} stolen" if stolen is not None else ""),
    ]
    if truth.peaks:
        named = {"int8": "VPDPBUSD", "float32": "FMA"}
        reached = ", ".join(f"{named[peak.precision]} {number(peak.gmacs)} GMAC/s" for peak in truth.peaks)
        told.append(f"peak, measured between the rounds on {threads}: {reached}")
    absent = "; ".join(f"{name}: {why}" for name, why in truth.absent.items())
    return (*told, f"not timed: {absent}") if absent else tuple(told)


def truth_table(truth: BenchmarkResult) -> Markup:
    """What the section on speed shows of it."""
    drawing = plot("Every runtime of this host", truth_plot(truth.rows), "p50 / p90; whisker: interval of p50")
    told = tag("ul", *(tag("li", sentence) for sentence in sentences(truth)))
    notes = [how(note) for note in footnotes(truth)]
    heading = tag("h3", "Speed truth table")
    return join(heading, tag("div.pair", drawing, told), table(HEADS, cells(truth), "Speed truth table"), *notes)


def truth_plot(rows: Sequence[Row]) -> Markup:
    """p50 as bars with the interval of the median, p90 as the lighter bar behind."""
    axis = Axis(0, max(max(row.p90_ms, row.high_ms) for row in rows))
    bars = latency_bars([(f"{row.precision} {row.runtime}", row) for row in rows], axis)
    words = ", ".join(f"{row.name} p50 {millis(row.p50_ms)}" for row in rows)
    return figure(f"Latency by runtime: {words}", len(rows) * ROW + 4, *bars)


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return "-"
    return "1" if ratio.low == ratio.high == 1 else f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
