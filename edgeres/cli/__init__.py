"""The command line ``edgeres``: one module per command, each with its parser and its function.

Every module of this package is a command of its name, except those whose names begin with an underscore. Its
``add_parser`` adds the command with its options, its ``run`` runs it and returns the exit code.
"""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import edgeres
from edgeres.cli._options import EXIT_CODES, CommandLine, Options
from edgeres.errors import EdgeresError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

INTERRUPTED = 130
_SURROGATE = re.compile("[\ud800-\udfff]")  # decoded from a byte that is no UTF-8; no report can hold it


def commands() -> dict[str, ModuleType]:
    """Every command by name, in the order of ``edgeres --help``, which is that of ``PLACE``.

    All are imported at the start, so that their heavy imports are in functions.
    """
    # pkgutil.iter_modules would do, and imports inspect, which takes a tenth of the time of --help.
    names = [path.stem for folder in __path__ for path in Path(folder).glob("[!_]*.py")]
    modules = {name: import_module(f"{__name__}.{name}") for name in names}
    return dict(sorted(modules.items(), key=lambda item: item[1].PLACE))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command of a command line without the program's name; None takes the process's.

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
        if _SURROGATE.search(word):
            command_line.error(f"{word!a} is not UTF-8; rename the file or the folder, or set LANG=C.UTF-8")
    options = command_line.parse_args(words, Options(words=words))
    if options.command is None:
        command_line.print_help()
        return 0
    from edgeres.cli._console import Screen, print_error

    try:
        code: int = options.run_command(options, Screen(quiet=options.quiet))
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
    """The parser of every command."""
    top = CommandLine(
        prog="edgeres",
        description="Compile a ResNet for an edge device, with proof that it is still right and inside its budgets.",
        epilog=EXIT_CODES,
    )
    top.add_argument("--version", action="version", version=f"edgeres {edgeres.__version__}")
    parsers = top.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in commands().items():
        command.add_parser(parsers)
        parsers.choices[name].set_defaults(run_command=command.run)
    return top
