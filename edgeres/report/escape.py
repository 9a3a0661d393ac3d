"""Text as GitHub's Markdown that says the same and does nothing else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\`*\[\]~|#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")  # inside a word "_" means nothing

_FEW = 26
"""Letters: a drop with its interval."""


def prose(value: str) -> str:
    """Plain text as one line of Markdown that says the same and does nothing: no HTML, no emphasis, no table cells."""
    line = " ".join(value.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line).replace("@", "@\u200b")


def code(value: str) -> str:
    """Text as an inline code span that no backtick or pipe of it can leave."""
    line = " ".join(value.split()).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if "`" in line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def block(value: str, language: str = "") -> str:
    """Text as a fenced block that no fence inside it can end."""
    longest = max((len(run) for run in re.findall("`{3,}", value)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{value.rstrip()}\n{fence}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1, last: int = 0) -> str:
    """A table of finished cells; between ``words`` columns in front and ``last`` behind stand figures.

    Figures are right-aligned and keep together with their units, however narrow the screen.
    """
    figures = range(words, len(heads) - last)
    ruler = ["---:" if index in figures else "---" for index in range(len(heads))]
    solid = [[whole(cell) if index in figures else cell for index, cell in enumerate(row)] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ruler, *solid))


def bullets(sentences: Iterable[str]) -> str:
    """Sentences as a list, one bullet each."""
    return "\n".join(f"- {prose(sentence)}" for sentence in sentences)


def whole(words: str) -> str:
    """Words that no line breaks between, as long as they are few: ``98.33 %``."""
    return words.replace(" ", "\u00a0") if len(words) <= _FEW else words
