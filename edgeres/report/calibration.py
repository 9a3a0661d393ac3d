"""Calibration section of the HTML report: scales, and the distribution of each tensor with its quantization range."""

from __future__ import annotations

from math import log1p
from typing import TYPE_CHECKING

from edgeres.report.markup import NONE, Markup, details, digest, facts, how, plot, section, table, tag
from edgeres.report.plots import scales_plot
from edgeres.report.select import noisiest
from edgeres.report.svg import Axis
from edgeres.runs.figures import number, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.runs.findings import Calibration, TensorScale
    from edgeres.runs.run import Run

AT_ONCE = 24
"""Most distributions shown; beyond them only the worst few are, the others collapsed."""
_WORST = 6
_WIDTH, _TOP, _BOTTOM = 180, 4, 56
_READING = (
    "Values of the calibration images but for zeros; the height is the logarithm of their number. Shaded: what the "
    "integers cover; orange: values beyond, which are cut off. dB: signal to quantization noise."
)


def calibration(run: Run) -> Markup:
    """Quantization scales and the calibration data they come from."""
    c = run.calibration
    if c is None or not c.tensors:
        why = "No calibration: the network stays in float, or the run ended before it."
        return section("calibration", "Calibration", tag("p.missing", why))
    title = f"Scales of {len(c.tensors)} activation tensors"
    drawing = plot(title, scales_plot(c.tensors), "step between two integers; hollow dots are uint8")
    source = facts(
        ("Calibrator", c.calibrator), ("Images", f"{c.images:,}"), ("Data and preprocessing", digest(c.data))
    )
    pair, every = tag("div.pair", drawing, source), details("Every tensor", _scales(c))
    return section("calibration", "Calibration", pair, _distributions(c.tensors), every)


def _scales(c: Calibration) -> Markup:
    rows = []
    for row in c.tensors:
        kind = f"{'int' if row.signed else 'uint'}{row.bits}"
        clipped = NONE if row.clipped is None else share(row.clipped)
        noise = NONE if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB"
        rows.append((row.tensor, kind, f"{row.scale:.6g}", str(row.zero_point), clipped, noise))
    return table(("Tensor", "Type", "Scale", "Zero-point", "Clipped", "SQNR"), rows, "Scales", words=2)


def _distributions(tensors: Sequence[TensorScale]) -> Markup:
    """A plot for every observed tensor; where there are many, the worst first and the rest collapsed."""
    observed = [row for row in tensors if row.columns]
    if not observed:
        return Markup()
    if len(observed) <= AT_ONCE:
        return tag("div.block", tag("h3", "What calibration saw"), how(_READING), _grid(observed))
    title = f"The {_WORST} of {len(observed)} tensors that lose most"
    every = details(f"What calibration saw of all {len(observed)} tensors", _grid(observed))
    return tag("div.block", tag("h3", title), how(_READING), _grid(noisiest(observed, _WORST)), every)


def _grid(rows: Sequence[TensorScale]) -> Markup:
    return tag("ul.sketches", *(_tile(row) for row in rows))


def _tile(row: TensorScale) -> Markup:
    noise = "no noise" if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB"
    measured = [f"{_value(row.low)} to {_value(row.high)}"]
    measured += [f"{100 * row.zeros:.0f} % zeros"] if row.zeros else []
    measured += [f"{share(row.clipped)} cut off"] if row.clipped else []
    words = tag("p", tag("b", noise), tag("small", f" {', '.join(measured)}"))
    return tag("li", tag("p.name", row.tensor), distribution_plot(row), words)


def _value(value: float | None) -> str:
    return "?" if value is None else number(value, 2)


def distribution_plot(row: TensorScale) -> Markup:
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
    words = (
        f"Values of {row.tensor} from {_value(row.low)} to {_value(row.high)}, "
        f"integers from {_value(start)} to {_value(end)}"
    )
    return tag(
        "svg.plot",
        tag("rect.cell", x=left, y=0, width=right - left, height=_BOTTOM),
        tag("path.bar", d="".join(inside)),
        tag("path.miss", d="".join(beyond)) if beyond else Markup(),
        tag("path.edges", d=f"M{left:.1f} 0V{_BOTTOM}M{right:.1f} 0V{_BOTTOM}"),
        tag("path.zero", d=f"M{axis(0.0):.1f} {_BOTTOM}v4M0 {_BOTTOM}H{_WIDTH}"),
        viewBox=f"0 0 {_WIDTH} {_BOTTOM + 4}",
        role="img",
        aria_label=words,
    )
