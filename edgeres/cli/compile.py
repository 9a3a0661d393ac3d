"""``edgeres compile``: a network from weights or a file to a checked artifact for a target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli._compilation import compile_and_print
from edgeres.cli._options import (
    EXIT_CODES,
    Commands,
    Options,
    add_running,
    add_search,
    add_source,
    new_request,
    search_changes,
    stage_store,
    text,
)
from edgeres.errors import UsageError

if TYPE_CHECKING:
    from edgeres.cli._console import Screen
    from edgeres.pipeline.request import Request

PLACE = 10
_PLAN_KEYS = ("stage", "state", "seconds", "why")


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres compile``."""
    command = commands.add_parser(
        "compile", help="train or load, fold, prune, quantize, export, build, verify, report", epilog=EXIT_CODES
    )
    add = command.add_argument
    add("model", type=text, metavar="MODEL", help="preset (see 'edgeres models') or a foreign .onnx file")
    add("--target", type=text, required=True, help="where it goes (see 'edgeres targets')")
    add("--recipe", type=text, help="recipe name or file; chosen by what is given otherwise")
    add("--until", type=text, metavar="STAGE", help="stop after this stage")
    add("--plan", action="store_true", help="print what would run, why and for how long; run nothing")
    variant = "what ships: int8 (default), float, or the faster of both that keeps the accuracy limit"
    add("--variant", choices=("int8", "float", "fastest"), default="int8", help=variant)
    add("--input", choices=("float32", "uint8"), help="what the network takes: normalised float32 (default) or pixels")
    add("--layout", choices=("nchw", "nhwc"), help="layout of uint8 pixels (default nchw)")
    add_search(command)
    add_source(command)
    add_running(command, "build/<model>-<target>")


def run(options: Options, screen: Screen) -> int:
    """Compiles a network, or with ``--plan`` prints what would run."""
    from dataclasses import replace

    from edgeres.targets.target import find_target

    find_target(options.target)  # an unknown target is refused before anything else is imported
    request = new_request(options, options.target)
    changes = (*search_changes(options), *_input_changes(options), *request.changes)
    named = {name: getattr(options, name) for name in ("until", "recipe", "variant")}
    request = replace(request, changes=changes, **named)
    if options.plan:
        return _print_plan(request, options, screen)
    out = Path(options.out or f"build/{request.name}-{options.target.replace(':', '-')}")
    return compile_and_print(request, out, options, screen)


def _input_changes(options: Options) -> tuple[str, ...]:
    """``--input`` and ``--layout`` as changes of the recipe.

    Raises:
        UsageError: A layout without uint8 pixels.
    """
    if options.layout is not None and options.input != "uint8":
        raise UsageError(f"--layout {options.layout} without --input uint8", "pass both, or neither")
    named = {"input": options.input, "layout": options.layout}
    return tuple(f"export.{name}={value}" for name, value in named.items() if value is not None)


def _print_plan(request: Request, options: Options, screen: Screen) -> int:
    from edgeres.pipeline.estimate import estimate
    from edgeres.pipeline.plan import prepare
    from edgeres.pipeline.runner import Pipeline

    plan = prepare(request, screen)
    rows = estimate(Pipeline(plan, stage_store(options), screen))
    if options.json:
        screen.out.out(json.dumps([{name: getattr(row, name) for name in _PLAN_KEYS} for row in rows]))
        return 0
    for note in plan.notes:
        screen.note(note)
    screen.table(
        ("stage", "state", "about", "why"),
        ((r.stage, r.state, "-" if r.seconds is None else f"{r.seconds:.0f} s", r.why) for r in rows),
    )
    return 0
