"""INT8 against the fastest float32 of any runtime installed here, on the whole ResNet family.

``python -m benchmarks.speed`` draws ResNet-18, 34, 50, 101 and 152, brings each into float32 and INT8 on every runtime
that takes it, and times all of them in turn as ``edgeres bench`` does. ``--write docs/speed.md`` renews its table.
On a machine that others use, a higher priority (``nice -n -10``, which takes root) makes the medians tell more.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.command import positive, run, said
from benchmarks.drawn import IMAGES, drawn
from benchmarks.page import renew, renewed
from benchmarks.table import markdown
from edgeres.latency.benchmark.benchmark import BenchmarkSubject, bench
from edgeres.latency.benchmark.interleaved import BurstTiming
from edgeres.latency.benchmark.result import bottlenecks
from edgeres.latency.benchmark.variants import find_variants
from edgeres.model.cost import macs
from edgeres.model.graph import graph
from edgeres.model.presets import preset
from edgeres.progress import Silent
from edgeres.settings import plain
from edgeres.targets.target import find_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.backends.backend import LayerTime
    from edgeres.latency.benchmark.result import BenchmarkResult, VariantResult

NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
HEADS = ("network", "variant", "p50", "95 % interval", "p10", "x float32", "of peak")
MARKERS = "<!-- speed:begin -->", "<!-- speed:end -->"
GOAL = 3.5
_SIDE = 224
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Gain:
    """INT8 against float32 on one network, both on their fastest runtime.

    Attributes:
        medians: Ratio of the medians.
        quiet: Ratio of the tenth percentiles, each of its fastest: what is left where others hardly disturb.
    """

    medians: float
    quiet: float

    @classmethod
    def of(cls, result: BenchmarkResult) -> Gain:
        """Of one table."""
        floats, integers = ([row for row in result.rows if row.precision == kind] for kind in ("float32", "int8"))
        return cls(
            min(row.p50_ms for row in floats) / min(row.p50_ms for row in integers),
            min(row.p10_ms for row in floats) / min(row.p10_ms for row in integers),
        )


def measured(name: str, threads: int, seconds: int, runtimes: Sequence[str] | None) -> BenchmarkResult:
    """The table of one network.

    Raises:
        UsageError: No runtime takes it.
    """
    spec, target = preset(name), find_target("cpu")
    with TemporaryDirectory(prefix="edgeres-speed-") as folder:
        files, engines = Path(folder, "graphs"), Path(folder, "engines")
        files.mkdir()
        engines.mkdir()
        exported = drawn(name, spec, _SIDE, target, files)
        found = find_variants(exported, target, engines, Silent(), runtimes)
        subject = BenchmarkSubject(name, target.name, target.backend, macs(graph(spec), _SIDE, _SIDE), None)
        return bench(subject, found, Silent(), threads=threads, timing=BurstTiming(limit_s=float(seconds)))


def mean(ratios: Sequence[float]) -> float:
    """Geometric mean."""
    return exp(fmean(log(ratio) for ratio in ratios))


def page(results: Sequence[BenchmarkResult]) -> str:
    """Table, goal, and what eats the gain, as Markdown."""
    rows = [_cells(result.network, row) for result in results for row in result.rows]
    gains = [Gain.of(result) for result in results]
    parts = [_where(results[0]), markdown(HEADS, rows, words=2), _goal(results, gains)]
    return "\n\n".join([*parts, *(_eaten(result) for result in results)])


def _cells(network: str, row: VariantResult) -> tuple[str, ...]:
    ratio = "-" if row.speedup is None else f"{row.speedup.value:.2f} ({row.speedup.low:.2f} to {row.speedup.high:.2f})"
    return (
        network,
        f"{row.name}{' ' + row.version if row.version else ''}",
        f"{row.p50_ms:.2f} ms",
        f"{row.low_ms:.2f} to {row.high_ms:.2f}",
        f"{row.p10_ms:.2f}",
        ratio,
        f"{row.peak_share:.0%}" if row.peak_share else "-",
    )


def _where(result: BenchmarkResult) -> str:
    at = result.machine
    peaks = ", ".join(f"{peak.precision} {peak.gmacs:.0f} GMAC/s" for peak in result.peaks)
    absent = "; ".join(f"{name}: {why}" for name, why in result.absent.items())
    return (
        f"{at.cpu}, {result.threads} of {at.cores} cores, batch 1, {_SIDE} px, governor {at.governor or 'not shown'}, "
        f"load {at.load_before:.1f} when it began; weights drawn, scales of {IMAGES} drawn images. "
        f"Peak of multiply-adds in the same minute: {peaks or 'unmeasured'}. Not timed: {absent or 'nothing'}."
    )


def _goal(results: Sequence[BenchmarkResult], gains: Sequence[Gain]) -> str:
    """Whether INT8 is as much faster as it should be."""
    medians, quiet = mean([gain.medians for gain in gains]), mean([gain.quiet for gain in gains])
    each = ", ".join(f"{result.network} {gain.medians:.2f}" for result, gain in zip(results, gains, strict=True))
    verdict = "met" if medians >= GOAL else f"missed by {1 - medians / GOAL:.1%}"
    return (
        f"Fastest INT8 over fastest float32, geometric mean of {len(gains)}: **{medians:.2f}** by medians ({each}), "
        f"{quiet:.2f} by tenth percentiles. Goal {GOAL}: {verdict}."
    )


def _eaten(result: BenchmarkResult) -> str:
    """Kernels of the fastest INT8 variant that INT8 does not make four times as fast."""
    best = next((row for row in result.rows if row.precision == "int8" and row.runtime in result.layers), None)
    if best is None:
        return f"* {result.network}: no runtime told its kernels"
    layers = result.layers[best.runtime]
    total, other = sum(layer.ms for layer in layers), [layer for layer in layers if layer.role == "other"]
    rest = (*bottlenecks(layers), *other)
    share = sum(layer.ms for layer in rest) / total
    slow = [layer for layer in layers if layer.role == "integer"][:_NAMED]
    return (
        f"* {result.network}, {best.name}: {share:.0%} of the time is no integer layer ({_listed(rest[:_NAMED])}); "
        f"slowest integer layers: {_listed(slow)}"
    )


def _listed(layers: Sequence[LayerTime]) -> str:
    return ", ".join(f"`{layer.name}` {layer.ms:.2f} ms" for layer in layers) or "none"


def _work(options: argparse.Namespace) -> str:
    if options.write is not None:
        renewed(options.write, "", MARKERS)
    results = []
    for name in options.networks:
        said(f"{name} ...")
        results.append(measured(name, options.threads, options.seconds, options.runtimes))
    if options.write is not None:
        renew(options.write, page(results), MARKERS)
    return json.dumps([plain(result) for result in results], indent=2) if options.json else page(results)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.partition("\n")[0])
    made.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    made.add_argument("--runtimes", nargs="+", metavar="NAME", help="only these (default all that are installed)")
    made.add_argument("--threads", type=positive, default=2, metavar="N", help="of each runtime (default 2)")
    made.add_argument("--seconds", type=positive, default=60, metavar="S", help="for each network (default 60)")
    made.add_argument("--write", type=Path, metavar="FILE.md", help="renew the table in this document")
    made.add_argument("--json", action="store_true", help="print every figure for machines")
    return made


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(parser(), _work, given)


if __name__ == "__main__":
    sys.exit(main())
