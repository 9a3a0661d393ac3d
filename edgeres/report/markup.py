"""HTML and SVG elements, escaped by construction: a plain string can only become text.

All markup is well-formed XML too, so that a test can parse a whole page strictly.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_VOID = frozenset({"meta", "br", "img", "link", "wbr"})


class Markup(str):
    """Escaped HTML; only ``tag``, ``text`` and ``join`` create it."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Escapes plain text; characters that HTML forbids become U+FFFD."""
    return value if isinstance(value, Markup) else Markup(escape(_CONTROLS.sub("\ufffd", str(value))))


def join(*parts: str) -> Markup:
    """Concatenates markup; plain strings are escaped."""
    return Markup("".join(text(part) for part in parts))


def tag(name: str, *children: str | int, at: Mapping[str, str | int | float] | None = None) -> Markup:
    """An element.

    Args:
        name: Element name, followed by dotted classes: ``td.number``.
        children: Markup as it is, anything else escaped.
        at: Attributes; floats are written with at most two decimals.
    """
    element, *classes = name.split(".")
    attributes: dict[str, str | int | float] = {"class": " ".join(classes)} if classes else {}
    attributes.update(at or {})
    written = "".join(f' {key}="{text(_attribute(value))}"' for key, value in attributes.items())
    if element in _VOID:
        return Markup(f"<{element}{written}/>")
    return Markup(f"<{element}{written}>{''.join(text(child) for child in children)}</{element}>")


def _attribute(value: str | int | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]], label: str, *, words: int = 1) -> Markup:
    """A table in a container that scrolls sideways on narrow screens.

    Args:
        heads: Column heads.
        rows: Cells; markup or plain text.
        label: Accessible name of the table.
        words: Number of leading text columns; the others hold figures and are right-aligned.
    """
    kinds = ["td.words"] * words + ["td.number"] * (len(heads) - words)
    head = tag(
        "tr",
        *(tag(kind.replace("td", "th"), cell, at={"scope": "col"}) for kind, cell in zip(kinds, heads, strict=True)),
    )
    body = [tag("tr", *(tag(kind, cell) for kind, cell in zip(kinds, row, strict=True))) for row in rows]
    inner = tag("table", tag("thead", head), tag("tbody", *body))
    return tag("div.scroll", inner, at={"role": "region", "aria-label": label, "tabindex": 0})
