"""The command line: the only room that prints."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from edgeres.cli.parser import parser
from edgeres.errors import EdgeresError

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130
_ROOMS = {
    name: f"{name}_command"
    for name in (
        "bench",
        "build",
        "calibration",
        "compare",
        "gate",
        "lint",
        "macs",
        "measured",
        "parity",
        "predict",
        "profile",
        "quantize",
        "recipes",
        "reproduce",
        "sensitivity",
    )
}
"""Modules of the commands that have one of their own; the others share ``commands``."""


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
    given = list(sys.argv[1:] if arguments is None else arguments)
    command_line = parser()
    for word in given:
        if not _is_text(word):
            command_line.error(f"{word!a} is not UTF-8; rename the file or the folder, or set LANG=C.UTF-8")
    options = command_line.parse_args(given)
    if options.command is None:
        command_line.print_help()
        return 0
    room = import_module(f"edgeres.cli.{_ROOMS.get(options.command, 'commands')}")
    try:
        code: int = getattr(room, f"{options.command}_command")(options, given)
    except EdgeresError as failure:
        _complain(str(failure))
        return failure.exit_code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        _complain("stopped; finished stages are kept, run the same command again to go on")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return code


def _complain(text: str) -> None:
    from edgeres.cli.console import complain

    complain(text)


def _is_text(word: str) -> bool:
    """Whether an argument can be written into a report; Python smuggles in bytes that are no UTF-8 as surrogates."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True
