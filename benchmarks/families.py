"""``python -m benchmarks.families``: ONNX files of many families in INT8, beside NNCF and ONNX Runtime.

Weights are drawn, batch norms measured, and the classifier is fitted to Imagenette in closed form. ``outliers``
multiplies some channels by 100 and divides what reads them, so that the function stays. All quantize the same folded
float graph with the same calibration images. Figures are of validation images: mean KL divergence of the softmax from
float's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import onnx

from benchmarks.command import CHECKOUT, positive, run, said
from benchmarks.family_networks import FAMILIES, SIDE, TRANSFORM, VALIDATION, float_file, stacked, subset
from benchmarks.page import renew, renewed
from benchmarks.peers import Nncf, OnnxRuntimeStatic
from benchmarks.pixels import Pixels, decode
from benchmarks.table import markdown
from edgeres.cli import main as edgeres
from edgeres.data.dataset import open_dataset
from edgeres.errors import EdgeresError, UsageError
from edgeres.metrics import agreement, kl
from edgeres.onnx_graph.execute import runner
from edgeres.pipeline.assemble import source_digest
from edgeres.settings import digest, plain
from edgeres.targets.target import find_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from benchmarks.family_networks import Family
    from edgeres.data.dataset import Dataset

MARKERS = "<!-- families:begin -->", "<!-- families:end -->"
SCHEMES = {"TensorRT": "jetson", "x86": "cpu"}
OURS = "edgeres"
PEERS: tuple[Nncf | OnnxRuntimeStatic, ...] = (
    Nncf(),
    OnnxRuntimeStatic("MinMax"),
    OnnxRuntimeStatic("Entropy"),
    OnnxRuntimeStatic("Percentile"),
)
GOAL = 0.5


@dataclass(frozen=True, slots=True)
class FloatGraph:
    """A folder with the float graph that edgeres folded, and what the peers need beside it."""

    folder: Path

    @property
    def graph(self) -> Path:
        """The float graph."""
        return self.folder / "run" / "model.float.onnx"

    def pixels(self, name: str) -> Pixels:
        """Decoded images."""
        return Pixels(self.folder / f"{name}.pixels", TRANSFORM.crop)

    def model(self, contender: str, suffix: str = ".onnx") -> Path:
        """Where a contender leaves its graph."""
        return self.folder / f"{contender}{suffix}"


@dataclass(frozen=True, slots=True)
class Result:
    """One network in INT8 by one tool: mean KL in nats, answers that are float's in percent, and seconds.

    ``failure`` is why there are none.
    """

    network: str
    scheme: str
    tool: str
    kl: float | None = None
    agreement: float | None = None
    seconds: float | None = None
    failure: str = ""


def _ours(file: Path, target: str, data: Path, graph: FloatGraph, calibration: int) -> bytes:
    words = [
        "compile", str(file), "--target", target, "--data", str(data), "--out", str(graph.folder / "run"), "--quiet",
        "--resize", str(SIDE), "--crop", str(SIDE), "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225",
        "--calibration", str(calibration), "--cache", str(graph.folder / "cache"), "--recipe", "onnx",
        "--allow", "chance",
    ]  # fmt: skip
    code = edgeres(words)
    if code not in (0, 3, 5):
        raise EdgeresError(f"edgeres ended with exit code {code}")
    return (graph.folder / "run" / "model.onnx").read_bytes()


def _apart(work: Callable[[], None], printed: Path, limit: int) -> str:
    """Runs in a process of its own with its output in a file; the reason where it fails."""

    def child() -> None:
        with printed.open("w", encoding="utf-8") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        work()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        process.join()
        return f"took more than {limit} s"
    lines = printed.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "" if process.exitcode == 0 else (lines or [f"exit code {process.exitcode}"])[-1]


def results(
    family: Family, scheme: str, data: Path, options: argparse.Namespace, *, outliers: bool
) -> Iterator[Result]:
    """Edgeres first, then its peers, on one network."""
    target, name = SCHEMES[scheme], f"{family.name}{', outliers' if outliers else ''}"
    dataset = open_dataset(data, seed=0, calibration=options.images, allow=frozenset())
    images, _ = stacked(dataset.validation)
    with tempfile.TemporaryDirectory(prefix="edgeres-families-") as place:
        folder = Path(place)
        file = float_file(folder, family, dataset, outliers=outliers)
        graph = FloatGraph(folder)
        tools: dict[str, Callable[[], bytes]] = {
            OURS: partial(_ours, file, target, data, graph, options.images),
            **{peer.title: partial(_theirs, peer, target, graph, dataset) for peer in PEERS},
        }
        for tool, make in tools.items():
            out, start = graph.model("made"), time.monotonic()
            failure = _apart(partial(_write, make, out), folder / "printed.txt", options.limit)
            seconds = time.monotonic() - start
            if not failure:
                yield replace(_judged(graph.graph, out, scheme, images, Result(name, scheme, tool)), seconds=seconds)
                continue
            yield Result(name, scheme, tool, failure=failure)
            if tool == OURS:
                return  # peers quantize the float graph that edgeres folded


def _write(make: Callable[[], bytes], out: Path) -> None:
    out.write_bytes(make())


def _theirs(peer: Nncf | OnnxRuntimeStatic, target: str, graph: FloatGraph, data: Dataset) -> bytes:
    decode(data.calibration, TRANSFORM, graph.pixels("calibration").path)
    return peer.prepare(graph, find_target(target))()


def _judged(folded: Path, made: Path, scheme: str, images: NDArray[np.float32], result: Result) -> Result:
    """KL and agreement with float: node by node for TensorRT, with ONNX Runtime's integer kernels for x86."""
    wanted = _logits(runner(onnx.load(folded)), images)
    try:
        got = _logits(runner(onnx.load(made), optimise=scheme == "x86"), images)
    except EdgeresError as failure:
        return replace(result, failure=failure.what)
    same = agreement(wanted.argmax(1).tolist(), got.argmax(1).tolist())
    return replace(result, kl=kl(wanted, got), agreement=same)


def _logits(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]], images: NDArray[np.float32]
) -> NDArray[np.float32]:
    return np.concatenate([run(images[first : first + 20]) for first in range(0, len(images), 20)])


def page(found: Sequence[Result], images: int) -> str:
    """A row for each network and scheme, and how often and how far edgeres is better than the best peer."""
    lines, ratios = [], []
    for network, scheme in dict.fromkeys((one.network, one.scheme) for one in found):
        rows = [one for one in found if (one.network, one.scheme) == (network, scheme)]
        ours = next((one for one in rows if one.tool == OURS), None)
        peers = [one for one in rows if one.tool != OURS and one.kl is not None]
        best = min(peers, key=lambda one: one.kl or 0.0, default=None)
        ratio = _quotient(ours.kl if ours else None, best.kl if best else None)
        if ratio is not None:
            ratios.append(ratio)
        lines.append((network, scheme, _figures(ours), _figures(best), best.tool if best else "-", _ratio(ratio)))
    table = markdown(("network", "scheme", OURS, "best peer", "which", "KL ratio"), lines, words=2)
    if not ratios:
        return table
    worse, without = sum(ratio > 1 for ratio in ratios), len(lines) - len(ratios)
    verdict = "missed" if median(ratios) > GOAL or worse else f"open in {without} rows" if without else "met"
    return (
        f"{table}\n\nMean KL divergence from float in 1e-3 nats and answers that changed, on {10 * VALIDATION} "
        f"validation images; {images} calibration images; {SIDE} px. Median ratio {median(ratios):.2f}, worse than the "
        f"best peer in {worse} of {len(ratios)}. Goal: never worse, and {GOAL} in the median: {verdict}."
    )


def _quotient(ours: float | None, theirs: float | None) -> float | None:
    """The ratio of two divergences; infinite where only the other one is 0."""
    if ours is None or theirs is None:
        return None
    return ours / theirs if theirs else (float("inf") if ours else 1.0)


def _figures(one: Result | None) -> str:
    if one is None or one.kl is None or one.agreement is None:
        return one.failure[:80] if one and one.failure else "-"
    return f"{1e3 * one.kl:.3g}, {100 - one.agreement:.1f} %"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _work(options: argparse.Namespace) -> str:
    chosen = [family for family in FAMILIES if not options.networks or family.name in options.networks]
    if not chosen:
        raise UsageError("no such network", f"known: {', '.join(family.name for family in FAMILIES)}")
    if options.write is not None:
        renewed(options.write, "", MARKERS)
    options.keep.mkdir(parents=True, exist_ok=True)
    made_by = [source_digest(CHECKOUT / "edgeres"), options.images, version("nncf"), version("onnxruntime")]
    kept = options.keep / f"results-{digest(made_by)[:16]}.json"
    found = [Result(**one) for one in json.loads(kept.read_text())] if kept.exists() else []
    data = options.keep / "images"
    if not data.exists():
        subset(data)
    wanted = [
        (family, scheme, outliers)
        for family in chosen
        for outliers in ((False, True) if family.outliers else (False,))
        for scheme in options.schemes
    ]
    known = {(one.network, one.scheme) for one in found}
    left = [row for row in wanted if (f"{row[0].name}{', outliers' if row[2] else ''}", row[1]) not in known]
    started = time.monotonic()
    for done, (family, scheme, outliers) in enumerate(left):
        fresh = []
        for one in results(family, scheme, data, options, outliers=outliers):
            fresh.append(one)
            said(f"{one.network}, {scheme}, {one.tool}: {_figures(one)}, {one.seconds or 0:.0f} s {one.failure}")
        found += fresh
        partial_file = kept.with_suffix(".partial")
        partial_file.write_text(json.dumps([plain(one) for one in found], indent=1), encoding="utf-8")
        partial_file.replace(kept)
        spent = (time.monotonic() - started) / (done + 1)
        said(f"{done + 1}/{len(left)}, {spent * (len(left) - done - 1) / 60:.0f} min left")
    if options.write is not None:
        renew(options.write, page(found, options.images), MARKERS)
    return json.dumps([plain(one) for one in found], indent=1) if options.json else page(found, options.images)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__.partition("\n")[0])
    made.add_argument("--networks", nargs="+", metavar="NAME", help="some instead of all")
    made.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES), metavar="NAME")
    made.add_argument("--images", type=positive, default=256, metavar="N", help="calibration images (default 256)")
    made.add_argument("--limit", type=positive, default=1800, metavar="S", help="most seconds of one tool")
    made.add_argument("--keep", type=Path, default=CHECKOUT / "build" / "families", metavar="DIR", help="finished rows")
    made.add_argument("--write", type=Path, metavar="FILE.md", help="renew the table in this document")
    made.add_argument("--json", action="store_true", help="print every figure for machines")
    return made


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(parser(), _work, given)


if __name__ == "__main__":
    sys.exit(main())
