"""``edgeres report``: the pages of a finished run, drawn again from its ``report.json`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli.argument_types import text
from edgeres.cli.summary import failure, print_summary

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.cli.command_line import Commands
    from edgeres.cli.console import Screen


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres report``."""
    command = commands.add_parser("report", help="draw a finished run's report again")
    command.set_defaults(function=run)
    command.add_argument("run", type=text, metavar="RUN", help="run folder, such as build/resnet18-jetson")
    command.add_argument("--json", action="store_true", help="print report.json")


def run(options: Namespace, screen: Screen, arguments: list[str]) -> int:
    """Draws the pages and prints the summary; the exit code is the run's."""
    from edgeres.report import report_files
    from edgeres.runs import document
    from edgeres.runs.verdict import exit_code

    folder = Path(options.run)
    pages = report_files.render(folder)
    written = (folder / document.JSON).read_text(encoding="utf-8")
    finished = document.decode(written, document.JSON)
    if finished.error:
        screen.failure(failure(finished))
    if options.json:
        screen.out.out(written, end="")
    else:
        print_summary(finished, screen, pages[-1])
    return exit_code(finished)
