"""Parity study as sentences and cells for the console, as an HTML page, and as a plot."""

from __future__ import annotations

from math import ceil, floor
from typing import TYPE_CHECKING

from edgeres.report.html import page
from edgeres.report.markup import Markup, details, how, join, plot, section, table, tag
from edgeres.report.svg import WIDTH, Axis, apart, clip, ends, figure, levels, ticks
from edgeres.runs.figures import number, percent, points

if TYPE_CHECKING:
    from edgeres.parity.result import Depth, Pair, Parity, RuntimeRow

HEADS = ("Runtime", "First that diverges", "Biases", "Top-1", "Agrees least with", "Codes off alone", "By at most")
_TOP, _BOTTOM, _LEFT, _RIGHT = 12, 190, 44, WIDTH - 112
_STROKES = ("none", "6 3", "2 3", "8 3 2 3", "1 4", "12 4")
_COLOURS = ("var(--blue)", "var(--orange)", "var(--pass)", "var(--open)", "var(--fail)", "var(--quiet)")


def verdict(study: Parity) -> str:
    """One-line summary of the study."""
    worst = study.worst
    both = f"{study.titled(worst.first)} and {study.titled(worst.second)}"
    differing = ""
    if worst.margin is not None and worst.rank is not None:
        undecided = f"all among the {worst.rank:.1f} % of images that are decided least"
        differing = f" ({worst.differing:,} answered differently, {undecided})"
    least = f"the least agreement is {percent(worst.agreement)}, of {both}{differing}"
    spread = f"top-1 spreads over {points(study.spread_pp).removeprefix('+')}"
    goal = f"wanted {study.wanted:g} %"
    sentences = [f"{len(study.runtimes)} runtimes, {study.images:,} images: {least}; {goal}; {spread}"]
    if study.images * (100 - study.wanted) < 100:
        sentences.append("one differing prediction would fail: use more images")
    sentences += [f"{row.title} diverges first at {_place(row.diverges)}" for row in study.diverging if row.diverges]
    if not study.diverging and any(row.depths for row in study.runtimes):
        sentences.append("no layer diverges: float32 rounding explains every code that differs")
    return f"{'PASS' if study.passed else 'FAIL'}: {'; '.join(sentences)}"


def _place(depth: Depth) -> str:
    """A layer with the fused nodes it may stand for: ``layer1.0.relu (of layer1.0.conv2, layer1.0.add)``."""
    others = [node for node in depth.nodes if node != depth.tensor]
    return f"{depth.tensor} (with {', '.join(others)})" if others else depth.tensor


def cells(study: Parity) -> list[tuple[str, ...]]:
    """Table cells of each runtime; see ``HEADS``."""
    rows: list[tuple[str, ...]] = []
    for row in study.runtimes:
        least = min((pair for pair in study.pairs if row.name in (pair.first, pair.second)), key=lambda p: p.agreement)
        other = study.titled(least.second if least.first == row.name else least.first)
        first = biases = off = most = "-"
        if row.depths:
            first, biases = _place(row.diverges) if row.diverges else "none", row.biases or "-"
            off = f"{row.alone:,} of {row.codes:,}"
            most = _steps(max((depth.farthest for depth in row.depths[:-1]), default=0.0))
        met = f"{percent(least.agreement)} {other}"
        rows.append((row.title, first, biases, percent(row.top1), met, off, most))
    return rows


def _steps(farthest: float) -> str:
    """Distance beyond a rounding boundary, in quantization steps."""
    return "0" if not farthest else f"{farthest:.1e} steps" if farthest < 0.01 else f"{number(farthest)} steps"


def footnotes(study: Parity) -> tuple[str, ...]:
    """Method of the study."""
    sentences = [
        f"codes off alone: on {study.shown} images, codes that are not what exact arithmetic makes of that runtime's "
        "own codes one layer before; by at most: how far the exact value lies from the boundary in between",
        "biases: whether its integer layers take them as the float32 numbers of the graph, or rounded to int32 at the "
        "scale of their accumulators",
    ]
    if study.float_nodes:
        sentences.append(f"without integers, in float64 in the reference: {', '.join(study.float_nodes)}")
    sentences += [f"{row.title}: {row.note}" for row in study.runtimes if row.note]
    sentences += [f"not available: {name}: {why}" for name, why in study.absent.items()]
    return tuple(sentences)


def growth_plot(study: Parity) -> Markup:
    """SQNR against the exact integers by depth, one line per runtime; higher is better."""
    rows = [row for row in study.runtimes if row.depths]
    finite = [depth.sqnr_db for row in rows for depth in row.depths if depth.sqnr_db is not None]
    low, high = floor(min(finite, default=0.0) / 10) * 10, ceil(max(finite, default=10.0) / 10) * 10 + 10
    up = Axis(low, high, _BOTTOM, _TOP)
    most = max(len(row.depths) for row in rows)
    across = Axis(0, max(1, most - 1), _LEFT + 6, _RIGHT - 6)
    lines = levels([(up(at), f"{at:g} dB") for at in ticks(low, high, 5)], _LEFT, _RIGHT, 5)
    drawn, tips = [], []
    for order, row in enumerate(rows):
        spots = [(across(place), up(high if d.sqnr_db is None else d.sqnr_db)) for place, d in enumerate(row.depths)]
        tips.append(spots[-1][1])
        drawn.append(_line(row, spots, _COLOURS[order % len(_COLOURS)], _STROKES[order % len(_STROKES)]))
    labels = []
    for order, (row, tip, y) in enumerate(zip(rows, tips, apart(tips, _BOTTOM + 4), strict=True)):
        labels.append(tag("line.grid", x1=_RIGHT - 6.0, y1=tip, x2=_RIGHT + 4.0, y2=y))
        style = f"fill:{_COLOURS[order % len(_COLOURS)]}"
        labels.append(tag("text", clip(row.title, 18), x=_RIGHT + 7, y=y + 4, style=style))
    below = ends("image", "logits", _LEFT, _RIGHT, _BOTTOM + 18)
    words = ", ".join(f"{row.title} {_decibels(row.depths[-1])} at the logits" for row in rows)
    title = f"Signal to noise against exact integers by depth: {words}"
    return figure(title, _BOTTOM + 24, lines, *drawn, *labels, below)


def _line(row: RuntimeRow, spots: list[tuple[float, float]], colour: str, dash: str) -> Markup:
    """A runtime's line with a dot at each depth, larger where it diverges."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    stroke = f"stroke:{colour};fill:none;stroke-width:2;stroke-dasharray:{dash}"
    marks = [tag("polyline", points=path, style=stroke)]
    for depth, (x, y) in zip(row.depths, spots, strict=True):
        differ = f"{depth.differing:,} of {depth.numbers:,} differ"
        title = tag("title", f"{row.title}, {depth.tensor}: {_decibels(depth)}, {differ}")
        marks.append(tag("circle", title, cx=x, cy=y, r=6.0 if depth is row.diverges else 2.5, style=f"fill:{colour}"))
    return join(*marks)


def _decibels(depth: Depth) -> str:
    return "equal" if depth.sqnr_db is None else f"{depth.sqnr_db:.1f} dB"


def html(study: Parity) -> str:
    """HTML page of a parity study."""
    notes = [how(note) for note in footnotes(study)]
    runtimes = section("runtimes", "Runtimes", table(HEADS, cells(study), "Runtimes", words=3), *notes)
    parts = [runtimes, _agreements(study)]
    links = [("runtimes", "Runtimes"), ("agreement", "Agreement")]
    if any(row.depths for row in study.runtimes):
        reading = "both running freely from the image on; equal at the top; a large dot: the first layer that diverges"
        drawn = plot("How a difference grows with depth", growth_plot(study), reading)
        parts += [section("growth", "Growth", drawn), _layers(study)]
        links += [("growth", "Growth"), ("layers", "Layers")]
    kind, mark = ("passed", "\u2713 Passed") if study.passed else ("failed", "\u2715 Failed")
    heading = tag("h1", study.model, tag("span.quiet", " for "), study.target)
    top = tag("div.top", tag("p.badge", mark), heading, tag("p.headline", verdict(study).partition(": ")[2]))
    return page(f"Parity: {study.model} for {study.target}", tag(f"header.{kind}", top), links, *parts)


def _agreements(study: Parity) -> Markup:
    """Pairwise agreement of predictions between all runtimes and the reference, in percent."""
    known: dict[frozenset[str], Pair] = {frozenset((pair.first, pair.second)): pair for pair in study.pairs}

    def agreement(first: RuntimeRow, second: RuntimeRow) -> str:
        return "-" if first is second else percent(known[frozenset((first.name, second.name))].agreement)

    rows = [(row.title, *(agreement(row, other) for other in study.runtimes)) for row in study.runtimes]
    heads = ("Same answer", *(row.title for row in study.runtimes))
    return section("agreement", "Agreement", table(heads, rows, "Agreement of every pair"))


def _layers(study: Parity) -> Markup:
    tables = [details(row.title, _depths(row)) for row in study.runtimes if row.depths]
    note = how(
        "SQNR and differ: against exact integers, both running freely from the image on; alone: what that layer adds; "
        "unexplained: farther from a rounding boundary than float32 arithmetic can carry a value"
    )
    return section("layers", "Layers", note, *tables)


def _depths(row: RuntimeRow) -> Markup:
    heads = ("Tensor", "SQNR", "Differ", "Alone", "Largest", "By at most", "Unexplained")
    rows = []
    for depth in row.depths:
        differing, alone = f"{depth.differing:,} of {depth.numbers:,}", f"{depth.alone:,}"
        largest, unexplained = f"{depth.steps} step{'' if depth.steps == 1 else 's'}", f"{depth.unexplained:,}"
        rows.append((depth.tensor, _decibels(depth), differing, alone, largest, _steps(depth.farthest), unexplained))
    return table(heads, rows, f"Layers of {row.title}")
