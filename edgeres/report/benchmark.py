"""Benchmark section of a report: table cells for HTML, Markdown and the console, and its plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.latency.benchmark.result import sentences
from edgeres.report.markup import Markup, bullets, how, join, plot, table, tag
from edgeres.report.plots import latency_bars
from edgeres.report.svg import ROW, Axis, figure
from edgeres.runs.figures import millis, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.latency.benchmark.result import BenchmarkResult, Ratio, VariantResult

HEADS = ("Variant", "p50", "95 % interval", "p10", "p90", "Calls", "x float32", "Of peak")


def cells(result: BenchmarkResult) -> list[tuple[str, ...]]:
    """Table cells of each variant, the fastest first; the deployed variant is marked."""
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
        for row in result.rows
    ]


def footnotes(result: BenchmarkResult) -> tuple[str, ...]:
    """Measurement protocol, host, measured peaks, and why other runtimes are not in the table."""
    at, stolen = result.machine, result.machine.stolen
    pinned = f"processor{'s' if result.threads > 1 else ''} {', '.join(map(str, at.pinned))}"
    threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
    notes = [
        f"one process per variant, one running and the others stopped, interleaved bursts for {result.seconds:.0f} s; "
        f"batch {result.batch}, {threads} on {pinned}; intervals by bootstrap over rounds; "
        "x float32: times as fast as the fastest float32",
        f"{at.cpu}, governor {at.governor or 'not shown'}, load {at.load_before:.2g} before and {at.load_after:.2g} "
        f"after on {at.cores} cores" + (f", {stolen:.1%} stolen" if stolen is not None else ""),
    ]
    if result.peaks:
        named = {"int8": "VPDPBUSD", "float32": "FMA"}
        reached = ", ".join(f"{named[peak.precision]} {number(peak.gmacs)} GMAC/s" for peak in result.peaks)
        notes.append(f"peak, measured between the rounds on {threads}: {reached}")
    absent = "; ".join(f"{name}: {why}" for name, why in result.absent.items())
    return (*notes, f"not timed: {absent}") if absent else tuple(notes)


def benchmark_table(result: BenchmarkResult) -> Markup:
    """Conclusions, plot, table and footnotes of a benchmark as HTML."""
    drawing = plot("Every runtime of this host", benchmark_plot(result.rows), "p50 / p90; whisker: interval of p50")
    pair = tag("div.pair", drawing, bullets("ul", sentences(result)))
    listed = table(HEADS, cells(result), "Benchmark")
    return join(tag("h3", "Benchmark"), pair, listed, *map(how, footnotes(result)))


def benchmark_plot(rows: Sequence[VariantResult]) -> Markup:
    """p50 as bars with the interval of the median, p90 as the lighter bar behind."""
    axis = Axis(0, max(max(row.p90_ms, row.high_ms) for row in rows))
    bars = latency_bars([(f"{row.precision} {row.runtime}", row) for row in rows], axis)
    words = ", ".join(f"{row.name} p50 {millis(row.p50_ms)}" for row in rows)
    return figure(f"Latency by runtime: {words}", len(rows) * ROW + 4, *bars)


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return "-"
    return "1" if ratio.low == ratio.high == 1 else f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
