"""HTML and SVG elements, escaped by construction: a plain string can only become text.

All markup is well-formed XML too, so that a test can parse a whole page strictly.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_VOID = frozenset({"meta", "br", "img", "link", "wbr"})
NONE = "\u2013"
"""Cell text of a missing figure."""


class Markup(str):
    """Escaped HTML; only ``tag``, ``text`` and ``join`` create it."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Escapes plain text; characters that HTML forbids become U+FFFD."""
    return value if isinstance(value, Markup) else Markup(escape(_CONTROLS.sub("\ufffd", str(value))))


def join(*parts: str) -> Markup:
    """Concatenates markup; plain strings are escaped."""
    return Markup("".join(text(part) for part in parts))


def tag(name: str, /, *children: str | int, **attributes: str | int | float) -> Markup:
    """An element, whose name may be followed by dotted classes: ``td.number``.

    An underscore in an attribute's name is a hyphen, and floats are written with at most two decimals.
    """
    element, *classes = name.split(".")
    named = ({"class": " ".join(classes)} if classes else {}) | attributes
    written = "".join(f' {key.replace("_", "-")}="{text(_attribute(value))}"' for key, value in named.items())
    if element in _VOID:
        return Markup(f"<{element}{written}/>")
    return Markup(f"<{element}{written}>{join(*map(text, children))}</{element}>")


def _attribute(value: str | int | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], label: str, *, words: int = 1) -> Markup:
    """A table in a container that scrolls sideways on narrow screens; the label is its accessible name.

    The first ``words`` columns hold text; the others hold figures and are right-aligned.
    """
    kinds = ["words"] * words + ["number"] * (len(heads) - words)
    head = tag("tr", *(tag(f"th.{kind}", cell, scope="col") for kind, cell in zip(kinds, heads, strict=True)))
    body = [tag("tr", *(tag(f"td.{kind}", cell) for kind, cell in zip(kinds, row, strict=True))) for row in rows]
    inner = tag("table", tag("thead", head), tag("tbody", *body))
    return tag("div.scroll", inner, role="region", aria_label=label, tabindex=0)


def section(anchor: str, title: str, *children: str) -> Markup:
    """A titled section with an anchor."""
    heading = tag("h2", title, id=f"{anchor}-title")
    return tag("section.card", heading, *children, id=anchor, aria_labelledby=f"{anchor}-title")


def missing(why: str) -> Markup:
    """Placeholder of an unmeasured figure, distinct from a passed one."""
    return tag("p.missing", tag("span.pill.unmeasured", "\u25cb Unmeasured"), f" {why}")


def plot(title: str, drawing: Markup, reading: str) -> Markup:
    """A plot with its title and a reading aid."""
    return tag("figure", tag("figcaption", tag("b", title), tag("span", reading)), drawing)


def how(sentence: str) -> Markup:
    """A note on how a figure was obtained, in small type."""
    return tag("p.how", sentence)


def bullets(kind: str, sentences: Iterable[str]) -> Markup:
    """A bullet list of that element; empty without sentences."""
    items = [tag("li", sentence) for sentence in sentences]
    return tag(kind, *items) if items else Markup()


def details(summary: str, *children: str) -> Markup:
    """Content that is collapsed under its summary."""
    return tag("details", tag("summary", summary), *children)


def digest(sha256: str) -> Markup:
    """The first twelve hex digits of a hash, with the whole as tooltip."""
    return tag("code", sha256[:12], title=sha256)


def facts(*pairs: tuple[str, str]) -> Markup:
    """Pairs of a name and a figure as a list."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs))
