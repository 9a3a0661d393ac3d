"""SVG primitives of all plots; colours come from the page's style sheet.

Every plot is 360 units wide, so that its text stays readable on a phone: names to the left, figures to the right, and
between them an axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, inf, log10
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

from edgeres.report.markup import Markup, join, tag
from edgeres.runs.figures import number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

WIDTH = 360
ROW = 26
_APART = 14.0
"""Least distance in pixels between two labels."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Linear map from values ``[low, high]`` to positions ``[left, right]``."""

    low: float
    high: float
    left: float = 98
    right: float = WIDTH - 112

    def __call__(self, value: float) -> float:
        """Position of a value."""
        return self.left + (value - self.low) / ((self.high - self.low) or 1.0) * (self.right - self.left)


def figure(label: str, height: float, *shapes: str) -> Markup:
    """An SVG image of ``WIDTH x height`` units with its text alternative."""
    return tag("svg.plot", *shapes, viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=label)


def standalone(drawing: Markup) -> str:
    """A plot as a standalone SVG file in the page's light colours."""
    style = (
        "svg{--blue:#2563c9;--orange:#c2500c;--pass:#17733a;--open:#7a5200;--fail:#b3261e;--quiet:#59626d}"
        "text{font:11px system-ui,sans-serif;fill:#1b2430}.quiet{fill:#5c6675;font-size:10.5px}.end{text-anchor:end}"
        ".grid{stroke:#d9dee6}.dot{fill:#2563c9;stroke:#fff;stroke-width:1.5}"
    )
    opened, _, shapes = drawing.partition(">")
    opened = opened.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{opened}><style>{style}</style>{shapes}\n"


def ticks(low: float, high: float, count: int) -> list[float]:
    """At most ``count`` round ticks inside ``[low, high]``, ``low < high``: steps of 1, 2 or 5 times a power of ten.

    Heckbert, "Nice numbers for graph labels", Graphics Gems (1990).
    """
    rough = (high - low) / count
    power = 10.0 ** floor(log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    return [round(index * step, 12) for index in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def middle(row: int) -> float:
    """Vertical position of a row's middle."""
    return row * ROW + ROW / 2


def columns(name: str) -> int:
    """Width of a name in Latin letters; wide East Asian characters (Unicode annex 11) count twice."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in name)


def clip(name: str, width: int) -> str:
    """A name truncated to a width in Latin letters."""
    if columns(name) <= width:
        return name
    kept = name
    while columns(kept) > width - 1:
        kept = kept[:-1]
    return f"{kept}\u2026"


def label(name: str, row: int) -> Markup:
    """A row's name in the left column, with the whole name as tooltip."""
    return tag("text.end", clip(name, 14), tag("title", name), x=92, y=middle(row) + 4)


def value(written: str, extra: str, row: int) -> Markup:
    """A row's figure in the right column, with a secondary one after it."""
    quiet = tag("tspan.quiet", f" {extra}") if extra else ""
    return tag("text", written, quiet, x=WIDTH - 106, y=middle(row) + 4)


def bar(kind: str, start: float, end: float, row: int) -> Markup:
    """A row's bar, with a minimum width."""
    return tag(f"rect.{kind}", x=start, y=row * ROW + 5.0, width=max(1.0, end - start), height=ROW - 10.0, rx=3)


def whisker(start: float, end: float, y: float) -> Markup:
    """An interval as a line with two caps."""
    path = f"M{start:.1f} {y - 5:.1f}v10M{start:.1f} {y:.1f}H{end:.1f}M{end:.1f} {y - 5:.1f}v10"
    return tag("path.whisker", d=path)


def grid(values: Iterable[float], axis: Axis, top: float, bottom: float, unit: str) -> Markup:
    """Vertical grid lines with their values below."""
    marks = []
    for at in values:
        marks.append(tag("line.grid", x1=axis(at), x2=axis(at), y1=top, y2=bottom))
        marks.append(tag("text.mid.quiet", f"{number(at)}{unit}", x=axis(at), y=bottom + 15))
    return join(*marks)


def levels(marks: Iterable[tuple[float, str]], left: float, right: float, gap: float = 6) -> Markup:
    """Horizontal grid lines at vertical positions, with a label to the left of each."""
    lines = []
    for y, name in marks:
        lines.append(tag("line.grid", x1=left, x2=right, y1=y, y2=y))
        lines.append(tag("text.end.quiet", name, x=left - gap, y=y + 4))
    return join(*lines)


def ends(first: str, last: str, left: float, right: float, y: float) -> Markup:
    """Names of the two ends of a horizontal axis."""
    return join(tag("text.quiet", first, x=left, y=y), tag("text.end.quiet", last, x=right, y=y))


def limit(written: str, x: float, top: float, bottom: float) -> Markup:
    """A dashed vertical line with its label below, kept inside the picture."""
    anchor = "end" if x > WIDTH * 0.6 else "start"
    line = tag("line.limit", x1=x, x2=x, y1=top, y2=bottom + 4)
    return join(line, tag("text.limit", written, x=x, y=bottom + 15, text_anchor=anchor))


def spoken(rows: Sequence[tuple[str, float]], written: Callable[[float], str]) -> str:
    """Rows as text, for the text alternative."""
    return ", ".join(f"{name} {written(figure)}" for name, figure in rows)


def apart(heights: Sequence[float], bottom: float) -> list[float]:
    """Label positions moved down until no two are nearer than ``_APART``, then up where they exceed ``bottom``."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    moved, edge = list(heights), -inf
    for index in order:
        moved[index] = edge = max(moved[index], edge + _APART)
    edge = bottom + _APART
    for index in reversed(order):
        moved[index] = edge = min(moved[index], edge - _APART)
    return moved
