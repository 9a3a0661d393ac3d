"""``CommandLine``: argparse's parser with errors in the form every command has, and help that is written when asked."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

_CHOICE = re.compile(
    r"argument (?P<what>\S+): invalid choice: '(?P<given>.*)' \(choose from (?P<known>.*)\)", re.DOTALL
)


class CommandLine(argparse.ArgumentParser):
    """A command or one of its subcommands."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._late: list[tuple[argparse.Action, Callable[[], str]]] = []

    def late(self, action: argparse.Action, text: Callable[[], str]) -> None:
        """Leaves an option's help for when it is printed: it takes imports that no command should wait for."""
        self._late.append((action, text))

    def format_help(self) -> str:
        """Help with every text that was left for later."""
        for action, text in self._late:
            action.help = text()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2 and one line on standard error: what is wrong, and where the help is."""
        from edgeres.cli.console import complain

        complain(f"{_readable(message)} (see '{self.prog} --help')")
        raise SystemExit(2)


def _readable(message: str) -> str:
    """The message of argparse, a wrong choice with the nearest right one instead of all there are."""
    from edgeres.errors import nearest

    found = _CHOICE.fullmatch(message)
    if found is None:
        return message
    known = [word.strip().strip("'") for word in found["known"].split(",")]
    return f"unknown {found['what']} {found['given']!r}: {nearest(found['given'], known)}"
