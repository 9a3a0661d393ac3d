"""``report.html``: one self-contained file without scripts, fonts or network access; the verdict comes first."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from edgeres.report import origins, sections
from edgeres.report.markup import Markup, join, missing, section, tag
from edgeres.report.recovery import recovery
from edgeres.report.select import trail
from edgeres.runs.figures import (
    OUTLOOKS,
    change,
    compared,
    how_come,
    line_title,
    millis,
    number,
    origin,
    percent,
    points,
    predicted_text,
    relation,
    scaled,
    seconds,
)
from edgeres.runs.remedy import measuring, remedies
from edgeres.runs.verdict import line_counts, opening, outcome, reason

if TYPE_CHECKING:
    from edgeres.artifacts.budget_check import BudgetCheck
    from edgeres.runs.run import Run

_MARKS = {"passed": "\u2713", "failed": "\u2715", "unmeasured": "\u25cb", "incomplete": "\u25cb", "error": "\u2715"}
_SECTIONS = (
    ("stages", "Stages", sections.stages),
    ("recovery", "Recovery", recovery),
    ("accuracy", "Accuracy", sections.accuracy),
    ("speed", "Speed", sections.speed),
    ("integers", "Integers", sections.integers),
    ("confusion", "Confusion", sections.confusion),
    ("flips", "Flips", sections.flips),
    ("calibration", "Calibration", origins.calibration),
    ("provenance", "Provenance", origins.provenance),
    ("reproduce", "Reproduce", origins.reproduce),
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def html(run: Run) -> str:
    """The HTML report; well-formed XML after its doctype, and equal for equal runs."""
    links = [tag("a", name, href=f"#{anchor}") for anchor, name, _ in (("budget", "Budget", None), *_SECTIONS)]
    return page(
        f"{opening(run)}: {run.model} for {run.target.name}",
        _verdict(run),
        tag("nav", *links, aria_label="Sections"),
        tag("main", _budget(run), *(draw(run) for _, _, draw in _SECTIONS)),
    )


def page(title: str, *body: Markup) -> str:
    """A self-contained HTML page with its style sheet inside."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title),
        tag("style", Markup(_style())),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', *body), lang='en')}\n"


@cache
def _style() -> str:
    return files("edgeres.report").joinpath("style.css").read_text(encoding="utf-8")


def _verdict(run: Run) -> Markup:
    result = outcome(run)
    counts, why = line_counts(run), reason(run)
    tally = ", ".join(f"{counts[status]} {status}" for status in ("passed", "failed", "unmeasured") if counts[status])
    badge = tag("p.badge", tag("span", _MARKS[result], aria_hidden="true"), f" {opening(run)}")
    hint = Markup()
    if run.error and run.error.hint:
        hint = tag("p.hint", tag("b", "Hint: "), run.error.hint)
    said = (*(("What helps: ", text) for text in remedies(run)), ("Next: ", measuring(run)))
    helps = [tag("p.hint", tag("b", label), text) for label, text in said if text]
    notes = tag("ul.notes", *(tag("li", note) for note in run.notes)) if run.notes else Markup()
    top = tag(
        "div.top",
        badge,
        tag("h1", run.model, tag("span.quiet", " for "), run.target.title),
        tag("p.headline", f"{why[0].upper()}{why[1:]}"),
        tag("p.quiet", f"{run.target.runtime}{f' | budget lines: {tally}' if tally else ''}"),
        hint,
        *helps,
    )
    return tag(f"header.{result}", top, tag("ul.tiles", *_tiles(run)), notes)


def _tiles(run: Run) -> list[Markup]:
    macs, sizes = trail(run.stages, "macs"), [row.mib for row in run.stages if row.mib is not None]
    a, kernels, total = run.accuracy, run.kernels, run.timings.total_s
    shipped = next((row for row in run.timings.latency if row.variant == "int8"), None)
    cached = sum(time.cached for time in run.timings.stages)
    return [
        _tile("Top-1", percent(a.deployed_top1) if a else None, f"{points(-a.drop_pp)} against float" if a else ""),
        _tile("MACs", scaled(macs[-1][1]) if macs else None, _since(macs[-1][1], macs[0][1]) if macs else ""),
        _tile("Size", f"{number(sizes[-1])} MiB" if sizes else None, "the file that ships"),
        _tile(
            "Latency p50",
            millis(shipped.p50_ms) if shipped else None,
            f"p90 {millis(shipped.p90_ms)}" if shipped else "",
        ),
        _tile("In integers", f"{kernels.integer} of {kernels.weighted}" if kernels else None, "weighted layers"),
        _tile("This run", seconds(total) if total is not None else None, f"{cached} stages from the cache"),
    ]


def _since(now: float, before: float) -> str:
    moved = change(now, before)
    return f"{moved} from first to last stage" if moved else "the same in every stage"


def _tile(name: str, figure: str | None, quiet: str) -> Markup:
    if figure is None:
        return tag("li.empty", tag("span", name), tag("b", "unmeasured"))
    return tag("li", tag("span", name), tag("b", figure), tag("small", quiet))


def _budget(run: Run) -> Markup:
    if not run.every_line:
        return section("budget", "Budget", missing("The run ended before a budget line was checked."))
    return section("budget", "Budget", tag("ul.budget", *(_line(line) for line in run.every_line)))


def _line(line: BudgetCheck) -> Markup:
    value, limit = compared(line)
    between = ", which rounds to " if relation(line) == "rounds to" else " of at most "
    figures = join(tag("b", value), between) if value else "not measured; at most "
    expected = Markup()
    if line.predicted:
        expected = tag(
            "p.how",
            tag(f"span.pill.predicted.{line.predicted_status}", OUTLOOKS[line.predicted_status]),
            f" {predicted_text(line)}",
        )
    return tag(
        f"li.{line.status}",
        tag(
            "div.row",
            tag("h3", line_title(line.name)),
            tag(f"span.pill.{line.status}", f"{_MARKS[line.status]} {line.status.capitalize()}"),
        ),
        tag("p.figures", figures, limit),
        _gauge(line),
        expected,
        tag("p.how", how_come(line)),
        tag("details", tag("summary", "Where this comes from"), *(tag("p.how", text) for text in _origins(line))),
    )


def _origins(line: BudgetCheck) -> tuple[str, ...]:
    """The basis of a predicted value, and the source of the limit."""
    basis = (f"Prediction: {line.predicted.basis}",) if line.predicted else ()
    return (*basis, f"Limit: {origin(line)}")


def _gauge(line: BudgetCheck) -> Markup:
    """A budget value as a bar relative to its limit; above the limit the bar is full and a mark shows the limit.

    A predicted value is a hatched band on a scale that contains the limit, whose mark is always drawn.
    """
    if line.predicted and line.limit > 0:
        most = 1.1 * max(line.predicted.high, line.limit)
        low, high, limit = (100 * figure / most for figure in (line.predicted.low, line.predicted.high, line.limit))
        band = tag("i.band", style=f"margin-left:{low:.1f}%;width:{high - low:.1f}%")
        return tag("div.gauge", band, tag("u", style=f"left:{limit:.1f}%"), aria_hidden="true")
    if line.value is None or line.limit <= 0:
        return tag("div.gauge.none", aria_hidden="true")
    share = max(0.0, line.value / line.limit)
    bar = tag(f"i.{line.status}", style=f"width:{100 * min(1.0, share):.1f}%")
    mark = tag("u", style=f"left:{100 / share:.1f}%") if share > 1 and line.status == "failed" else Markup()
    return tag("div.gauge", bar, mark, aria_hidden="true")
