"""``CommandLine``: argparse's parser with edgeres's form of error, and the types of its arguments.

A type raises ``ArgumentTypeError`` with a right example where a word is none of its values.
"""

from __future__ import annotations

import argparse
import math
import re
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    Commands = argparse._SubParsersAction["CommandLine"]

_CHOICE = re.compile(
    r"argument (?P<what>\S+): invalid choice: '(?P<value>.*)' \(choose from (?P<choices>.*)\)", re.DOTALL
)


class Options(argparse.Namespace):
    """The parsed options of a command."""

    quiet = False
    words: list[str]
    """The command line as it was typed, without the program's name."""


class CommandLine(argparse.ArgumentParser):
    """A command or one of its subcommands."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._late: list[tuple[argparse.Action, Callable[[], str]]] = []

    def late(self, action: argparse.Action, text: Callable[[], str]) -> None:
        """Computes an option's help only when help is printed, because it needs imports that take time."""
        self._late.append((action, text))

    def format_help(self) -> str:
        """The help text, with the parts that ``late`` postponed."""
        for action, text in self._late:
            action.help = text()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Prints on standard error what is wrong and how to see the help, and ends with exit code 2."""
        from edgeres.cli._console import print_error
        from edgeres.errors import nearest

        if match := _CHOICE.fullmatch(message):  # the nearest valid choice instead of the whole list
            choices = [word.strip().strip("'") for word in match["choices"].split(",")]
            message = f"unknown {match['what']} {match['value']!r}: {nearest(match['value'], choices)}"
        print_error(f"{message} (see '{self.prog} --help')")
        raise SystemExit(2)


def sentence(text: str) -> str:
    """A command's one-line help as the description on its own page: with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def text(word: str) -> str:
    """A text that is not empty; an empty one usually is a shell variable that is not set."""
    if not word.strip():
        raise argparse.ArgumentTypeError("is empty; leave the option out, or give it a value")
    return word


def whole_number(word: str) -> int:
    """An integer."""
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number") from None


def whole(least: int, range_text: str) -> Callable[[str], int]:
    """The argument type of an integer from ``least`` on; its error reads ``'x' is not a whole number RANGE_TEXT``."""

    def read(word: str) -> int:
        if not word.isdecimal() or int(word) < least:
            raise argparse.ArgumentTypeError(f"{word!r} is not a whole number {range_text}")
        return int(word)

    return read


positive = whole(1, "above 0")


def number(accepted: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    """The argument type of a number that ``accepted`` is true of; its error reads ``'x' is EXPECTED``."""

    def read(word: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not accepted(value):
            raise argparse.ArgumentTypeError(f"{word!r} is {expected}")
        return value

    return read


def triple(word: str) -> tuple[float, float, float]:
    """One number for each of three channels, as in ``0.485,0.456,0.406``."""
    try:
        red, green, blue = (float(part) for part in word.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not three numbers, such as 0.485,0.456,0.406") from None
    return red, green, blue


def limit(word: str) -> tuple[str, float | None]:
    """The name and limit of a budget; the limit is None for ``NAME=none``."""
    name, _, value = word.partition("=")
    try:
        return name, None if value == "none" else float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not NAME=VALUE, such as latency_p90_ms=5") from None
