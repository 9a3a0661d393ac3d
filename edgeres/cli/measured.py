"""``edgeres measured``: the measurements of a device, added to the report of the run that was on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli._compilation import print_run

if TYPE_CHECKING:
    from edgeres.cli._console import Screen
    from edgeres.cli._options import Commands, Options

PLACE = 90

_EXIT_CODES = (
    "exit codes: 0 nothing is over a budget, 1 the device answers wrongly, 2 bad usage, or a file that is foreign, "
    "damaged or absurd, 3 over a budget, 4 unmeasured under --strict"
)


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres measured``."""
    help_text = "take what a device measured into a finished run's report"
    description = f"{help_text.capitalize()}."
    add = commands.add_parser("measured", help=help_text, description=description, epilog=_EXIT_CODES).add_argument
    add("run", metavar="RUN", help="run folder whose bundle was on the device")
    add("device", metavar="device.json", help="what build_engine.py, run_engine.py or check_device.py wrote")
    add("--json", action="store_true", help="print report.json on standard output")
    add("--quiet", action="store_true", help="print the verdict only")


def run(options: Options, screen: Screen) -> int:
    """Reads and checks the device's file, and only then writes: after an error the old report is unchanged."""
    from edgeres.pipeline.run_folder import RunFolder
    from edgeres.report import report_files
    from edgeres.runs import document
    from edgeres.runs.device import read_device
    from edgeres.runs.measured import check_device, check_origin, with_measurement
    from edgeres.runs.verdict import exit_code
    from edgeres.targets.target import find_target

    folder = Path(options.run)
    measurement = read_device(Path(options.device))
    before = document.load(folder)  # before the lock, which would create a folder that does not exist
    check_origin(before, folder, measurement)
    check_device(find_target(before.target.name), measurement)
    with RunFolder(folder).held():
        after = with_measurement(document.load(folder), measurement)
        report_files.write(after, folder)
    print_run(after, folder, options, screen)
    return exit_code(after)
