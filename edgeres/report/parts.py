"""What the sections of the page are made of."""

from __future__ import annotations

from edgeres.report.markup import Markup, tag

NONE = "\u2013"
"""What stands in a cell without a figure."""


def section(anchor: str, title: str, *children: str) -> Markup:
    """A titled part of the page that a link can point to."""
    heading = tag("h2", title, at={"id": f"{anchor}-title"})
    return tag("section.card", heading, *children, at={"id": anchor, "aria-labelledby": f"{anchor}-title"})


def missing(why: str) -> Markup:
    """What stands where a figure is unmeasured; it looks like nothing that passed."""
    return tag("p.missing", tag("span.pill.unmeasured", "\u25cb Unmeasured"), f" {why}")


def plot(title: str, drawing: Markup, reading: str) -> Markup:
    """A plot with its title and how to read it."""
    return tag("figure", tag("figcaption", tag("b", title), tag("span", reading)), drawing)


def how(sentence: str) -> Markup:
    """How a figure was obtained, in smaller type."""
    return tag("p.how", sentence)


def facts(*pairs: tuple[str, str]) -> Markup:
    """Pairs of a name and a figure."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs))
