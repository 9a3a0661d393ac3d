"""The command line ``edgeres``: one module per command, each with its parser and its function."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Protocol

import edgeres
from edgeres.cli import (
    bench,
    build,
    calibration,
    compare,
    export,
    gate,
    lint,
    macs,
    measured,
    models,
    parity,
    predict,
    profile,
    quantize,
    recipes,
    report,
    reproduce,
    sensitivity,
    targets,
    train,
    verify,
)
from edgeres.cli import compile as compile_command
from edgeres.cli.command_line import CommandLine
from edgeres.cli.options import EXIT_CODES
from edgeres.errors import EdgeresError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.cli.command_line import Commands

INTERRUPTED = 130


class Command(Protocol):
    """A module with one command."""

    def add_parser(self, commands: Commands) -> None:
        """Adds the command with its options; the parser's default ``function`` is what runs it.

        The function takes the parsed options, the screen to print on and the words of the command line, and returns an
        exit code.
        """


COMMANDS: tuple[Command, ...] = (
    compile_command,
    train,
    quantize,
    export,
    build,
    verify,
    sensitivity,
    report,
    measured,
    lint,
    gate,
    compare,
    parity,
    reproduce,
    macs,
    predict,
    profile,
    bench,
    calibration,
    targets,
    models,
    recipes,
)
"""Every command, in the order of ``edgeres --help``. All are imported at the start: heavy imports are in functions."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The command line without the program's name; None takes the process's.

    Returns:
        0 passed, 1 error, 2 bad usage or input, 3 over a budget or the accuracy drop, 4 unmeasured under ``--strict``,
        5 too few images for the gate to tell, 130 stopped by the user.
    """
    # torch's OpenMP threads spin while they wait. Long spinning gains up to a third on free cores and loses several
    # times as much where other programs use the cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    words = list(sys.argv[1:] if arguments is None else arguments)
    command_line = parser()
    for word in words:
        if not _is_text(word):
            command_line.error(f"{word!a} is not UTF-8; rename the file or the folder, or set LANG=C.UTF-8")
    options = command_line.parse_args(words)
    if options.command is None:
        command_line.print_help()
        return 0
    from edgeres.cli.console import Screen, print_error

    try:
        code: int = options.function(options, Screen(quiet=options.quiet), words)
    except EdgeresError as failure:
        print_error(str(failure))
        return failure.exit_code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        print_error("stopped; finished stages are kept, run the same command again to go on")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return code


def parser() -> CommandLine:
    """The parser of every command, in the order of ``COMMANDS``."""
    top = CommandLine(
        prog="edgeres",
        description="Compile a ResNet for an edge device, with proof that it is still right and inside its budgets.",
        epilog=EXIT_CODES,
    )
    top.add_argument("--version", action="version", version=f"edgeres {edgeres.__version__}")
    top.set_defaults(quiet=False)  # of the commands without --quiet
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return top


def _is_text(word: str) -> bool:
    """Whether an argument is UTF-8 and can be written into a report.

    Python decodes other bytes to surrogates, which cannot be encoded again.
    """
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True
