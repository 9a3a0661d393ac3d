"""What each command does; every function returns an exit code."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.cli.console import Screen
from edgeres.report import document
from edgeres.report.verdict import exit_code, headline, summary_lines

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.report.run import Run
    from edgeres.request import Request
    from edgeres.store import Store


def compile_command(options: Namespace, given: list[str]) -> int:
    """``edgeres compile``."""
    request = replace(_request(options), until=options.until, recipe=options.recipe, variant=options.variant)
    request = replace(request, changes=(*time_budget(options), *request.changes))
    if options.plan:
        return _plan(request, options)
    out = Path(options.out or f"build/{request.name}-{options.target.replace(':', '-')}")
    return _run(request, out, options, given)


def train_command(options: Namespace, given: list[str]) -> int:
    """``edgeres train``: the training stage and an evaluation, for no target in particular."""
    wanted = {"recipe": options.recipe, "epochs": options.epochs, "freeze": options.freeze}
    changes = tuple(f"train.{name}={value}" for name, value in wanted.items() if value is not None)
    request = _request(options)
    recipe = "train" if request.data else "sample"
    request = replace(request, recipe=recipe, until="evaluate", changes=(*changes, *request.changes))
    return _run(request, Path(options.out or f"build/{request.name}-trained"), options, given)


def export_command(options: Namespace, given: list[str]) -> int:
    """``edgeres export``."""
    return again(options, given)


def verify_command(options: Namespace, given: list[str]) -> int:
    """``edgeres verify``."""
    return again(options, given)


def report_command(options: Namespace, given: list[str]) -> int:
    """``edgeres report``: renders from ``report.json`` alone."""
    screen, folder = Screen(quiet=False), Path(options.run)
    paths = document.render(folder)
    text = (folder / document.JSON).read_text(encoding="utf-8")
    run = document.decode(text, document.JSON)
    if options.json:
        screen.out.out(text, end="")
    else:
        _summary(run, screen, paths[-1])
    return exit_code(run)


def targets_command(options: Namespace, given: list[str]) -> int:
    """``edgeres targets``."""
    from edgeres.backends.registry import find_backend
    from edgeres.target import targets

    screen = Screen(quiet=False)
    rows: list[dict[str, Any]] = []
    for target in targets().values():
        missing = find_backend(target.backend).missing()
        row: dict[str, Any] = {"name": target.name, "aliases": list(target.aliases), "title": target.title}
        row |= {"build_on": target.build_on, "runtime": target.runtime.name, "missing": missing}
        rows.append({**row, "version": target.version, "versions": list(target.versions)})
    if options.json:
        screen.out.out(json.dumps(rows, indent=2))
        return 0
    screen.table(
        ("target", "aliases", "what", "versions", "built on", "missing here"),
        (
            (r["name"], ", ".join(r["aliases"]), r["title"], _versions(r), r["build_on"], _first(r["missing"]))
            for r in rows
        ),
    )
    for missing in dict.fromkeys(r["missing"] for r in rows if r["missing"]):
        screen.out.out(missing, highlight=False)
    return 0


def _first(missing: str | None) -> str:
    """The head of a sentence on what is missing; the way out stands below the table, once."""
    return missing.partition(":")[0] if missing else "-"


def _versions(row: dict[str, Any]) -> str:
    """Versions for behind the target's colon, the default with a star."""
    return " ".join(f"{name}*" if name == row["version"] else name for name in row["versions"]) or "-"


def models_command(options: Namespace, given: list[str]) -> int:
    """``edgeres models``."""
    from edgeres.model.cost import macs, parameters
    from edgeres.model.spec import PRESETS

    screen = Screen(quiet=False)
    rows: list[dict[str, Any]] = []
    for name, spec in PRESETS.items():
        size = 224 if spec.stem.pool else 32
        rows.append({"name": name, "size": size, "macs": macs(spec, size, size), "parameters": parameters(spec)})
    if options.json:
        screen.out.out(json.dumps(rows, indent=2))
        return 0
    screen.table(
        ("model", "input", "MACs", "parameters"),
        ((r["name"], f"{r['size']}x{r['size']}", f"{r['macs']:,}", f"{r['parameters']:,}") for r in rows),
    )
    return 0


def recipes_command(options: Namespace, given: list[str]) -> int:
    """``edgeres recipes``."""
    from edgeres.recipe import load_recipe, recipe_names

    screen = Screen(quiet=False)
    recipes = [load_recipe(name) for name in recipe_names()]
    if options.json:
        screen.out.out(json.dumps({recipe.name: recipe.entries() for recipe in recipes}, indent=2))
    else:
        rows = ((recipe.name, " -> ".join(stage.name for stage in recipe.stages)) for recipe in recipes)
        screen.table(("recipe", "stages"), rows)
    return 0


def _request(options: Namespace) -> Request:
    from edgeres.request import PreprocessFlags, Request
    from edgeres.settings import parse

    flags = {
        name: getattr(options, name) for name in ("resize", "crop", "mean", "std", "interpolation", "channels", "exif")
    }
    words = ("model", "weights", "data", "classes", "seed", "calibration", "scales", "strict")
    asked = {name: getattr(options, name) for name in words}
    asked |= {"target": getattr(options, "target", "cpu"), "budget": dict(options.budget)}
    asked |= {"changes": tuple(options.changes), "allow": tuple(options.allow)}
    return parse(Request, asked | {"preprocess": parse(PreprocessFlags, flags, "command line")}, "command line")


def time_budget(options: Namespace) -> tuple[str, ...]:
    """``--time-budget`` as a change of the recipe."""
    return () if options.time_budget is None else (f"quantize.time_budget_s={60 * options.time_budget:g}",)


def again(options: Namespace, given: list[str]) -> int:
    """Does one stage of a finished run again."""
    return _run(requested_again(options), Path(options.out or options.run), options, given)


def requested_again(options: Namespace, *more: str) -> Request:
    """A finished run's request up to one stage, with settings exchanged; what did not change comes from the store.

    Args:
        options: Of the command.
        more: Changes of the recipe that ``--set`` still goes before.
    """
    from edgeres.folder import RunFolder

    before = RunFolder(Path(options.run)).request()
    budget = {**before.budget, **dict(options.budget)}
    changes = (*before.changes, *more, *options.changes)
    both = before.foreign and options.command in ("quantize", "export")  # one stage does both to a foreign graph
    stage = "quantize_onnx" if both else options.command
    until = None if stage == "verify" else stage
    return replace(before, until=until, changes=changes, budget=budget, strict=before.strict or options.strict)


def store_of(options: Namespace) -> Store:
    """Where a command keeps finished stages."""
    from edgeres.store import Store

    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "edgeres")
    return Store(Path(options.cache or os.environ.get("EDGERES_CACHE") or default))


def _run(request: Request, out: Path, options: Namespace, given: list[str]) -> int:
    """Compiles, and tells how it went."""
    screen = Screen(quiet=options.quiet)
    run = compiled(request, out, options, given, screen)
    tell(run, out, options, screen)
    return exit_code(run)


def tell(run: Run, out: Path, options: Namespace, screen: Screen) -> None:
    """What a finished run amounts to."""
    if options.json:
        screen.out.out((out / document.JSON).read_text(encoding="utf-8"), end="")
        if run.error:
            screen.err.out(_verdict(run), highlight=False)
    else:
        _summary(run, screen, out / document.HTML)


def compiled(request: Request, out: Path, options: Namespace, given: list[str], screen: Screen) -> Run:
    """Compiles into a folder while people watch."""
    from edgeres.compile import Desk, compile_model
    from edgeres.target import find_target

    target = find_target(request.target)
    goal = "" if options.command == "train" else f" -> {target.name} ({target.title})"
    screen.err.print(f"edgeres {options.command}: {request.name}{goal}")
    desk = Desk(out, store_of(options), screen, screen, shlex.join(["edgeres", *given]))
    return compile_model(request, desk)


def _summary(run: Run, screen: Screen, page: Path) -> None:
    for line in (_verdict(run),) if screen.quiet else summary_lines(run):
        screen.out.out(line, highlight=False)
    screen.out.out(f"report: {page}")


def _verdict(run: Run) -> str:
    """All that a quiet run says: the headline, and behind an error the way out."""
    way_out = run.error.way_out if run.error else ""
    return f"{headline(run)}: {way_out}" if way_out else headline(run)


def _plan(request: Request, options: Namespace) -> int:
    from edgeres.estimate import estimate
    from edgeres.pipeline import Pipeline, prepare

    screen = Screen(quiet=options.quiet)
    plan = prepare(request, screen)
    rows = estimate(Pipeline(plan, store_of(options), screen))
    if options.json:
        screen.out.out(
            json.dumps([{"stage": r.stage, "state": r.state, "seconds": r.seconds, "why": r.why} for r in rows])
        )
        return 0
    for note in plan.notes:
        screen.note(note)
    screen.table(
        ("stage", "state", "about", "why"),
        ((r.stage, r.state, "-" if r.seconds is None else f"{r.seconds:.0f} s", r.why) for r in rows),
    )
    return 0
