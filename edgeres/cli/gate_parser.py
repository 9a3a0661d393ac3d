"""Options of ``edgeres gate``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Any]

EXIT_CODES = "exit codes: 0 PASS, 1 error, 2 bad usage or input, 3 FAIL, 5 INCONCLUSIVE (too few images to tell)"


def gate(commands: Commands) -> None:
    """``edgeres gate``."""
    text = "judge a finished run's accuracy with statistics, for CI"
    command = commands.add_parser("gate", help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=EXIT_CODES)
    command.add_argument("run", metavar="RUN", help="run folder, such as build/resnet18-jetson")
    margin = command.add_mutually_exclusive_group()
    margin.add_argument(
        "--margin",
        type=_margin,
        metavar="PP",
        help="drop that is still acceptable, in percentage points (default the run's accuracy_drop_pp, or 1)",
    )
    margin.add_argument("--mlperf", action="store_true", help="margin of 1 %% of the reference's accuracy")
    command.add_argument(
        "--alpha", type=_level, default=0.05, metavar="A", help="level of either verdict (default 0.05)"
    )
    command.add_argument(
        "--baseline",
        metavar="REPORT",
        help="report.json of another run: compare what ships with what ships there, instead of with float",
    )
    command.add_argument("--sequential", action="store_true", help="stop as soon as an always-valid test knows")
    command.add_argument("--seed", type=_seed, default=0, metavar="N", help="order of the images for --sequential")
    command.add_argument("--junit", metavar="FILE", help="write JUnit XML")
    command.add_argument("--sarif", metavar="FILE", help="write SARIF 2.1.0")
    command.add_argument("--github", action="store_true", help="print GitHub annotations")
    command.add_argument("--json", action="store_true", help="print the judgement as JSON")


def _number(text: str, least: float, most: float, words: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = least
    if not least < value < most:
        raise argparse.ArgumentTypeError(f"{text!r} is not {words}")
    return value


def _margin(text: str) -> float:
    return _number(text, 0, 100, "a number of percentage points above 0 and below 100, such as 1")


def _level(text: str) -> float:
    return _number(text, 0, 0.5, "a level above 0 and below 0.5, such as 0.05")


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)
