"""Markdown tables, and the block of a document that a command keeps up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HEADING = "## Numbers"
BEGIN, END = "<!-- numbers:begin -->", "<!-- numbers:end -->"
REPORT = "<!-- report:begin -->", "<!-- report:end -->"
"""Around the output of the main job; the document has them from the start."""


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table whose columns line up as plain text too.

    Args:
        heads: Column titles.
        rows: Cells; a ``|`` inside one is escaped.
        words: How many columns at the left are words; the others are figures and flush right.
    """
    table = [[cell.replace("|", "\\|") for cell in row] for row in (heads, *rows)]
    if any(len(row) != len(heads) for row in table):
        raise ValueError(f"every row of this table has {len(heads)} cells")
    widths = [max(3, *(len(row[column]) for row in table)) for column in range(len(heads))]
    rule = ["-" * width if column < words else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines = []
    for row in (table[0], rule, *table[1:]):
        cells = (
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def with_block(document: str, body: str, markers: tuple[str, str] = (BEGIN, END)) -> str:
    """A document whose text between the markers is ``body``; all else is as it was.

    Without markers the block goes under the heading ``## Numbers``, which is added at the end where there is none.

    Raises:
        UsageError: One marker without the other, one of them twice, or the end before the begin.
    """
    first, last = markers
    block = f"{first}\n{body.strip()}\n{last}"
    counts = document.count(first), document.count(last)
    if counts == (0, 0) and markers == (BEGIN, END):
        return _placed(document, block)
    begin, end = document.find(first), document.find(last)
    if counts != (1, 1) or end < begin:
        raise UsageError(f"the document has no single pair of {first} and {last}", "leave one of each, in that order")
    return document[:begin] + block + document[end + len(last) :]


def _placed(document: str, block: str) -> str:
    """The document with a first block."""
    lines = document.splitlines(keepends=True)
    for index, line in enumerate(lines):
        if line.rstrip() == HEADING:
            before, after = "".join(lines[: index + 1]), "".join(lines[index + 1 :])
            return (
                f"{before.rstrip()}\n\n{block}\n{after if after.startswith(chr(10)) or not after else chr(10) + after}"
            )
    return f"{document.rstrip()}\n\n{HEADING}\n\n{block}\n".lstrip("\n")
