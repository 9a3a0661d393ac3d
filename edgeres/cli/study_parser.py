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
    command.add_argument("--size", type=_positive, metavar="PX", help="side of the image (default the network's own)")
    command.add_argument("--classes", type=_positive, metavar="N", help="width of a preset's classifier")
    command.add_argument("--explain", action="store_true", help="say what other counters print, and why, term by term")
    command.add_argument("--json", action="store_true", help="machine-readable output")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
