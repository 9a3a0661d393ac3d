"""``edgeres sensitivity``: the loss of quantizing each layer of a finished run alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli.options import stage_store
from edgeres.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from edgeres.artifacts.results import LayerSensitivity
    from edgeres.cli.command_line import Commands
    from edgeres.cli.console import Screen
    from edgeres.pipeline.recipe import Recipe


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres sensitivity``."""
    command = commands.add_parser("sensitivity", help="say which layers of a finished run INT8 hurts, one at a time")
    command.set_defaults(function=run)
    command.add_argument(
        "run", metavar="RUN", help="run folder, such as build/resnet18-jetson; its report shows it too"
    )
    command.add_argument("--svg", metavar="FILE", help="draw it")
    command.add_argument("--cache", metavar="DIR", help="where finished stages are kept (default ~/.cache/edgeres)")
    command.add_argument("--json", action="store_true", help="machine-readable output")
    command.add_argument("--quiet", action="store_true", help="print the table only")


def run(options: Namespace, screen: Screen, arguments: list[str]) -> int:
    """Measures every layer, prints a table, and adds it to the run's report."""
    from dataclasses import replace

    from edgeres.report import report_files
    from edgeres.runs import document
    from edgeres.settings import plain

    folder = Path(options.run)
    finished = document.load(folder)
    rows = _layers(options, screen)
    pages = report_files.write(replace(finished, sensitivity=rows), folder)
    if options.svg:
        from edgeres.artifacts.store import write_beside
        from edgeres.report.recovery import drawing

        write_beside(Path(options.svg), drawing(rows).encode())
    if options.json:
        screen.out.out(json.dumps([plain(row) for row in rows], indent=2))
        return 0
    _print_table(rows, screen)
    screen.out.out(f"report: {pages[-1]}", highlight=False)
    return 0


def _print_table(rows: Sequence[LayerSensitivity], screen: Screen) -> None:
    """Prints one row per layer, the largest KL divergence first."""
    from edgeres.report.candidates import divergence
    from edgeres.runs.figures import percent, scaled

    total = sum(row.macs for row in rows)
    screen.table(
        ("layer", "KL to float", "SQNR", "top-1", "MACs", "share"),
        (
            (
                row.layer,
                divergence(row.kl),
                "-" if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB",
                percent(row.top1),
                scaled(row.macs),
                f"{100 * row.macs / total:.1f} %",
            )
            for row in sorted(rows, key=lambda row: -row.kl)
        ),
    )
    screen.line("the layer alone in integers, all others in float; the most sensitive first")


def _layers(options: Namespace, screen: Screen) -> tuple[LayerSensitivity, ...]:
    """The sensitivity of each layer; the run's stages before ``quantize`` come from the store."""
    from dataclasses import replace

    from edgeres.pipeline.plan import prepare
    from edgeres.pipeline.run_folder import RunFolder
    from edgeres.pipeline.runner import Pipeline

    request = RunFolder(Path(options.run)).request()
    plan = prepare(replace(request, until=None), screen)
    recipe = _sensitivity_recipe(plan.recipe, options.run)
    pipeline = Pipeline(replace(plan, recipe=recipe), stage_store(options), screen, screen)
    return pipeline.run()[-1].steps[-1].sensitivity


def _sensitivity_recipe(recipe: Recipe, folder: str) -> Recipe:
    """The stages before ``quantize``, then ``sensitivity``.

    Raises:
        UsageError: The recipe has no stage ``quantize``.
    """
    from dataclasses import replace

    from edgeres.pipeline.stages.sensitivity import Sensitivity

    names = [stage.name for stage in recipe.stages]
    if "quantize" not in names:
        raise UsageError(f"{folder} has no stage 'quantize': recipe {recipe.name!r}", "name a run of a preset in INT8")
    before = [stage for stage in recipe.stages[: names.index("quantize")] if stage.name != "sensitivity"]
    return replace(recipe, stages=(*before, Sensitivity()))
