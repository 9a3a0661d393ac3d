"""``edgeres reproduce``: a finished run's request with an empty cache, and which files come out differently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.errors import StageError, UsageError

if TYPE_CHECKING:
    from edgeres.cli._console import Screen
    from edgeres.cli._options import Commands, Options
    from edgeres.pipeline.reproduction import Reproduction
    from edgeres.runs.run import Run

PLACE = 140

_DIFFERENT = 3


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres reproduce``."""
    help_text = "run a finished run again from nothing and compare every file"
    codes = "exit codes: 0 every file is the same, 1 error, 2 bad usage or input, 3 some file differs"
    add = commands.add_parser("reproduce", help=help_text, epilog=codes).add_argument
    add("run", metavar="RUN", help="run folder, or the manifest.json in it")
    add("--out", metavar="DIR", help="keep the second run here (default: nowhere)")
    add("--cache", metavar="DIR", help="take finished stages from here (default: an empty cache)")
    add("--json", action="store_true", help="machine-readable output")
    add("--quiet", action="store_true", help="print the outcome only")


def run(options: Options, screen: Screen) -> int:
    """Runs the request again and compares the files of both runs."""
    from contextlib import ExitStack
    from tempfile import TemporaryDirectory

    from edgeres.pipeline.reproduction import manifest, reproduction
    from edgeres.pipeline.run_folder import MANIFEST

    named = Path(options.run)
    before = named.parent if named.name == MANIFEST else named
    manifest(before)
    if options.out and Path(options.out).resolve() == before.resolve():
        raise UsageError(f"--out {options.out} is the run itself", "choose another --out")
    with ExitStack() as stack:
        out = Path(options.out or stack.enter_context(TemporaryDirectory(prefix="edgeres-run-")))
        cache = Path(options.cache or stack.enter_context(TemporaryDirectory(prefix="edgeres-cache-")))
        second = _second_run(before, out, cache, options, screen)
        if second.error:
            raise StageError(f"{before} does not run again: {second.error.what}", second.error.hint)
        result = reproduction(before, out)
    if options.json:
        causes = [{"what": row.name, "before": row.first, "now": row.second} for row in result.causes]
        document = {"identical": result.identical, "files": result.files, "altered": result.altered}
        screen.json({**document, "first_stage_that_differs": result.stage or None, "causes": causes})
    else:
        _print(result, before, screen)
    return 0 if result.identical else _DIFFERENT


def _second_run(before: Path, out: Path, cache: Path, options: Options, screen: Screen) -> Run:
    """The run of the same request in another folder, with another cache."""
    from dataclasses import replace

    from edgeres.artifacts.store import Store
    from edgeres.cli._compilation import command_text
    from edgeres.pipeline.compile import CompileOptions, compile_model
    from edgeres.pipeline.run_folder import RunFolder

    request = RunFolder(before).request()
    request = replace(request, changes=(*request.changes, *_pinned_settings(before)))
    screen.err.print(f"edgeres reproduce: {request.name} -> {request.target}, as {before} was made")
    return compile_model(request, CompileOptions(out, Store(cache), screen, screen, command_text(options))).run


def _pinned_settings(before: Path) -> tuple[str, ...]:
    """The first run's skipped techniques and time budget as recipe changes: speed must not change the result."""
    from edgeres.pipeline.recipe import load_recipe
    from edgeres.pipeline.run_folder import RECIPE

    path = before / RECIPE
    if not path.is_file():
        return ()
    stages = [entry["quantize"] for entry in load_recipe(str(path)).entries() if "quantize" in entry]
    return tuple(f"quantize.{key}={json.dumps(stage[key])}" for stage in stages for key in ("skip", "time_budget_s"))


def _print(result: Reproduction, before: Path, screen: Screen) -> None:
    if result.identical:
        screen.command(f"Identical: {len(result.files)} files of {before}, byte for byte.")
    else:
        rest = {name: state for name, state in result.files.items() if state != "same"}
        screen.command(f"Different: {len(rest)} of {len(result.files)} files of {before}.")
    if screen.quiet:
        return
    if not result.identical:
        screen.table(("file", "state"), rest.items())
    for name in result.altered:
        screen.command(f"{before / name} was changed after its run: it is not what {before}'s manifest says")
    if result.stage:
        screen.command(f"first stage with another result: {result.stage}")
    if result.causes:
        screen.table(("what differs", "before", "now"), ((row.name, *row.written[:2]) for row in result.causes))
    elif result.stage:
        screen.command(
            "no recorded input, setting or version differs: look at the number of threads and the kind of CPU"
        )
