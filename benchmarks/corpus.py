"""Does ``edgeres lint`` say what the real TensorRT-RTX parser and builder say?

``python -m benchmarks.corpus`` makes graphs of one thin network with the real packages, and single-defect mutants of
ours; asks lint and TensorRT-RTX about each; and prints where they disagree. ``--write docs/lint.md`` keeps the table.

A graph is *right* where TensorRT-RTX parses and builds it and what it reads is what ONNX says: uint8 codes and missing
zero-points, which it takes for int8, are put into the graph as int8 and both graphs run on unoptimised ONNX Runtime. An
error of lint on a right graph is a false alarm; a graph refused or read wrongly without an error of lint is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from onnx import TensorProto, numpy_helper

from benchmarks.command import run, said
from benchmarks.foreign_graphs import GRAPHS, Absent, modelopt
from benchmarks.mutants import MUTANTS, mutate
from benchmarks.subjects import SIDE, images, ours
from benchmarks.table import markdown, with_block
from edgeres.backends.bundle.build_engine import build_plan
from edgeres.backends.bundle.device import BundleError
from edgeres.backends.bundle.engine import recorder
from edgeres.backends.tensorrt.loader import CAPABILITIES, RTX_PACKAGE, plan_kernel_counts
from edgeres.errors import EdgeresError
from edgeres.lint.linter import lint
from edgeres.onnx_graph.execute import relative_delta, runner
from edgeres.onnx_graph.graph_index import QDQ, GraphIndex, attribute, input_at
from edgeres.targets.target import find_target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx import ModelProto

MARKERS = "<!-- corpus:begin -->", "<!-- corpus:end -->"
TARGET = "rtx"
_MISREAD = 1e-3
"""Share of the logits' range beyond which a graph is read wrongly; a clipped half is far above it."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What TensorRT-RTX made of a graph.

    Attributes:
        truth: ``right``, ``refused``, or ``misread``.
        words: Its own words, or how far its reading is off.
        integer: Integer kernels of those with weights, empty where nothing was built.
    """

    truth: Literal["right", "refused", "misread"]
    words: str
    integer: str = ""


@dataclass(frozen=True, slots=True)
class CorpusRow:
    """A graph, what lint says and what TensorRT-RTX says."""

    tool: str
    title: str
    errors: tuple[str, ...]
    others: tuple[str, ...]
    engine: Engine

    @property
    def agreement(self) -> Literal["agree", "missed", "false alarm"]:
        """Whether both call the graph right or both call it wrong."""
        wrong = self.engine.truth != "right"
        if bool(self.errors) == wrong:
            return "agree"
        return "missed" if wrong else "false alarm"


def judge(tool: str, title: str, model: ModelProto) -> CorpusRow:
    """Asks both about a graph."""
    findings = lint(model, find_target(TARGET))
    errors = dict.fromkeys(finding.rule for finding in findings if finding.severity == "E")
    others = dict.fromkeys(finding.rule for finding in findings if finding.severity != "E")
    return CorpusRow(tool, title, tuple(errors), tuple(others), ask(model))


def ask(model: ModelProto) -> Engine:
    """Lets TensorRT-RTX parse and build a graph.

    Raises:
        BackendUnavailable: TensorRT-RTX is not installed.
    """
    runtime = RTX_PACKAGE.load()
    log = recorder(runtime)

    def tune(config: object) -> None:
        config.num_compute_capabilities = 1  # type: ignore[attr-defined]  # bindings without types
        config.set_compute_capability(getattr(runtime.ComputeCapability, CAPABILITIES[0]), 0)  # type: ignore[attr-defined]

    build = {"workspace_mib": 512, "precisions": (), "optimization_level": None, "image": (3, SIDE, SIDE)}
    try:
        plan = build_plan(runtime, model.SerializeToString(), build | {"batch": (1, 1, 8)}, log, tune)
    except BundleError as refusal:
        return Engine("refused", _short(str(refusal)))
    counts = plan_kernel_counts(plan)
    off = misreading(model)
    if off > _MISREAD:
        return Engine("misread", f"logits off by {off:.0%} of their range", f"{counts.integer}/{counts.weighted}")
    return Engine("right", "builds", f"{counts.integer}/{counts.weighted}")


def _short(words: str) -> str:
    """The parser's reason without the version and without file names."""
    reason = words.partition("refused the graph: ")[2] or words.partition("built no engine: ")[2] or words
    return " ".join(reason.split())[:110]


def misreading(model: ModelProto) -> float:
    """How far TensorRT's reading of a graph is off, as ``max|delta logit| / max|logit|``."""
    read = as_tensorrt_reads(model)
    if read is None:
        return 0.0
    pixels = images(4, seed=1)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    pixels = pixels[:batch] if batch else pixels
    return relative_delta(runner(model, optimise=False)(pixels), runner(read, optimise=False)(pixels))


def as_tensorrt_reads(model: ModelProto) -> ModelProto | None:
    """The graph with int8 where TensorRT takes int8: for uint8 zero-points, and where there are none."""
    changed, found = type(model)(), False
    changed.CopyFrom(model)
    changed.graph.ClearField("value_info")
    view = GraphIndex.of(changed)
    for node in view.of_type(*QDQ):
        zero = view.constants.get(input_at(node, 2))
        silent = zero is None and node.input[0] not in view.constants and not attribute(node, "output_dtype", 0)
        if silent or (zero is not None and zero.data_type == TensorProto.UINT8):
            name = f"{node.name or node.output[0]}:as-int8"
            changed.graph.initializer.append(numpy_helper.from_array(np.zeros(_shape(view, node), np.int8), name))
            node.input[:] = [*node.input[:2], name]
            found = True
    return changed if found else None


def _shape(view: GraphIndex, node: object) -> tuple[int, ...]:
    scale = view.value(node.input[1])  # type: ignore[attr-defined]  # a NodeProto
    return () if scale is None else scale.shape


def rows(python: str = sys.executable, *, foreign: bool = True) -> Iterator[CorpusRow]:
    """Every graph of the corpus, judged.

    Args:
        python: An interpreter that has TensorRT Model Optimizer.
        foreign: Whether other people's tools are run; without them it is quick.
    """
    own = ("rtx", "jetson", "xavier-nx", "xavier-nx:jp4.6", "agx-orin:trt11.4", "jetson-nano", "cpu")
    for name in own:
        yield judge("edgeres", f"for {name}", ours(find_target(name)))
    for tool in (*GRAPHS, modelopt(python)) if foreign else ():
        said(f"{tool.tool}: {tool.title}")
        with tempfile.TemporaryDirectory() as folder:
            try:
                model = tool.make(Path(folder))
            except Absent as absent:
                yield CorpusRow(
                    tool.tool, f"{tool.title}: not installed here, {absent}", (), (), Engine("right", "not asked")
                )
                continue
        yield judge(tool.tool, tool.title, model)
    base = ours(find_target("jetson"))
    for mutant in MUTANTS:
        title = f"{mutant.rule} {mutant.make.__name__.strip('_').replace('_', ' ')}"
        yield judge("mutant of ours", title, mutate(base, mutant))


def report(found: Sequence[CorpusRow]) -> str:
    """The confusion matrix, then every graph."""
    asked = [row for row in found if row.engine.words != "not asked"]
    count = {
        (wrong, told): sum((row.engine.truth != "right") == wrong and bool(row.errors) == told for row in asked)
        for wrong in (True, False)
        for told in (True, False)
    }
    refused = sum(row.engine.truth == "refused" for row in asked)
    version = RTX_PACKAGE.load().__version__
    matrix = markdown(
        (f"TensorRT-RTX {version}", "lint: error", "lint: no error"),
        (
            ("refuses or misreads", str(count[True, True]), f"{count[True, False]} (missed)"),
            ("builds, and reads what ONNX says", f"{count[False, True]} (false alarms)", str(count[False, False])),
        ),
    )
    table = markdown(
        ("made by", "graph", "lint: errors", "lint: others", "TensorRT-RTX", "integer kernels", "both"),
        (
            (r.tool, r.title, ", ".join(r.errors) or "-", ", ".join(r.others) or "-",
             r.engine.words, r.engine.integer or "-", r.agreement)
            for r in found
        ),
        words=7,
    )  # fmt: skip
    told = f"{len(asked)} graphs: {refused} refused, {sum(r.engine.truth == 'misread' for r in asked)} misread."
    return f"{told}\n\n{matrix}\n\n{table}"


def main(given: Sequence[str] | None = None) -> int:
    """Judges the corpus; exit code 1 where lint and TensorRT-RTX disagree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=__doc__.partition("\n")[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep the tables between the markers of a document")
    parser.add_argument("--modelopt", default=sys.executable, metavar="PYTHON", help="an interpreter that has it")

    def work(options: argparse.Namespace) -> str:
        found = list(rows(options.modelopt))
        text = report(found)
        if options.write:
            options.write.write_text(with_block(options.write.read_text(encoding="utf-8"), text, MARKERS), "utf-8")
        wrong = [f"{row.tool} {row.title}: {row.agreement}" for row in found if row.agreement != "agree"]
        if wrong:
            print(text)
            raise EdgeresError(f"lint and TensorRT-RTX disagree: {'; '.join(wrong)}")
        return text

    return run(parser, work, given)


if __name__ == "__main__":
    sys.exit(main())
