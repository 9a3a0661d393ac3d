"""Options of the commands that reach a device: ``edgeres build BUNDLE`` there, ``edgeres measured`` back here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    Commands = argparse._SubParsersAction[Any]

_BUNDLE = (
    "RUN may be a device bundle: then every file's sha256 is checked and its engine is built, compared and timed on "
    "this device, without torch. This needs edgeres on the device, so Python 3.11 or newer; with an older one, as in "
    "JetPack 4 to 6, the commands in the bundle's README.md do it. exit codes of that: 0 done, 1 the build failed or "
    "golden answers differ, 2 damaged, 3 no TensorRT or no GPU here. Of a run: "
)
_EXIT_CODES = (
    "exit codes: 0 nothing is over a budget, 1 the device answers wrongly, 2 bad usage, or a file that is foreign, "
    "damaged or absurd, 3 over a budget, 4 unmeasured under --strict"
)


def bundle(command: argparse.ArgumentParser) -> None:
    """What ``edgeres build`` does with a bundle."""
    command.epilog = f"{_BUNDLE}{command.epilog}"


def measured(commands: Commands) -> None:
    """``edgeres measured``."""
    text = "take what a device measured into a finished run's report"
    command = commands.add_parser("measured", help=text, description=f"{text.capitalize()}.", epilog=_EXIT_CODES)
    command.add_argument("run", metavar="RUN", help="run folder whose bundle was on the device")
    command.add_argument(
        "device", metavar="device.json", help="what build_engine.py, run_engine.py or check_device.py wrote"
    )
    command.add_argument("--json", action="store_true", help="print report.json on standard output")
    command.add_argument("--quiet", action="store_true", help="print the verdict only")
