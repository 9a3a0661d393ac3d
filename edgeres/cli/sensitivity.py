"""``edgeres sensitivity``: the loss of quantizing each layer of a finished run alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli._compilation import run_changed
from edgeres.errors import UsageError
from edgeres.runs.figures import percent, scaled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.artifacts.results import LayerSensitivity
    from edgeres.cli._console import Screen
    from edgeres.cli._options import Commands, Options
    from edgeres.pipeline.recipe import Recipe
    from edgeres.runs.run import Run

PLACE = 70


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres sensitivity``."""
    help_text = "say which layers of a finished run INT8 hurts, one at a time"
    add = commands.add_parser("sensitivity", help=help_text).add_argument
    add("run", metavar="RUN", help="run folder, such as build/resnet18-jetson; its report shows it too")
    add("--svg", metavar="FILE", help="draw it")
    add("--cache", metavar="DIR", help="where finished stages are kept (default ~/.cache/edgeres)")
    add("--json", action="store_true", help="machine-readable output")
    add("--quiet", action="store_true", help="print the table only")


def run(options: Options, screen: Screen) -> int:
    """Measures every layer, prints a table, and adds it to the run's report."""
    from dataclasses import replace

    from edgeres.report import report_files
    from edgeres.runs import document

    folder = Path(options.run)
    finished = document.load(folder)
    _, stages = run_changed(lambda recipe: _sensitivity_recipe(recipe, options.run), options, screen)
    rows = stages[-1].steps[-1].sensitivity
    pages = report_files.write(replace(finished, sensitivity=rows), folder)
    if options.svg:
        from edgeres.artifacts.store import write_beside
        from edgeres.report.recovery import sensitivity_plot
        from edgeres.report.svg import standalone

        write_beside(Path(options.svg), standalone(sensitivity_plot(rows)).encode())
    if options.json:
        screen.json(rows)
        return 0
    _print_table(rows, finished, screen)
    screen.command(f"report: {pages[-1]}")
    return 0


def _print_table(rows: Sequence[LayerSensitivity], finished: Run, screen: Screen) -> None:
    from edgeres.report.candidates import divergence
    from edgeres.tasks.registry import task_kind

    total = sum(row.macs for row in rows)

    def cells(row: LayerSensitivity) -> tuple[str, ...]:
        sqnr = "-" if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB"
        share = f"{100 * row.macs / total:.1f} %"
        score = () if row.top1 is None else (percent(row.top1),)
        return row.layer, divergence(row.kl), sqnr, *score, scaled(row.macs), share

    task = task_kind(finished.task)
    scores = (task.metric,) if task.name == "classification" else ()
    heads = ("layer", f"{task.divergence} to float", "SQNR", *scores, "MACs", "share")
    screen.table(heads, map(cells, sorted(rows, key=lambda row: -row.kl)))
    screen.line("the layer alone in integers, all others in float; the most sensitive first")


def _sensitivity_recipe(recipe: Recipe, folder: str) -> Recipe:
    """The stages before ``quantize``, then ``sensitivity``."""
    from dataclasses import replace

    from edgeres.pipeline.stages.sensitivity import Sensitivity

    names = [stage.name for stage in recipe.stages]
    if "quantize" not in names:
        raise UsageError(f"{folder} has no stage 'quantize': recipe {recipe.name!r}", "name a run of a preset in INT8")
    before = [stage for stage in recipe.stages[: names.index("quantize")] if stage.name != "sensitivity"]
    return replace(recipe, stages=(*before, Sensitivity()))
