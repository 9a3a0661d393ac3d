"""``report.html``: one self-contained file without scripts, fonts or network access; the verdict comes first."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from edgeres.report import sections
from edgeres.report.calibration import calibration
from edgeres.report.markup import Markup, bullets, details, how, join, missing, section, tag
from edgeres.report.recovery import recovery
from edgeres.report.select import metric_title, trail
from edgeres.runs import figures
from edgeres.runs.verdict import line_counts, measuring, opening, outcome, reason, remedies

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeres.artifacts.budget_check import BudgetCheck
    from edgeres.runs.run import Run

_MARKS = {"passed": "\u2713", "failed": "\u2715", "unmeasured": "\u25cb", "incomplete": "\u25cb", "error": "\u2715"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def html(run: Run) -> str:
    """The HTML report; well-formed XML after its doctype, and equal for equal runs."""
    drawn = {
        "budget": _budget,
        "stages": sections.stages,
        "recovery": recovery,
        "accuracy": sections.accuracy,
        "speed": sections.speed,
        "integers": sections.integers,
        "confusion": sections.confusion,
        "flips": sections.flips,
        "calibration": calibration,
        "provenance": sections.provenance,
        "reproduce": sections.reproduce,
    }
    links = [(anchor, anchor.capitalize()) for anchor in drawn]
    title = f"{opening(run)}: {run.model} for {run.target.name}"
    return page(title, _verdict(run), links, *(draw(run) for draw in drawn.values()))


def page(title: str, header: Markup, links: Iterable[tuple[str, str]], *content: Markup) -> str:
    """A self-contained HTML page with its style sheet inside, and links to the anchors of its sections."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title),
        tag("style", Markup(_style())),
    )
    nav = tag("nav", *(tag("a", name, href=f"#{anchor}") for anchor, name in links), aria_label="Sections")
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', header, nav, tag('main', *content)), lang='en')}\n"


@cache
def _style() -> str:
    return files("edgeres.report").joinpath("style.css").read_text(encoding="utf-8")


def _verdict(run: Run) -> Markup:
    result = outcome(run)
    counts, why = line_counts(run), reason(run)
    tally = ", ".join(f"{counts[status]} {status}" for status in ("passed", "failed", "unmeasured") if counts[status])
    hints = (
        ("Hint: ", run.error.hint if run.error else ""),
        *(("What helps: ", text) for text in remedies(run)),
        ("Next: ", measuring(run)),
    )
    top = tag(
        "div.top",
        tag("p.badge", tag("span", _MARKS[result], aria_hidden="true"), f" {opening(run)}"),
        tag("h1", run.model, tag("span.quiet", " for "), run.target.title),
        tag("p.headline", f"{why[0].upper()}{why[1:]}"),
        tag("p.quiet", f"{run.target.runtime}{f' | budget lines: {tally}' if tally else ''}"),
        *(tag("p.hint", tag("b", label), text) for label, text in hints if text),
    )
    return tag(f"header.{result}", top, tag("ul.tiles", *_tiles(run)), bullets("ul.notes", run.notes))


def _tiles(run: Run) -> list[Markup]:
    macs, sizes = trail(run.stages, "macs"), [row.mib for row in run.stages if row.mib is not None]
    a, kernels, total = run.accuracy, run.kernels, run.timings.total_s
    timed = next((row for row in run.timings.latency if row.variant == "int8"), None)
    cached = sum(time.cached for time in run.timings.stages)
    moved = figures.change(macs[-1][1], macs[0][1]) if macs else ""
    since = f"{moved} from first to last stage" if moved else "the same in every stage"
    drop, tail = figures.points(-a.drop_pp) if a else "", figures.millis(timed.p90_ms) if timed else ""
    return [
        _tile(metric_title(run), figures.percent(a.deployed_score) if a else None, f"{drop} against float"),
        _tile("MACs", figures.scaled(macs[-1][1]) if macs else None, since),
        _tile("Size", f"{figures.number(sizes[-1])} MiB" if sizes else None, "the file that ships"),
        _tile("Latency p50", figures.millis(timed.p50_ms) if timed else None, f"p90 {tail}"),
        _tile("In integers", f"{kernels.integer} of {kernels.weighted}" if kernels else None, "weighted layers"),
        _tile("This run", None if total is None else figures.seconds(total), f"{cached} stages from the cache"),
    ]


def _tile(name: str, figure: str | None, quiet: str) -> Markup:
    if figure is None:
        return tag("li.empty", tag("span", name), tag("b", "unmeasured"))
    return tag("li", tag("span", name), tag("b", figure), tag("small", quiet))


def _budget(run: Run) -> Markup:
    if not run.every_line:
        return section("budget", "Budget", missing("The run ended before a budget line was checked."))
    return section("budget", "Budget", tag("ul.budget", *(_line(line) for line in run.every_line)))


def _line(line: BudgetCheck) -> Markup:
    value, limit = figures.compared(line)
    between = ", which rounds to " if figures.relation(line) == "rounds to" else " of at most "
    compared = join(tag("b", value), between) if value else "not measured; at most "
    expected, origins = Markup(), [f"Limit: {figures.origin(line)}"]
    if line.predicted:
        status = line.predicted_status
        pill = tag(f"span.pill.predicted.{status}", figures.PREDICTED[status])
        expected = tag("p.how", pill, f" {figures.predicted_text(line)}")
        origins.insert(0, f"Prediction: {line.predicted.basis}")
    pill = tag(f"span.pill.{line.status}", f"{_MARKS[line.status]} {line.status.capitalize()}")
    return tag(
        f"li.{line.status}",
        tag("div.row", tag("h3", figures.line_title(line.name)), pill),
        tag("p.figures", compared, limit),
        _gauge(line),
        expected,
        how(figures.how_come(line)),
        details("Where this comes from", *map(how, origins)),
    )


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
