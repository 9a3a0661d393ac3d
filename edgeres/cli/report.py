"""``edgeres report``: the pages of a finished run, drawn again from its ``report.json`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli._compilation import print_run
from edgeres.cli._options import Commands, Options, text

if TYPE_CHECKING:
    from edgeres.cli._console import Screen

PLACE = 80


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres report``."""
    command = commands.add_parser("report", help="draw a finished run's report again")
    command.add_argument("run", type=text, metavar="RUN", help="run folder, such as build/resnet18-jetson")
    command.add_argument("--json", action="store_true", help="print report.json")


def run(options: Options, screen: Screen) -> int:
    """Draws the pages and prints the summary; the exit code is the run's."""
    from edgeres.report import report_files
    from edgeres.runs import document
    from edgeres.runs.verdict import exit_code

    folder = Path(options.run)
    report_files.render(folder)
    written = (folder / document.JSON).read_text(encoding="utf-8")
    finished = document.decode(written, document.JSON)
    print_run(finished, folder, options, screen, written)
    return exit_code(finished)
