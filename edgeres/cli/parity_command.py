"""``edgeres parity``: a finished run's graph on every runtime of this host, and in exact integers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from edgeres.cli.commands import store_of
from edgeres.cli.console import Screen
from edgeres.errors import ModelError, StageError, UsageError
from edgeres.runs import document
from edgeres.settings import plain

if TYPE_CHECKING:
    from argparse import Namespace

    from onnx import ModelProto

    from edgeres.artifacts.artifact import Checkpoint, Exported
    from edgeres.parity.integer.network import Bias, IntegerNetwork
    from edgeres.parity.result import Parity
    from edgeres.parity.runtimes import ParityRuntime
    from edgeres.pipeline.plan import Plan
    from edgeres.runs.run import Run

NAME = "parity"
_OVER = 3


def parity_command(options: Namespace, given: list[str]) -> int:
    """Compares, tells, and writes ``parity.json``, ``parity.html`` and ``parity.svg``."""
    from edgeres.report import parity

    folder, screen = Path(options.run), Screen(quiet=options.quiet)
    run = document.load(folder)
    found = _found(folder, run, options, screen)
    text = json.dumps(plain(found), indent=2)
    page = _written(found, text, Path(options.out or folder))
    if options.json:
        screen.out.out(text)
    else:
        if not options.quiet:
            screen.table(tuple(head.lower() for head in parity.HEADS), parity.cells(found))
        notes = () if options.quiet else parity.footnotes(found)
        for line in (*notes, parity.verdict(found), f"report: {page}"):
            screen.line(line)
    return 0 if found.passed else _OVER


def _written(found: Parity, text: str, out: Path) -> Path:
    """The path of the page, once everything is written."""
    from edgeres.artifacts.store import write_beside
    from edgeres.report.parity import drawing, html

    write_beside(out / f"{NAME}.json", f"{text}\n".encode())
    if any(row.depths for row in found.runtimes):
        write_beside(out / f"{NAME}.svg", drawing(found).encode())
    write_beside(out / f"{NAME}.html", html(found).encode())
    return out / f"{NAME}.html"


def _found(folder: Path, run: Run, options: Namespace, screen: Screen) -> Parity:
    import onnx

    from edgeres.parity.runtimes import chosen, opened
    from edgeres.parity.study import Subject, spread, study
    from edgeres.runs.graphs import read_graphs

    backends, exported = chosen(options.runtimes), read_graphs(folder, run)
    if exported.scales is None:
        raise UsageError(f"the run in {folder} ships no integers: there is nothing to compare", "compile it in INT8")
    plan, made = _quantized(folder, options, screen)
    exported = replace(exported, metadata=made.metadata)
    networks, unknown = _references(onnx.load(str(exported.model.path)))
    subject = Subject(
        model=run.model,
        target=run.target.name,
        networks=networks,
        images=spread(plan.dataset.validation, options.images),
        preprocess=made.metadata.preprocess,
    )
    names, torch = networks["float"].codes if networks else {}, _fake(plan, made)
    with (
        TemporaryDirectory(prefix="edgeres-parity-") as out,
        opened(backends, exported, plan.target, names, Path(out), progress=screen) as here,
    ):
        absent = {**here.absent, **unknown}
        if torch is None:
            absent["torch"] = "a foreign graph has no network in torch"
        runtimes = here.runtimes if torch is None else (torch, *here.runtimes)
        found = replace(here, runtimes=runtimes, absent=absent)
        return study(subject, found, screen, shown=options.layers, wanted=options.agreement)


def _references(model: ModelProto) -> tuple[dict[Bias, IntegerNetwork], dict[str, str]]:
    """The reference under each way of taking biases; where the graph has none, why."""
    from edgeres.parity.integer.network import IntegerNetwork

    try:
        return {"float": IntegerNetwork(model), "int32": IntegerNetwork(model, "int32")}, {}
    except ModelError as refusal:
        return {}, {"exact integers": refusal.what}


def _quantized(folder: Path, options: Namespace, screen: Screen) -> tuple[Plan, Checkpoint | Exported]:
    """The run's plan, and the network it quantized: from the store, or once more where that has forgotten it.

    Raises:
        UsageError: The recipe quantizes nothing.
        StageError: What comes out now is not what the run had.
    """
    from edgeres.artifacts.artifact import Checkpoint, Exported
    from edgeres.pipeline.plan import prepare
    from edgeres.pipeline.run_folder import MANIFEST, RunFolder
    from edgeres.pipeline.runner import Pipeline

    request = RunFolder(folder).request()
    plan = prepare(replace(request, until=None), screen)
    names = [stage.name for stage in plan.recipe.stages]
    last = names.index("export") if "export" in names else names.index("quantize_onnx") + 1
    plan = replace(plan, recipe=replace(plan.recipe, stages=plan.recipe.stages[:last]))
    done = Pipeline(plan, store_of(options), screen, screen).run()
    known = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["stages"]
    if [stage["sha256"] for stage in known[:last]] != [stage.entry.digest for stage in done]:
        raise StageError(f"the network of {folder} comes out differently now", "compile it again")
    made = done[-1].entry.load()
    assert isinstance(made, Checkpoint | Exported)
    return plan, made


def _fake(plan: Plan, made: Checkpoint | Exported) -> ParityRuntime | None:
    """Fake quantization of the run's network; None of a foreign graph."""
    from edgeres.artifacts.artifact import Checkpoint
    from edgeres.parity.runtimes import fake_quantization
    from edgeres.quant.quantized import Quantized

    if not isinstance(made, Checkpoint) or made.quant is None or plan.target.scheme is None:
        return None
    weights = made.weights if made.deployed is None else made.deployed
    return fake_quantization(Quantized(made.spec, weights, made.quant, plan.target.scheme).network())
