"""The result of a run as it is printed: status and budget lines, next steps, and the path of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

    from edgeres.cli.console import Screen
    from edgeres.runs.run import Run

_STATUSES = ("passed ", "failed ", "unmeasured ", " ")
"""How a budget line begins, and the continuation below one."""
_TITLE_COLUMN = 12
"""Column of a budget's name, after its status."""


def print_run(run: Run, folder: Path, options: Namespace, screen: Screen) -> None:
    """Prints a run's summary, or with ``--json`` its report; its error goes to standard error in both cases."""
    from edgeres.report import report_files
    from edgeres.runs import document

    if run.error:
        screen.failure(failure(run))
    if options.json:
        screen.out.out(document.encode(run), end="")
    else:
        print_summary(run, screen, folder / report_files.HTML)


def print_summary(run: Run, screen: Screen, page: Path) -> None:
    """Prints the verdict and its lines, the next steps, and last the path of the report.

    A quiet screen shows only the headline and the path.

    Args:
        run: A finished run.
        screen: Where to print.
        page: Its HTML report.
    """
    from edgeres.report.next_steps import next_steps
    from edgeres.runs.verdict import headline, summary_lines

    folder = page.parent
    if screen.quiet:
        if not run.error:
            screen.line(_training_line(run) or headline(run))
    else:
        training, lines = _training_line(run), summary_lines(run)
        for line in (training, *lines[1:]) if training else lines:
            screen.line(line.replace(" RUN", f" {folder}"), _TITLE_COLUMN if line.startswith(_STATUSES) else 2)
        steps = next_steps(run, folder)
        width = max((len(step.label) for step in steps), default=0)
        for step in steps:
            screen.step(f"next: {step.label:<{width}}  ", step)
    screen.command(f"report: {page}")


def failure(run: Run) -> str:
    """The stage at which a run stopped, the reason and the hint, in one line."""
    from edgeres.runs.verdict import reason

    hint = f": {run.error.hint}" if run.error and run.error.hint else ""
    return f"{run.model} for {run.target.name} {reason(run)}{hint}"


def _training_line(run: Run) -> str:
    """The result of ``edgeres train``: its validation accuracy; empty for the run of any other command."""
    from edgeres.runs.figures import percent

    top1 = next((row.top1 for row in reversed(run.stages) if row.top1 is not None), None)
    if run.error or top1 is None or not run.command.startswith("edgeres train "):
        return ""
    return f"Trained: {run.model}, top-1 {percent(top1)} on the validation images."
