"""``edgeres measured``: what a device measured, into the report of the run that was on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli.commands import tell
from edgeres.cli.console import Screen
from edgeres.pipeline.run_folder import RunFolder
from edgeres.report import report_files
from edgeres.runs import document
from edgeres.runs.device import read_device
from edgeres.runs.measured import check_device, check_origin, with_measurement
from edgeres.runs.verdict import exit_code
from edgeres.targets.target import find_target

if TYPE_CHECKING:
    from argparse import Namespace


def measured_command(options: Namespace, given: list[str]) -> int:
    """Reads, checks, and only then writes: whatever is wrong, the report that is there stays."""
    folder = Path(options.run)
    found = read_device(Path(options.device))
    before = document.load(folder)  # a folder without a run must not become one by being held
    check_origin(before, folder, found)
    check_device(find_target(before.target.name), found)
    with RunFolder(folder).held():
        run = with_measurement(document.load(folder), found)
        report_files.write(run, folder)
    tell(run, folder, options, Screen(quiet=options.quiet))
    return exit_code(run)
