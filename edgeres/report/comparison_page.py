"""HTML page of ``edgeres compare``: two runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.report.html import page
from edgeres.report.markup import Markup, how, join, section, table, tag
from edgeres.runs.verdict import outcome, reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.report.comparison import ComparisonRow, RunComparison
    from edgeres.runs.run import Run

_SECTIONS = (
    ("facts", "Accuracy, costs, speed"),
    ("stages", "Seconds of each stage"),
    ("recipe", "Settings that differ"),
    ("inputs", "Inputs that differ"),
    ("versions", "Versions that differ"),
)


def comparison_page(names: tuple[str, str], runs: tuple[Run, Run], found: RunComparison, notes: Sequence[str]) -> str:
    """The HTML page, equal for equal runs.

    Args:
        names: Names of the two runs, as the user gave them.
        runs: The runs.
        found: Their comparison.
        notes: Warnings about the comparison and about the pairing of predictions.
    """
    shown = [(anchor, title, getattr(found, anchor)) for anchor, title in _SECTIONS]
    links = [tag("a", title, href=f"#{anchor}") for anchor, title, _ in shown]
    top = tag(
        "div.top",
        tag("h1", names[0], tag("span.quiet", " and "), names[1]),
        *(_run(name, run) for name, run in zip(names, runs, strict=True)),
    )
    listed = tag("ul.notes", *(tag("li", note) for note in notes)) if notes else Markup()
    return page(
        f"{names[0]} and {names[1]}",
        tag("header", top, listed),
        tag("nav", *links, aria_label="Sections"),
        tag("main", *(_section(anchor, title, rows, names) for anchor, title, rows in shown)),
    )


def _run(name: str, run: Run) -> Markup:
    result = outcome(run)
    pill = {"passed": "passed", "failed": "failed", "error": "failed", "incomplete": "unmeasured"}[result]
    why = f" {name}: {run.model} for {run.target.name} {reason(run)}"
    return tag("p.headline", tag(f"span.pill.{pill}", result.capitalize()), why)


def _section(anchor: str, title: str, rows: Sequence[ComparisonRow], names: tuple[str, str]) -> Markup:
    if not rows:
        return section(anchor, title, how("Nothing differs."))
    cells = [(row.name, *(_cell(text) for text in row.written)) for row in rows]
    return section(anchor, title, tag("div.prose", table(("", *names, "Change"), cells, title)))


def _cell(text: str) -> Markup:
    """A table cell; a long value may wrap, a figure may not."""
    return tag("span.wraps", text) if " " in text or len(text) > 24 else join(text)
