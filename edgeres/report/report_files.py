"""The three files of a report: ``report.json``, and the pages ``report.md`` and ``report.html`` drawn from it.

The pages are drawn from the run as read back from JSON, so that they hold nothing the JSON lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.artifacts.store import write_beside
from edgeres.errors import StoreError
from edgeres.report.html import html
from edgeres.report.markdown import markdown
from edgeres.runs.document import JSON, decode, encode, load

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.runs.run import Run

MARKDOWN, HTML = "report.md", "report.html"
NAMES = (JSON, MARKDOWN, HTML)


def write(run: Run, folder: Path) -> tuple[Path, ...]:
    """Writes the three files of a report, each atomically, to a folder that exists; returns their paths."""
    text = encode(run)
    return _place(folder, decode(text, JSON), {JSON: text})


def render(folder: Path) -> tuple[Path, ...]:
    """Rewrites ``report.md`` and ``report.html`` from the ``report.json`` of a run folder."""
    return _place(folder, load(folder), {})


def _place(folder: Path, run: Run, texts: dict[str, str]) -> tuple[Path, ...]:
    """Writes these texts and both pages.

    Raises:
        StoreError: The folder cannot be written.
    """
    if not folder.is_dir():
        raise StoreError(f"cannot write {folder}: no such folder", "choose --out")
    texts |= {MARKDOWN: markdown(run), HTML: html(run)}
    for name, text in texts.items():
        write_beside(folder / name, text.encode(), "free the disk or choose --out")
    return tuple(folder / name for name in texts)
