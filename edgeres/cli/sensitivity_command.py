"""``edgeres sensitivity``: which layers of a finished run INT8 hurts, one at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli.commands import store_of
from edgeres.cli.console import Screen
from edgeres.errors import UsageError
from edgeres.report import report_files
from edgeres.report.candidates import divergence
from edgeres.report.recovery import drawing
from edgeres.runs import document
from edgeres.runs.figures import percent, scaled
from edgeres.settings import plain

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.artifacts.candidate import LayerSensitivity
    from edgeres.pipeline.recipe import Recipe


def sensitivity_command(options: Namespace, given: list[str]) -> int:
    """``edgeres sensitivity``: finds out, draws, and adds it to the run's report."""
    folder, screen = Path(options.run), Screen(quiet=options.quiet)
    run = document.load(folder)
    rows = _found(options, screen)
    pages = report_files.write(replace(run, sensitivity=rows), folder)
    if options.svg:
        from edgeres.artifacts.store import write_beside

        write_beside(Path(options.svg), drawing(rows).encode())
    if options.json:
        screen.out.out(json.dumps([plain(row) for row in rows], indent=2))
        return 0
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
    screen.out.out(f"report: {pages[-1]}", highlight=False)
    return 0


def _found(options: Namespace, screen: Screen) -> tuple[LayerSensitivity, ...]:
    """The run's stages up to ``quantize`` from the store, and one more."""
    from edgeres.pipeline.plan import prepare
    from edgeres.pipeline.run_folder import RunFolder
    from edgeres.pipeline.runner import Pipeline

    request = RunFolder(Path(options.run)).request()
    plan = prepare(replace(request, until=None), screen)
    pipeline = Pipeline(replace(plan, recipe=_cut(plan.recipe, options.run)), store_of(options), screen, screen)
    return pipeline.run()[-1].steps[-1].sensitivity


def _cut(recipe: Recipe, run: str) -> Recipe:
    from edgeres.pipeline.stages.sensitivity import Sensitivity

    names = [stage.name for stage in recipe.stages]
    if "quantize" not in names:
        raise UsageError(f"{run} has no stage 'quantize': recipe {recipe.name!r}", "name a run of a preset in INT8")
    before = [stage for stage in recipe.stages[: names.index("quantize")] if stage.name != "sensitivity"]
    return replace(recipe, stages=(*before, Sensitivity()))
