"""``CommandLine``: argparse's parser with edgeres's form of error, and help texts that are computed when printed."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    Commands = argparse._SubParsersAction["CommandLine"]

_CHOICE = re.compile(
    r"argument (?P<what>\S+): invalid choice: '(?P<value>.*)' \(choose from (?P<choices>.*)\)", re.DOTALL
)


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
        from edgeres.cli.console import print_error

        print_error(f"{_readable(message)} (see '{self.prog} --help')")
        raise SystemExit(2)


def _readable(message: str) -> str:
    """The message of argparse; for an invalid choice, the nearest valid one instead of the whole list."""
    from edgeres.errors import nearest

    match = _CHOICE.fullmatch(message)
    if match is None:
        return message
    choices = [word.strip().strip("'") for word in match["choices"].split(",")]
    return f"unknown {match['what']} {match['value']!r}: {nearest(match['value'], choices)}"
