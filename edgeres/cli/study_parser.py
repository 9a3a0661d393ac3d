"""Options of the commands that study a network or finished runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Any]


def macs(commands: Commands) -> None:
    """``edgeres macs``."""
    text = "count MACs, parameters and peak memory; explain what other counters print"
    command = commands.add_parser("macs", help=text)
    command.add_argument("model", metavar="MODEL", help="preset (see 'edgeres models') or any .onnx classifier")
    command.add_argument("--size", type=positive, metavar="PX", help="side of the image (default the network's own)")
    command.add_argument("--classes", type=positive, metavar="N", help="width of a preset's classifier")
    command.add_argument("--explain", action="store_true", help="say what other counters print, and why, term by term")
    command.add_argument("--json", action="store_true", help="machine-readable output")


def compare(commands: Commands) -> None:
    """``edgeres compare``."""
    command = commands.add_parser("compare", help="set two finished runs side by side")
    command.add_argument("first", metavar="A", help="run folder, such as build/resnet18-jetson")
    command.add_argument("second", metavar="B", help="another one")
    command.add_argument("--html", metavar="FILE", help="write it as a page")
    command.add_argument("--json", action="store_true", help="machine-readable output")


def parity(commands: Commands) -> None:
    """``edgeres parity``."""
    text = "run a finished run's graph on every runtime here and in exact integers, and compare"
    codes = "exit codes: 0 every pair agrees, 1 error, 2 bad usage or input, 3 some pair agrees less than wanted"
    command = commands.add_parser("parity", help=text, epilog=codes)
    command.add_argument("run", metavar="RUN", help="run folder, such as build/resnet18-x86")
    command.add_argument(
        "--images", type=positive, default=1000, metavar="N", help="validation images to answer (default 1000)"
    )
    command.add_argument(
        "--layers", type=positive, default=16, metavar="N", help="images to look at layer by layer (default 16)"
    )
    command.add_argument(
        "--agreement", type=share, default=99.9, metavar="PERCENT", help="same answers wanted (default 99.9)"
    )
    command.add_argument("--runtimes", metavar="NAME,NAME", help="try these besides torch and ONNX Runtime unoptimised")
    command.add_argument("--out", metavar="DIR", help="where parity.html, .json and .svg go (default RUN)")
    command.add_argument("--cache", metavar="DIR", help="where finished stages are kept (default ~/.cache/edgeres)")
    command.add_argument("--json", action="store_true", help="machine-readable output")
    command.add_argument("--quiet", action="store_true", help="print the verdict only")


def reproduce(commands: Commands) -> None:
    """``edgeres reproduce``."""
    text = "run a finished run again from nothing and compare every file"
    codes = "exit codes: 0 every file is the same, 1 error, 2 bad usage or input, 3 some file differs"
    command = commands.add_parser("reproduce", help=text, epilog=codes)
    command.add_argument("run", metavar="RUN", help="run folder, or the manifest.json in it")
    command.add_argument("--out", metavar="DIR", help="keep the second run here (default: nowhere)")
    command.add_argument("--cache", metavar="DIR", help="take finished stages from here (default: an empty cache)")
    command.add_argument("--json", action="store_true", help="machine-readable output")
    command.add_argument("--quiet", action="store_true", help="print the outcome only")


def calibration(commands: Commands) -> None:
    """``edgeres calibration``."""
    command = commands.add_parser("calibration", help="keep a run's scales, or set two tables side by side")
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    save = actions.add_parser("save", help="keep a run's scales in a file, for 'edgeres compile --scales FILE'")
    save.add_argument("run", metavar="RUN", help="run folder, such as build/resnet18-jetson")
    save.add_argument("file", metavar="FILE", help="where to; a file that holds something else is not overwritten")
    save.add_argument("--force", action="store_true", help="overwrite FILE")
    codes = "exit codes: 0 nothing differs, 2 bad usage or input, 3 something differs"
    diff = actions.add_parser("diff", help="compare two tables, scale by scale", epilog=codes)
    diff.add_argument("first", metavar="A", help="a saved table, or a run folder")
    diff.add_argument("second", metavar="B", help="another one")
    diff.add_argument("--json", action="store_true", help="machine-readable output")


def positive(text: str) -> int:
    """An argument that counts something.

    Raises:
        ArgumentTypeError: It is no whole number above zero.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def share(text: str) -> float:
    """An argument in percent.

    Raises:
        ArgumentTypeError: It is no number from 0 to 100.
    """
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage, such as 99.9")
    return found
