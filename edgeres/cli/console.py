"""What people see while a run is under way: bars with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from edgeres.report.figures import percent, scaled, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from edgeres.artifact import Step
    from edgeres.pipeline import Finished
    from edgeres.progress import Advance

_STATUS_STYLE = {"passed": "green", "failed": "bold red", "unmeasured": "yellow"}


_LOG_WIDTH = 200
"""Columns of a table that no terminal limits."""


class _Patient(Console):
    """A console whose reader may leave: the run goes on, in silence."""

    def on_broken_pipe(self) -> None:
        """Stops printing instead of ending the program."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class Screen:
    """Standard error of a run, and the tables on standard output.

    Args:
        quiet: Show nothing but results.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.err = _Patient(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self.out = _Patient(highlight=False, soft_wrap=True)
        if not self.out.is_terminal:
            self.out.width = _LOG_WIDTH

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        """A bar on a terminal; nothing elsewhere, where the finished stage has its own line."""
        if not self.err.is_terminal or self.quiet:
            yield lambda units: None
            return
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.err, transient=True) as bars:
            task = bars.add_task(label, total=total)
            yield lambda units: bars.advance(task, units)

    def begun(self, stage: str) -> None:
        """Says on a terminal-less log what is running now."""
        if not self.err.is_terminal:
            self.err.print(f"  ...  {stage}")

    def finished(self, stage: Finished) -> None:
        """One line per finished stage."""
        took = "cached" if stage.cached else seconds(stage.entry.seconds)
        facts = ", ".join(fact for step in stage.steps for fact in _facts(step))
        self.err.print(Text.assemble(("  done ", "green"), f" {stage.name:<15}{took:>9}  {facts}"))
        for step in stage.steps:
            for text in step.shown:
                self.note(text)

    def note(self, text: str) -> None:
        """Something the user should know."""
        self.err.print(Text.assemble(("  note ", "yellow"), f" {text}"))

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table on standard output; a status colours itself."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for head in heads:
            table.add_column(head, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell, _STATUS_STYLE.get(cell, "")) for cell in row))
        self.out.print(table)


def _facts(step: Step) -> list[str]:
    """The figures of a step that fit on its line."""
    known: dict[str, Callable[[float], str]] = {
        "top1": lambda value: f"top-1 {percent(value)}",
        "macs": lambda value: f"{scaled(value)}MACs",
        "max_abs_delta_logit": lambda value: f"max |delta logit| {value:.1e}",
        "sqnr_db": lambda value: f"SQNR {value:.1f} dB",
        "agreement": lambda value: f"agreement {percent(value)}",
        "mib": lambda value: f"{value:.2f} MiB",
    }
    return [show(step.metrics[name]) for name, show in known.items() if name in step.metrics]
