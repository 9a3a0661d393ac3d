"""Histograms of calibrated activations as small multiples, one plot per tensor with its quantization range."""

from __future__ import annotations

from math import log1p
from typing import TYPE_CHECKING

from edgeres.report.markup import Markup, how, tag
from edgeres.report.select import noisiest
from edgeres.report.svg import Axis
from edgeres.runs.figures import number, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.runs.findings import TensorScale

AT_ONCE = 24
"""Most plots shown; beyond them only the worst few are, the others collapsed."""
_WORST = 6
_WIDTH, _TOP, _BOTTOM = 180, 4, 56
_READING = (
    "Values of the calibration images but for zeros; the height is the logarithm of their number. Shaded: what the "
    "integers cover; orange: values beyond, which are cut off. dB: signal to quantization noise."
)


def distributions(tensors: Sequence[TensorScale]) -> Markup:
    """A plot for every observed tensor; where there are many, the worst first and the rest collapsed."""
    watched = [row for row in tensors if row.columns]
    if not watched:
        return Markup()
    if len(watched) <= AT_ONCE:
        return tag("div.block", tag("h3", "What calibration saw"), how(_READING), _grid(watched))
    title = f"The {_WORST} of {len(watched)} tensors that lose most"
    every = tag("details", tag("summary", f"What calibration saw of all {len(watched)} tensors"), _grid(watched))
    return tag("div.block", tag("h3", title), how(_READING), _grid(noisiest(watched, _WORST)), every)


def _grid(rows: Sequence[TensorScale]) -> Markup:
    return tag("ul.sketches", *(_tile(row) for row in rows))


def _tile(row: TensorScale) -> Markup:
    noise = "no noise" if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB"
    facts = [f"{_value(row.low)} to {_value(row.high)}"]
    if row.zeros:
        facts.append(f"{100 * row.zeros:.0f} % zeros")
    if row.clipped:
        facts.append(f"{share(row.clipped)} cut off")
    words = tag("p", tag("b", noise), tag("small", f" {', '.join(facts)}"))
    return tag("li", tag("p.name", row.tensor), sketch_plot(row), words)


def _value(value: float | None) -> str:
    return "?" if value is None else number(value, 2)


def sketch_plot(row: TensorScale) -> Markup:
    """Histogram of a tensor's values over its quantization range; clipped values in another colour."""
    assert row.low is not None
    assert row.high is not None
    start, end = row.covered
    axis = Axis(min(row.low, start), max(row.high, end), 1, _WIDTH - 1)
    width = (row.high - row.low) / len(row.columns)
    most = log1p(max(row.columns)) or 1.0
    inside: list[str] = []
    beyond: list[str] = []
    for place, count in enumerate(row.columns):
        if count:
            left, right = (axis(row.low + edge * width) for edge in (place, place + 1))
            top = _BOTTOM - (_BOTTOM - _TOP) * log1p(count) / most
            box = f"M{left:.1f} {_BOTTOM}V{top:.1f}H{max(right, left + 0.8):.1f}V{_BOTTOM}z"
            (inside if start <= row.low + (place + 0.5) * width <= end else beyond).append(box)
    left, right = axis(start), axis(end)
    shade = {"x": left, "y": 0, "width": right - left, "height": _BOTTOM}
    edges = f"M{left:.1f} 0V{_BOTTOM}M{right:.1f} 0V{_BOTTOM}"
    words = (
        f"Values of {row.tensor} from {_value(row.low)} to {_value(row.high)}, "
        f"integers from {_value(start)} to {_value(end)}"
    )
    return tag(
        "svg.plot",
        tag("rect.cell", **shade),
        tag("path.bar", d="".join(inside)),
        tag("path.miss", d="".join(beyond)) if beyond else Markup(),
        tag("path.edges", d=edges),
        tag("path.zero", d=f"M{axis(0.0):.1f} {_BOTTOM}v4M0 {_BOTTOM}H{_WIDTH}"),
        viewBox=f"0 0 {_WIDTH} {_BOTTOM + 4}",
        role="img",
        aria_label=words,
    )
