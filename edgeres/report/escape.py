"""Escaping of plain text as GitHub Flavored Markdown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\`*\[\]~|#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")  # inside a word "_" is literal

_FEW = 26
"""Most characters of a cell that never wraps."""


def prose(value: str) -> str:
    """Plain text as one line of Markdown without HTML, emphasis or table cells."""
    line = " ".join(value.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line).replace("@", "@\u200b")


def code(value: str) -> str:
    """Text as an inline code span; backticks and pipes in it are escaped."""
    line = " ".join(value.split()).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if "`" in line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def block(value: str, language: str = "") -> str:
    """Text as a fenced code block; the fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall("`{3,}", value)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{value.rstrip()}\n{fence}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1, last: int = 0) -> str:
    """A Markdown table of escaped cells; columns between the first ``words`` and the ``last`` ones hold figures.

    Figures are right-aligned and do not wrap between number and unit.
    """
    figures = range(words, len(heads) - last)
    ruler = ["---:" if index in figures else "---" for index in range(len(heads))]
    solid = [[whole(cell) if index in figures else cell for index, cell in enumerate(row)] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ruler, *solid))


def bullets(sentences: Iterable[str]) -> str:
    """Sentences as a bullet list."""
    return "\n".join(f"- {prose(sentence)}" for sentence in sentences)


def whole(words: str) -> str:
    """Words joined by non-breaking spaces where the text is short: ``98.33 %``."""
    return words.replace(" ", "\u00a0") if len(words) <= _FEW else words
