"""Running a stage of a finished run again, and the stages after it: quantize, export, build and verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli.argument_types import text
from edgeres.cli.compilation import compile_and_print
from edgeres.cli.options import EXIT_CODES, add_running

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.cli.command_line import CommandLine, Commands
    from edgeres.cli.console import Screen
    from edgeres.pipeline.request import Request


def add_stage_parser(commands: Commands, stage: str, help_text: str) -> CommandLine:
    """Adds the command that runs a stage again, with the options that all these commands have.

    Args:
        commands: Where to add it.
        stage: Name of the command and of its stage.
        help_text: What it does.
    """
    description = f"{help_text[0].upper()}{help_text[1:]}."
    command = commands.add_parser(stage, help=help_text, description=description, epilog=EXIT_CODES)
    command.add_argument("run", type=text, metavar="RUN", help="run folder, such as build/resnet18-jetson")
    add_running(command, "RUN itself")
    return command


def run_again(options: Namespace, screen: Screen, arguments: list[str]) -> int:
    """Runs the command's stage of a finished run again, and the stages after it."""
    out = Path(options.out or options.run)
    return compile_and_print(changed_request(options), out, options, screen, arguments)


def changed_request(options: Namespace, *changes: str) -> Request:
    """A finished run's request to the end of its recipe, with changed settings and budgets.

    Stages whose inputs and settings did not change come from the store.

    Args:
        options: Of the command.
        changes: Changes of the recipe, which ``--set`` overrides.

    Raises:
        UsageError: The run's recipe has no such stage.
    """
    from dataclasses import replace

    from edgeres.pipeline.plan import check_stage
    from edgeres.pipeline.run_folder import RunFolder

    before = RunFolder(Path(options.run)).request()
    budget = {**before.budget, **dict(options.budget)}
    changes = (*before.changes, *changes, *options.changes)
    both = before.foreign and options.command in ("quantize", "export")  # one stage does both to an imported graph
    check_stage(before, "quantize_onnx" if both else options.command, options.run)
    return replace(before, until=None, changes=changes, budget=budget, strict=before.strict or options.strict)
