"""Report section on accuracy recovery: the techniques that were tried, and the sensitivity of each layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, floor, log10
from typing import TYPE_CHECKING

from edgeres.report.candidates import HEADS, divergence, folded, next_step, recovery_rows, spending
from edgeres.report.markup import Markup, join, table, tag
from edgeres.report.parts import NONE, how, plot, section
from edgeres.report.select import tuned_float
from edgeres.report.svg import WIDTH, apart, figure, standalone
from edgeres.report.tradeoff import candidates, tradeoff_plot
from edgeres.runs.figures import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.artifacts.results import LayerSensitivity
    from edgeres.report.candidates import CandidateRow
    from edgeres.runs.run import Run

TITLE = "What was tried to keep the accuracy"
_TOP, _BOTTOM, _LEFT = 10, 170, 52
_NAMED = 5
_FLOOR = 1e-9
"""Smallest KL divergence on the logarithmic axis, in nats."""


def recovery(run: Run) -> Markup:
    """Table of techniques with accuracy, latency and time, their plots, and the sensitivity of each layer."""
    rows = recovery_rows(run)
    if not rows:
        why = "No technique was searched: the network stays in float, another quantizer chose, or the run ended before."
        return section("recovery", TITLE, tag("p.missing", why), _noise(run))
    cells: list[tuple[str, ...]] = []
    notes = []
    all_predicted = all(row.expected for row in rows if row.latency_ms is not None)
    for row in folded(rows):
        name, *figures, what = replace(row, expected=row.expected and not all_predicted).cells(NONE)
        if row.tried:
            cells.append((tag("b", f"\u2713 {name}") if row.technique.chosen else name, *figures))
        notes.append(tag("li", tag("b", name), f": {what}"))
    legend = how(
        f"Evaluated on the tuning images, which are disjoint from calibration and validation. {tuned_float(run)} "
        "Integer layers: convolutions and matrix products. \u2713: chosen."
    )
    timed = spending(rows)
    spending_figure = Markup()
    if len(timed) > 1:
        reading = "mean KL to float, lower is better, against the time spent so far"
        spending_figure = plot("What each technique won", spending_plot(timed), reading)
    heads = tuple(f"{head} (expected)" if head == "Latency" and all_predicted else head for head in HEADS[:-1])
    listed = table(heads, cells, "Accuracy recovery", words=2)
    plots = tag("div.pair", spending_figure, _tradeoff(rows), _noise(run))
    return section("recovery", TITLE, tag("p", next_step(run)), listed, legend, tag("ul", *notes), plots)


def _tradeoff(rows: tuple[CandidateRow, ...]) -> Markup:
    points = candidates(rows)
    if not points:
        return Markup()
    all_predicted = any(row.expected for row in rows)
    reading = (
        f"tuning images; one image on the target{', predicted by a roofline' if all_predicted else ''}; filled: chosen"
    )
    return plot("Accuracy against latency", tradeoff_plot(points), reading)


def _noise(run: Run) -> Markup:
    if not run.sensitivity:
        return Markup()
    names = next((row.technique.float_layers for row in recovery_rows(run) if row.technique.chosen), ())
    reading = "mean KL to float with that layer alone in integers; hollow: left in float"
    timed = plot("Sensitivity of each layer", noise_plot(run.sensitivity, names), reading)
    worst = sorted(run.sensitivity, key=lambda row: -row.kl)[:_NAMED]
    return tag("div", timed, how(f"Most sensitive: {', '.join(f'{row.layer} {divergence(row.kl)}' for row in worst)}."))


def spending_plot(points: Sequence[tuple[str, float, float, bool]]) -> Markup:
    """KL divergence to float against cumulative time, one dot per technique, names to the right."""
    right = WIDTH - 178  # space for "block_reconstruction 1.6e-03"
    longest = max(spent for _, spent, _, _ in points) or 1.0
    place = Decades.of([kl for _, _, kl, _ in points])
    spots = [(_LEFT + 8 + spent / longest * (right - _LEFT - 16), place(kl)) for _, spent, kl, _ in points]
    labels = apart([y for _, y in spots], _BOTTOM + 6)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    marks = [
        join(
            tag("line.grid", at={"x1": x, "y1": y, "x2": right + 4.0, "y2": labels[order]}),
            tag("circle.dot" if chosen else "circle.dot.hollow", at={"cx": x, "cy": y, "r": 5.0}),
            tag("text", f"{name} {divergence(kl)}", at={"x": right + 7, "y": labels[order] + 4}),
        )
        for order, ((name, _, kl, chosen), (x, y)) in enumerate(zip(points, spots, strict=True))
    ]
    ends = join(
        tag("text.quiet", "0 s", at={"x": _LEFT + 8, "y": _BOTTOM + 18}),
        tag("text.end.quiet", seconds(longest), at={"x": right, "y": _BOTTOM + 18}),
    )
    words = ", ".join(f"{name} {divergence(kl)} after {seconds(spent)}" for name, spent, kl, _ in points)
    line = tag("polyline.path", at={"points": path})
    return figure(f"KL to float: {words}", _BOTTOM + 24, place.grid(right), line, *marks, ends)


def noise_plot(rows: Sequence[LayerSensitivity], left_in_float: tuple[str, ...] = ()) -> Markup:
    """KL divergence of every layer in order of execution, on a logarithmic axis; the largest is named."""
    right = WIDTH - 8
    place = Decades.of([row.kl for row in rows])
    step = (right - _LEFT - 20) / max(1, len(rows) - 1)
    spots = [(_LEFT + 10 + index * step, place(row.kl)) for index, row in enumerate(rows)]
    dots = [
        tag(
            "circle.dot.hollow" if row.layer in left_in_float else "circle.dot",
            tag("title", f"{row.layer}: KL {divergence(row.kl)}, {_sqnr(row)}"),
            at={"cx": x, "cy": y, "r": 4.5 if len(rows) <= 60 else 3.0},
        )
        for row, (x, y) in zip(rows, spots, strict=True)
    ]
    top, (x, y) = max(zip(rows, spots, strict=True), key=lambda pair: pair[0].kl)
    late = x > WIDTH / 2
    name = tag("text.end.over" if late else "text.over", top.layer, at={"x": x + (-9 if late else 9), "y": y + 4})
    ends = join(
        tag("text.quiet", "first layer", at={"x": _LEFT, "y": _BOTTOM + 18}),
        tag("text.end.quiet", "last layer", at={"x": right, "y": _BOTTOM + 18}),
    )
    words = f"Sensitivity of {len(rows)} layers, most of all {top.layer} with a KL of {divergence(top.kl)}"
    return figure(words, _BOTTOM + 24, place.grid(right), *dots, name, ends)


def drawing(rows: Sequence[LayerSensitivity]) -> str:
    """``noise_plot`` as a standalone SVG file."""
    return standalone(noise_plot(rows))


def _sqnr(row: LayerSensitivity) -> str:
    return "no noise" if row.sqnr_db is None else f"SQNR {row.sqnr_db:.1f} dB"


@dataclass(frozen=True, slots=True)
class Decades:
    """Logarithmic axis of KL divergences between two powers of ten."""

    low: int
    high: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Decades:
        """The axis that contains the given divergences."""
        low = floor(log10(max(_FLOOR, min(values))))
        return cls(low, max(low + 1, ceil(log10(max(_FLOOR, *values)))))

    def __call__(self, value: float) -> float:
        """Vertical position of a value."""
        share = (log10(max(_FLOOR, value)) - self.low) / (self.high - self.low)
        return _BOTTOM - share * (_BOTTOM - _TOP)

    def grid(self, right: float) -> Markup:
        """Grid lines at powers of ten, at most seven."""
        stride = ceil((self.high - self.low) / 6)
        return join(
            *(
                join(
                    tag("line.grid", at={"x1": _LEFT, "x2": right, "y1": self(10.0**power), "y2": self(10.0**power)}),
                    tag("text.end.quiet", f"1e{power}", at={"x": _LEFT - 6, "y": self(10.0**power) + 4}),
                )
                for power in range(self.low, self.high + 1, stride)
            )
        )
