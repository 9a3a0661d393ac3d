"""Compiling a request, or a stage of a finished run again, and printing the result."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli._options import EXIT_CODES, CommandLine, Commands, Options, add_running, sentence, stage_store, text
from edgeres.runs.figures import percent

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeres.cli._console import Screen
    from edgeres.pipeline.compile import Compilation
    from edgeres.pipeline.plan import Plan
    from edgeres.pipeline.recipe import Recipe
    from edgeres.pipeline.request import Request
    from edgeres.pipeline.runner import FinishedStage
    from edgeres.runs.run import Run

_STATUSES = ("passed ", "failed ", "unmeasured ", " ")  # how a budget line begins, and the continuation below one
_TITLE_COLUMN = 12  # column of a budget's name, after its status


def compile_and_print(request: Request, out: Path, options: Options, screen: Screen) -> int:
    """Compiles a request into a run folder, prints the result, and returns the exit code of the run."""
    from edgeres.runs.verdict import exit_code

    compilation = compiled(request, out, options, screen)
    print_run(compilation.run, compilation.folder, options, screen)
    return exit_code(compilation.run)


def compiled(request: Request, out: Path, options: Options, screen: Screen) -> Compilation:
    """Compiles a request into a run folder, with progress on the screen."""
    from edgeres.targets.target import find_target

    target = find_target(request.target)
    request.check_names()
    from edgeres.pipeline.compile import CompileOptions, compile_model  # imports torch, so names are checked first

    goal = "" if options.command == "train" else f" -> {target.name} ({target.title})"
    screen.err.print(f"edgeres {options.command}: {request.name}{goal}")
    return compile_model(request, CompileOptions(out, stage_store(options), screen, screen, command_text(options)))


def command_text(options: Options) -> str:
    """The command line as it was typed, for the report."""
    return shlex.join(["edgeres", *options.words])


def add_stage_parser(commands: Commands, stage: str, help_text: str) -> CommandLine:
    """Adds the command that runs the stage of its name again, with the options that all these commands have."""
    command = commands.add_parser(stage, help=help_text, description=sentence(help_text), epilog=EXIT_CODES)
    command.add_argument("run", type=text, metavar="RUN", help="run folder, such as build/resnet18-jetson")
    add_running(command, "RUN itself")
    return command


def run_again(options: Options, screen: Screen) -> int:
    """Runs the command's stage of a finished run again, and the stages after it."""
    return compile_and_print(changed_request(options), Path(options.out or options.run), options, screen)


def changed_request(options: Options, *changes: str) -> Request:
    """A finished run's request to the end of its recipe, with changed settings, which ``--set`` overrides, and budgets.

    Stages whose inputs and settings did not change come from the store; a recipe without the stage is a ``UsageError``.
    """
    from dataclasses import replace

    from edgeres.pipeline.plan import check_stage
    from edgeres.pipeline.run_folder import RunFolder

    before = RunFolder(Path(options.run)).request()
    budget = {**before.budget, **dict(options.budget)}
    changes = (*before.changes, *changes, *options.changes)
    check_stage(before, options.command, options.run)
    return replace(before, until=None, changes=changes, budget=budget, strict=before.strict or options.strict)


def run_changed(
    change: Callable[[Recipe], Recipe], options: Options, screen: Screen
) -> tuple[Plan, tuple[FinishedStage, ...]]:
    """Runs a finished run's request by a changed recipe, finished stages from the store: the plan and its stages."""
    from dataclasses import replace

    from edgeres.pipeline.plan import prepare
    from edgeres.pipeline.run_folder import RunFolder
    from edgeres.pipeline.runner import Pipeline

    plan = prepare(replace(RunFolder(Path(options.run)).request(), until=None), screen)
    plan = replace(plan, recipe=change(plan.recipe))
    return plan, Pipeline(plan, stage_store(options), screen, screen).run()


def print_run(run: Run, folder: Path, options: Options, screen: Screen, written: str = "") -> None:
    """Prints a run's summary, or with ``--json`` its report, as it is ``written`` where it was read from a file.

    The run's error goes to standard error in both cases.
    """
    from edgeres.cli._console import print_error
    from edgeres.report import report_files
    from edgeres.runs import document
    from edgeres.runs.verdict import reason

    if run.error:
        hint = f": {run.error.hint}" if run.error.hint else ""
        print_error(f"{run.model} for {run.target.name} {reason(run)}{hint}")
    if options.json:
        screen.out.out(written or document.encode(run), end="")
    else:
        _print_summary(run, screen, folder / report_files.HTML)


def _print_summary(run: Run, screen: Screen, page: Path) -> None:
    """Prints the verdict and its lines, the next steps, and last the path of the HTML report.

    A quiet screen shows only the headline and the path.
    """
    from edgeres.report.next_steps import next_steps
    from edgeres.runs.verdict import headline, summary_lines

    training = _training_line(run)
    if screen.quiet:
        if not run.error:
            screen.line(training or headline(run))
    else:
        lines = summary_lines(run)
        for line in (training, *lines[1:]) if training else lines:
            screen.line(line.replace(" RUN", f" {page.parent}"), _TITLE_COLUMN if line.startswith(_STATUSES) else 2)
        steps = next_steps(run, page.parent)
        width = max((len(step.label) for step in steps), default=0)
        for step in steps:
            screen.step(f"next: {step.label:<{width}}  ", step)
    screen.command(f"report: {page}")


def _training_line(run: Run) -> str:
    """The result of ``edgeres train``: its validation accuracy; empty for the run of any other command."""
    top1 = next((row.top1 for row in reversed(run.stages) if row.top1 is not None), None)
    if run.error or top1 is None or not run.command.startswith("edgeres train "):
        return ""
    return f"Trained: {run.model}, top-1 {percent(top1)} on the validation images."
