"""Printing of progress, notes, errors and results, and writing of the files that options name."""

from __future__ import annotations

import errno
import json
import os
import shlex
from contextlib import contextmanager
from pathlib import Path
from textwrap import TextWrapper
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from edgeres.errors import StoreError
from edgeres.runs.figures import percent, scaled, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from edgeres.artifacts.artifact import Step
    from edgeres.pipeline.runner import FinishedStage, Pipeline
    from edgeres.progress import Advance
    from edgeres.report.next_steps import NextStep

_STATUS_STYLE = {"passed": "green", "failed": "bold red", "unmeasured": "yellow"}
_LOG_WIDTH = 200  # width in columns of a table that is not printed on a terminal


class _PipeConsole(Console):
    """A console that goes silent when the program that reads it ends, while the run goes on."""

    def on_broken_pipe(self) -> None:
        """Stops printing instead of ending the program."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class Screen:
    """Progress and notes on standard error, results on standard output; a quiet screen prints results only.

    On a terminal, text is wrapped between words at its width; elsewhere every line is printed whole, for grep.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.err = _PipeConsole(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self.out = _PipeConsole(highlight=False, soft_wrap=True)
        if not self.out.is_terminal:
            self.out.width = _LOG_WIDTH

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        """A progress bar on a terminal; nothing elsewhere, where each finished stage has its own line."""
        if not self.err.is_terminal or self.quiet:
            yield lambda units: None
            return
        times = (TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn())
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), *times)
        with Progress(*columns, console=self.err, transient=True) as bars:
            task = bars.add_task(label, total=total)
            yield lambda units: bars.advance(task, units)

    def planned(self, pipeline: Pipeline) -> None:
        """Notes before the first stage that the network will be trained from random weights, and how long that takes.

        The sample task is always trained from random weights, so it has no such note.
        """
        from edgeres.pipeline.estimate import training_from_scratch

        request = pipeline.plan.request
        if request.data is None or (expected := training_from_scratch(pipeline)) is None:
            return
        self.note(
            f"no --weights: {request.model} is trained from random weights on {len(pipeline.plan.dataset.train):,} "
            f"images, about {seconds(expected)} on this machine; --weights FILE starts from trained ones "
            "(.safetensors, .pth, or a torchvision name such as IMAGENET1K_V1)"
        )

    def begun(self, stage: str) -> None:
        """Prints the stage that starts, except on a terminal, which shows its bar."""
        if not self.err.is_terminal:
            self.err.print(f"  ...  {stage}")

    def finished(self, stage: FinishedStage) -> None:
        """Prints one line for a finished stage: its name, time and figures, and its notes."""
        time = "cached" if stage.cached else seconds(stage.entry.seconds)
        facts = ", ".join(fact for step in stage.steps for fact in _facts(step))
        _print(self.err, f"  done  {stage.name:<15}{time:>9}  {facts}", indent=8, style="green", styled=6)
        for step in stage.steps:
            for text in step.shown:
                self.note(text)

    def note(self, text: str) -> None:
        """Prints a note on standard error."""
        _print(self.err, f"  note  {text}", indent=8, style="yellow", styled=6)

    def json(self, document: object, *, ascii_only: bool = True) -> None:
        """Prints data, dataclasses among it, as JSON on standard output; ``ascii_only`` escapes other characters."""
        from edgeres.settings import plain

        self.out.out(json.dumps(plain(document), indent=2, ensure_ascii=ascii_only), highlight=False)

    def line(self, text: str, indent: int = 2) -> None:
        """Prints one line of results; on a terminal its continuations are indented. A leading status is coloured."""
        status = text.partition(" ")[0]
        _print(self.out, text, indent, _STATUS_STYLE.get(status, ""), len(status))

    def command(self, text: str) -> None:
        """Prints a line with a command, never broken, so that it can be copied."""
        self.out.out(text, highlight=False)

    def step(self, label: str, step: NextStep) -> None:
        """Prints a next step; on a narrow terminal its command is broken with backslashes, so that it still runs."""
        width = self.out.width
        if not self.out.is_terminal or len(label) + len(step.line) <= width:
            self.command(label + step.line)
            return
        if len(label) + len(step.text) <= width:
            self.command(label + step.text)
        elif step.command:
            self.command(label.rstrip())
            self.command("  " + " \\\n    ".join(_pieces(step.text, width - 6)))
        elif " " in step.text:
            self.line(label + step.text, len(label))
        else:
            self.command(f"{label.rstrip()}\n  {step.text}")
        if step.about:
            self.line(f"{' ' * len(label)}# {step.about}", len(label) + 2)

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Prints a table on standard output; a status is coloured.

        Where a terminal is too narrow for the longest word of every column, each row is a block of ``head: cell``.
        """
        cells = [list(row) for row in rows]
        columns = [[head, *column] for head, *column in zip(heads, *cells, strict=True)]
        longest = [max(cell_len(word) for cell in column for word in (cell.split() or [""])) for column in columns]
        if self.out.is_terminal and sum(longest) + 2 * (len(longest) - 1) > self.out.width:
            for first, *rest in cells:
                self.line(first)
                for head, cell in zip(heads[1:], rest, strict=True):
                    if cell not in ("", "-"):
                        self.line(f"  {head}: {cell}", 4)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for head, width in zip(heads, longest, strict=True):
            table.add_column(head, overflow="fold", min_width=width)
        for row in cells:
            table.add_row(*(Text(cell, _STATUS_STYLE.get(cell, "")) for cell in row))
        self.out.print(table, soft_wrap=not self.out.is_terminal)


def write_file(path: Path, data: bytes, hint: str, *, make_folder: bool = False) -> None:
    """Writes a file atomically; ``StoreError`` with the hint where it cannot, as where there is no such folder."""
    from edgeres.artifacts.store import write_beside

    if not (make_folder or path.parent.exists()):
        raise StoreError(f"cannot write {path}: {os.strerror(errno.ENOENT)}", hint)
    write_beside(path, data, hint)


def relative_name(path: Path) -> str:
    """A file's name in a SARIF document: relative below the working directory, absolute elsewhere, in POSIX form."""
    whole, here = path.resolve(), Path.cwd()
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) else whole.as_posix()


def print_error(text: str) -> None:
    """Prints an error in the form of every command: ``edgeres: what: hint`` on standard error."""
    _print(_PipeConsole(stderr=True, highlight=False, soft_wrap=True), f"edgeres: {text}", indent=2)


def _print(console: Console, text: str, indent: int, style: str = "", styled: int = 0) -> None:
    """Prints one line, its first ``styled`` characters in a style; its own line breaks are kept.

    On a terminal it is wrapped between words, and continuations are indented; a word that is wider, such as a path,
    stays whole.
    """
    lines = text.splitlines() or [""]
    if console.is_terminal:
        margin = " " * min(indent, max(0, console.width // 4))
        wrapper = TextWrapper(console.width, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False)
        lines = [part for line in lines for part in wrapper.wrap(line) or [""]]
    for place, line in enumerate(lines):
        shown = Text.assemble((line[:styled], style), line[styled:]) if style and place == 0 else Text(line)
        console.print(shown)


def _pieces(command: str, width: int) -> list[str]:
    """A command in pieces of whole words, each no wider than ``width`` columns unless one word is."""
    pieces = [""]
    for word in shlex.split(command, posix=False):
        if pieces[-1] and len(pieces[-1]) + 1 + len(word) > width:
            pieces.append("")
        pieces[-1] = f"{pieces[-1]} {word}".lstrip()
    return pieces


def _facts(step: Step) -> list[str]:
    """The main figures of a step; agreement is with the float reference after verify, with float before INT8 else."""
    compared = "same answer as the float reference" if step.stage == "verify" else "same answer as before INT8"
    writers: dict[str, Callable[[float], str]] = {
        "top1": lambda value: f"top-1 {percent(value)}",
        "score": lambda value: f"score {percent(value)}",
        "macs": lambda value: f"{scaled(value)}MACs",
        "max_abs_delta_logit": lambda value: f"max |delta logit| {value:.1e}",
        "sqnr_db": lambda value: f"SQNR {value:.1f} dB",
        "agreement": lambda value: f"{compared} {percent(value)}",
        "mib": lambda value: f"{value:.2f} MiB",
    }
    return [show(value) for name, show in writers.items() if (value := getattr(step.metrics, name)) is not None]
