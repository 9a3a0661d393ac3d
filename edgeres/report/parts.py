"""Common elements of the sections of the HTML report."""

from __future__ import annotations

from edgeres.report.markup import Markup, tag

NONE = "\u2013"
"""Cell text of a missing figure."""


def section(anchor: str, title: str, *children: str) -> Markup:
    """A titled section with an anchor."""
    heading = tag("h2", title, at={"id": f"{anchor}-title"})
    return tag("section.card", heading, *children, at={"id": anchor, "aria-labelledby": f"{anchor}-title"})


def missing(why: str) -> Markup:
    """Placeholder of an unmeasured figure, distinct from a passed one."""
    return tag("p.missing", tag("span.pill.unmeasured", "\u25cb Unmeasured"), f" {why}")


def plot(title: str, drawing: Markup, reading: str) -> Markup:
    """A plot with its title and a reading aid."""
    return tag("figure", tag("figcaption", tag("b", title), tag("span", reading)), drawing)


def how(sentence: str) -> Markup:
    """A note on how a figure was obtained, in small type."""
    return tag("p.how", sentence)


def facts(*pairs: tuple[str, str]) -> Markup:
    """Pairs of a name and a figure as a list."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs))
