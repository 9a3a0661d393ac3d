"""Compiling a request for the commands that run a recipe: compile, train, quantize, export, build and verify."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from edgeres.cli.options import stage_store

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

    from edgeres.cli.console import Screen
    from edgeres.pipeline.compile import Compilation
    from edgeres.pipeline.request import Request


def compile_and_print(request: Request, out: Path, options: Namespace, screen: Screen, arguments: list[str]) -> int:
    """Compiles a request into a run folder and prints the result.

    Returns:
        The exit code of the run.
    """
    from edgeres.cli.summary import print_run
    from edgeres.runs.verdict import exit_code

    compilation = compiled(request, out, options, screen, arguments)
    print_run(compilation.run, compilation.folder, options, screen)
    return exit_code(compilation.run)


def compiled(request: Request, out: Path, options: Namespace, screen: Screen, arguments: list[str]) -> Compilation:
    """Compiles a request into a run folder, with progress on the screen.

    Args:
        request: What to compile.
        out: Run folder.
        options: Of the command.
        screen: Where progress and notes are printed.
        arguments: The command line, for the report.
    """
    from edgeres.targets.target import find_target

    target = find_target(request.target)
    request.check_names()
    from edgeres.pipeline.compile import (  # imports torch, so names are checked first
        CompileOptions,
        compile_model,
    )

    goal = "" if options.command == "train" else f" -> {target.name} ({target.title})"
    screen.err.print(f"edgeres {options.command}: {request.name}{goal}")
    compile_options = CompileOptions(out, stage_store(options), screen, screen, shlex.join(["edgeres", *arguments]))
    return compile_model(request, compile_options)
