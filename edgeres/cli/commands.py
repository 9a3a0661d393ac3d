"""What each command does; every function returns an exit code."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.cli.console import Screen

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.artifacts.store import Store
    from edgeres.pipeline.compile import Compilation
    from edgeres.pipeline.request import Request
    from edgeres.runs.run import Run


def compile_command(options: Namespace, given: list[str]) -> int:
    """``edgeres compile``."""
    from edgeres.targets.target import find_target

    find_target(options.target)  # a misspelt one is said before anything else is imported
    request = replace(_request(options), until=options.until, recipe=options.recipe, variant=options.variant)
    request = replace(request, changes=(*search_changes(options), *request.changes))
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
    from edgeres.report import report_files
    from edgeres.runs import document
    from edgeres.runs.verdict import exit_code

    screen, folder = Screen(quiet=False), Path(options.run)
    paths = report_files.render(folder)
    text = (folder / document.JSON).read_text(encoding="utf-8")
    run = document.decode(text, document.JSON)
    if run.error:
        screen.failure(_failure(run))
    if options.json:
        screen.out.out(text, end="")
    else:
        _summary(run, screen, paths[-1])
    return exit_code(run)


def targets_command(options: Namespace, given: list[str]) -> int:
    """``edgeres targets``."""
    from edgeres.backends.registry import find_backend
    from edgeres.targets.target import targets

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
        screen.line(missing)
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


def _request(options: Namespace) -> Request:
    from edgeres.pipeline.request import PreprocessFlags, Request
    from edgeres.settings import parse

    flags = {
        name: getattr(options, name) for name in ("resize", "crop", "mean", "std", "interpolation", "channels", "exif")
    }
    words = ("model", "weights", "data", "classes", "seed", "calibration", "scales", "strict")
    asked = {name: getattr(options, name) for name in words}
    asked |= {"target": getattr(options, "target", "cpu"), "budget": dict(options.budget)}
    asked |= {"changes": tuple(options.changes), "allow": tuple(options.allow)}
    return parse(Request, asked | {"preprocess": parse(PreprocessFlags, flags, "command line")}, "command line")


def search_changes(options: Namespace) -> tuple[str, ...]:
    """``--effort`` and ``--time-budget`` as changes of the recipe."""
    found: tuple[str, ...] = ()
    if options.effort is not None:
        found += (f"quantize.effort={options.effort}",)
    if options.time_budget is not None:
        found += (f"quantize.time_budget_s={60 * options.time_budget:g}",)
    elif options.effort == "max":
        found += ("quantize.time_budget_s=null",)
    return found


def again(options: Namespace, given: list[str]) -> int:
    """Does one stage of a finished run again, and what follows it."""
    return _run(requested_again(options), Path(options.out or options.run), options, given)


def requested_again(options: Namespace, *more: str) -> Request:
    """A finished run's request to the end of its recipe, with settings exchanged.

    What did not change comes from the store.

    Args:
        options: Of the command.
        more: Changes of the recipe that ``--set`` still goes before.

    Raises:
        UsageError: The run's recipe has no such stage.
    """
    from edgeres.pipeline.plan import check_stage
    from edgeres.pipeline.run_folder import RunFolder

    before = RunFolder(Path(options.run)).request()
    budget = {**before.budget, **dict(options.budget)}
    changes = (*before.changes, *more, *options.changes)
    both = before.foreign and options.command in ("quantize", "export")  # one stage does both to a foreign graph
    check_stage(before, "quantize_onnx" if both else options.command, options.run)
    return replace(before, until=None, changes=changes, budget=budget, strict=before.strict or options.strict)


def store_of(options: Namespace) -> Store:
    """Where a command keeps finished stages."""
    from edgeres.artifacts.store import Store

    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "edgeres")
    return Store(Path(options.cache or os.environ.get("EDGERES_CACHE") or default))


def _run(request: Request, out: Path, options: Namespace, given: list[str]) -> int:
    """Compiles, and tells how it went."""
    from edgeres.runs.verdict import exit_code

    screen = Screen(quiet=options.quiet)
    done = compiled(request, out, options, given, screen)
    tell(done.run, done.folder, options, screen)
    return exit_code(done.run)


def tell(run: Run, out: Path, options: Namespace, screen: Screen) -> None:
    """What a finished run amounts to; an error goes to standard error, whatever else is printed."""
    from edgeres.report import report_files
    from edgeres.runs import document

    if run.error:
        screen.failure(_failure(run))
    if options.json:
        screen.out.out(document.encode(run), end="")
    else:
        _summary(run, screen, out / report_files.HTML)


def compiled(request: Request, out: Path, options: Namespace, given: list[str], screen: Screen) -> Compilation:
    """Compiles into a folder while people listener."""
    from edgeres.targets.target import find_target

    target = find_target(request.target)
    request.check_names()
    from edgeres.pipeline.compile import (  # what is misspelt is said before torch is loaded
        CompileOptions,
        compile_model,
    )

    goal = "" if options.command == "train" else f" -> {target.name} ({target.title})"
    screen.err.print(f"edgeres {options.command}: {request.name}{goal}")
    compile_options = CompileOptions(out, store_of(options), screen, screen, shlex.join(["edgeres", *given]))
    return compile_model(request, compile_options)


def _summary(run: Run, screen: Screen, page: Path) -> None:
    """The verdict and its lines; unless quiet, what to do next. The report's place comes last."""
    from edgeres.report.next_steps import next_steps
    from edgeres.runs.verdict import headline, summary_lines

    folder = page.parent
    if screen.quiet:
        if not run.error:
            screen.line(_trained(run) or headline(run))
    else:
        trained, lines = _trained(run), summary_lines(run)
        for line in (trained, *lines[1:]) if trained else lines:
            screen.line(line.replace(" RUN", f" {folder}"), _TITLE_COLUMN if line.startswith(_STATUSES) else 2)
        steps = next_steps(run, folder)
        width = max((len(step.label) for step in steps), default=0)
        for step in steps:
            screen.step(f"next: {step.label:<{width}}  ", step)
    screen.command(f"report: {page}")


def _trained(run: Run) -> str:
    """What ``edgeres train`` amounts to, which has no target and judges nothing; empty for any other run."""
    from edgeres.runs.figures import percent

    top1 = next((row.top1 for row in reversed(run.stages) if row.top1 is not None), None)
    if run.error or top1 is None or not run.command.startswith("edgeres train "):
        return ""
    return f"Trained: {run.model}, top-1 {percent(top1)} on the validation images."


_STATUSES = ("passed ", "failed ", "unmeasured ", " ")
"""How a budget line begins, and what stands below one."""
_TITLE_COLUMN = 12
"""Where the name of a budget line begins, behind its status."""


def _failure(run: Run) -> str:
    """Where a run stopped, why, and the way out."""
    from edgeres.runs.verdict import reason

    hint = f": {run.error.hint}" if run.error and run.error.hint else ""
    return f"{run.model} for {run.target.name} {reason(run)}{hint}"


def _plan(request: Request, options: Namespace) -> int:
    from edgeres.pipeline.estimate import estimate
    from edgeres.pipeline.plan import prepare
    from edgeres.pipeline.runner import Pipeline

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
