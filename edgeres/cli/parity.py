"""``edgeres parity``: a finished run's graph on every runtime of this host, compared with exact integer arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli._compilation import run_changed
from edgeres.cli._options import Commands, Options, number, positive
from edgeres.errors import ModelError, StageError, UsageError

if TYPE_CHECKING:
    from edgeres.artifacts.artifact import Checkpoint, Exported
    from edgeres.cli._console import Screen
    from edgeres.parity.integer.network import Bias
    from edgeres.parity.result import Parity
    from edgeres.parity.runtimes import ParityRuntime
    from edgeres.pipeline.plan import Plan
    from edgeres.pipeline.recipe import Recipe
    from edgeres.runs.run import Run

PLACE = 130

NAME = "parity"
_DISAGREEMENT = 3


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres parity``."""
    help_text = "run a finished run's graph on every runtime here and in exact integers, and compare"
    codes = "exit codes: 0 every pair agrees, 1 error, 2 bad usage or input, 3 some pair agrees less than wanted"
    add = commands.add_parser("parity", help=help_text, epilog=codes).add_argument
    add("run", metavar="RUN", help="run folder, such as build/resnet18-x86")
    add("--images", type=positive, default=1000, metavar="N", help="validation images to answer (default 1000)")
    add("--layers", type=positive, default=16, metavar="N", help="images to look at layer by layer (default 16)")
    percentage = number(lambda share: 0 <= share <= 100, "no percentage, such as 99.9")
    add("--agreement", type=percentage, default=99.9, metavar="PERCENT", help="same answers wanted (default 99.9)")
    add("--runtimes", metavar="NAME,NAME", help="try these besides torch and ONNX Runtime unoptimised")
    add("--out", metavar="DIR", help="where parity.html, .json and .svg go (default RUN)")
    add("--cache", metavar="DIR", help="where finished stages are kept (default ~/.cache/edgeres)")
    add("--json", action="store_true", help="machine-readable output")
    add("--quiet", action="store_true", help="print the verdict only")


def run(options: Options, screen: Screen) -> int:
    """Compares the runtimes, prints a table, and writes ``parity.json``, ``parity.html`` and ``parity.svg``."""
    from edgeres.report.parity import HEADS, cells, footnotes, verdict
    from edgeres.runs import document

    folder = Path(options.run)
    result = _result(folder, document.load(folder), options, screen)
    page = _write(result, Path(options.out or folder))
    if options.json:
        screen.json(result)
    else:
        if not options.quiet:
            screen.table(tuple(head.lower() for head in HEADS), cells(result))
        notes = () if options.quiet else footnotes(result)
        for line in (*notes, verdict(result), f"report: {page}"):
            screen.line(line)
    return 0 if result.passed else _DISAGREEMENT


def _write(result: Parity, out: Path) -> Path:
    from edgeres.artifacts.store import write_beside
    from edgeres.report.parity import growth_plot, html
    from edgeres.report.svg import standalone
    from edgeres.settings import plain

    write_beside(out / f"{NAME}.json", f"{json.dumps(plain(result), indent=2)}\n".encode())
    if any(row.depths for row in result.runtimes):
        write_beside(out / f"{NAME}.svg", standalone(growth_plot(result)).encode())
    write_beside(out / f"{NAME}.html", html(result).encode())
    return out / f"{NAME}.html"


def _result(folder: Path, finished: Run, options: Options, screen: Screen) -> Parity:
    """How often each pair of runtimes gives the same answer, and how their tensors differ layer by layer."""
    from dataclasses import replace
    from tempfile import TemporaryDirectory

    import onnx

    from edgeres.parity.integer.network import IntegerNetwork
    from edgeres.parity.runtimes import chosen, opened
    from edgeres.parity.study import Subject, spread, study
    from edgeres.runs.finished import read_graphs

    backends, exported = chosen(options.runtimes), read_graphs(folder, finished)
    if exported.metadata.preprocess.input == "uint8":
        what = f"the run in {folder} takes uint8 pixels, which exact integers and torch do not"
        raise UsageError(what, "compile the same without --input uint8: the graph behind the pixels is the same")
    if exported.scales is None:
        raise UsageError(f"the run in {folder} ships no integers: there is nothing to compare", "compile it in INT8")
    plan, artifact = _quantized(folder, options, screen)
    exported = replace(exported, metadata=artifact.metadata)
    absent: dict[str, str] = {}
    networks: dict[Bias, IntegerNetwork] = {}
    try:
        model = onnx.load(str(exported.model.path))
        networks = {"float": IntegerNetwork(model), "int32": IntegerNetwork(model, "int32")}
    except ModelError as refusal:
        absent["exact integers"] = refusal.what
    images, preprocess = spread(plan.dataset.validation, options.images), artifact.metadata.preprocess
    subject = Subject(finished.model, finished.target.name, networks, images, preprocess)
    names, torch = networks["float"].codes if networks else {}, _fake_quantized(plan, artifact)
    with (
        TemporaryDirectory(prefix="edgeres-parity-") as out,
        opened(backends, exported, plan.target, names, Path(out), progress=screen) as here,
    ):
        if torch is None:
            absent["torch"] = "an imported graph has no network in torch"
        runtimes = here.runtimes if torch is None else (torch, *here.runtimes)
        compared = replace(here, runtimes=runtimes, absent={**here.absent, **absent})
        return study(subject, compared, screen, shown=options.layers, wanted=options.agreement)


def _quantized(folder: Path, options: Options, screen: Screen) -> tuple[Plan, Checkpoint | Exported]:
    """The run's plan and the network it quantized, from the store or computed again."""
    from dataclasses import replace

    from edgeres.artifacts.artifact import Checkpoint, Exported
    from edgeres.pipeline.run_folder import MANIFEST

    def until_quantized(recipe: Recipe) -> Recipe:
        names = [stage.name for stage in recipe.stages]
        last = names.index("export") if "export" in names else names.index("quantize") + 1
        return replace(recipe, stages=recipe.stages[:last])

    plan, done = run_changed(until_quantized, options, screen)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["stages"]
    if [stage["sha256"] for stage in manifest[: len(done)]] != [stage.entry.digest for stage in done]:
        raise StageError(f"the network of {folder} comes out differently now", "compile it again")
    artifact = done[-1].entry.load()
    assert isinstance(artifact, Checkpoint | Exported)
    return plan, artifact


def _fake_quantized(plan: Plan, artifact: Checkpoint | Exported) -> ParityRuntime | None:
    """The run's network in torch with fake quantization; None for an imported graph."""
    from edgeres.artifacts.artifact import Checkpoint
    from edgeres.parity.runtimes import fake_quantization
    from edgeres.quant.quantized import Quantized

    if not isinstance(artifact, Checkpoint) or artifact.quant is None or plan.target.scheme is None:
        return None
    weights = artifact.weights if artifact.deployed is None else artifact.deployed
    return fake_quantization(Quantized(artifact.graph, weights, artifact.quant, plan.target.scheme).network())
