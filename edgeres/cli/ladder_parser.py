"""Options of the recovery ladder: ``edgeres quantize`` and ``edgeres sensitivity``."""

from __future__ import annotations

import argparse
import math
from typing import Any

Commands = "argparse._SubParsersAction[argparse.ArgumentParser]"


def search_options(command: argparse.ArgumentParser) -> None:
    """``--effort`` and ``--time-budget``, wherever a network is quantized."""
    command.add_argument(
        "--effort",
        choices=("quick", "default", "max"),
        help="techniques that the search for the best INT8 network tries: those that cost seconds, minutes, or all",
    )
    command.add_argument(
        "--time-budget",
        type=_minutes,
        metavar="MINUTES",
        help="most that this search may take (default 10, with --effort max no limit)",
    )


def quantize(command: argparse.ArgumentParser) -> None:
    """What ``edgeres quantize`` has beyond the other stages."""
    search_options(command)
    command.add_argument(
        "--explain",
        action="store_true",
        help="print every candidate with its worth and its price; runs nothing when nothing is changed",
    )


def sensitivity(commands: argparse._SubParsersAction[Any]) -> None:
    """``edgeres sensitivity``."""
    command = commands.add_parser("sensitivity", help="say which layers of a finished run INT8 hurts, one at a time")
    command.add_argument(
        "run", metavar="RUN", help="run folder, such as build/resnet18-jetson; its report shows it too"
    )
    command.add_argument("--svg", metavar="FILE", help="draw it")
    command.add_argument("--cache", metavar="DIR", help="where finished stages are kept (default ~/.cache/edgeres)")
    command.add_argument("--json", action="store_true", help="machine-readable output")
    command.add_argument("--quiet", action="store_true", help="print the table only")


def _minutes(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes, such as 10")
    return found
