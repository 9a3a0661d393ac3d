"""``edgeres reproduce``: the same request once more from nothing, and what came out differently."""

from __future__ import annotations

import json
import shlex
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgeres.cli.console import Screen
from edgeres.errors import StageError, UsageError

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.pipeline.reproduction import Reproduction
    from edgeres.runs.run import Run

_DIFFERENT = 3


def reproduce_command(options: Namespace, given: list[str]) -> int:
    """``edgeres reproduce``."""
    from edgeres.pipeline.reproduction import manifest, reproduction
    from edgeres.pipeline.run_folder import MANIFEST

    screen = Screen(quiet=options.quiet)
    named = Path(options.run)
    before = named.parent if named.name == MANIFEST else named
    manifest(before)
    if options.out and Path(options.out).resolve() == before.resolve():
        raise UsageError(f"--out {options.out} is the run itself", "choose another --out")
    with ExitStack() as stack:
        out = Path(options.out or stack.enter_context(TemporaryDirectory(prefix="edgeres-run-")))
        cache = Path(options.cache or stack.enter_context(TemporaryDirectory(prefix="edgeres-cache-")))
        run = _again(before, out, cache, screen, given)
        if run.error:
            raise StageError(f"{before} does not run again: {run.error.what}", run.error.hint)
        found = reproduction(before, out)
    if options.json:
        screen.out.out(json.dumps(_document(found), indent=2))
    else:
        _tell(found, before, screen)
    return 0 if found.identical else _DIFFERENT


def _again(before: Path, out: Path, cache: Path, screen: Screen, given: list[str]) -> Run:
    from edgeres.artifacts.store import Store
    from edgeres.pipeline.compile import CompileOptions, compile_model
    from edgeres.pipeline.run_folder import RunFolder

    request = RunFolder(before).request()
    request = replace(request, changes=(*request.changes, *_pins(before)))
    screen.err.print(f"edgeres reproduce: {request.name} -> {request.target}, as {before} was made")
    return compile_model(
        request, CompileOptions(out, Store(cache), screen, screen, shlex.join(["edgeres", *given]))
    ).run


def _pins(before: Path) -> tuple[str, ...]:
    """What the first run's time budget left out is left out again, however fast this machine is."""
    from edgeres.pipeline.recipe import load_recipe
    from edgeres.pipeline.run_folder import RECIPE

    path = before / RECIPE
    if not path.is_file():
        return ()
    stages = [entry["quantize"] for entry in load_recipe(str(path)).entries() if "quantize" in entry]
    return tuple(f"quantize.{key}={json.dumps(stage[key])}" for stage in stages for key in ("skip", "time_budget_s"))


def _tell(found: Reproduction, before: Path, screen: Screen) -> None:
    out = screen.out
    if found.identical:
        out.out(f"Identical: {len(found.files)} files of {before}, byte for byte.", highlight=False)
    else:
        rest = {name: state for name, state in found.files.items() if state != "same"}
        out.out(f"Different: {len(rest)} of {len(found.files)} files of {before}.", highlight=False)
    if screen.quiet:
        return
    if not found.identical:
        screen.table(("file", "state"), rest.items())
    for name in found.altered:
        out.out(f"{before / name} was changed after its run: it is not what {before}'s manifest says", highlight=False)
    if found.stage:
        out.out(f"first stage with another result: {found.stage}", highlight=False)
    if found.causes:
        screen.table(("what differs", "before", "now"), ((row.name, *row.written[:2]) for row in found.causes))
    elif found.stage:
        out.out("no recorded input, setting or version differs: look at the number of threads and the kind of CPU")


def _document(found: Reproduction) -> dict[str, Any]:
    return {
        "identical": found.identical,
        "files": found.files,
        "altered": list(found.altered),
        "first_stage_that_differs": found.stage or None,
        "causes": [{"what": row.name, "before": row.first, "now": row.second} for row in found.causes],
    }
