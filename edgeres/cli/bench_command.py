"""``edgeres bench``: a finished run's network on every runtime of this host, and which variant should ship."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from edgeres.cli.console import Screen
from edgeres.latency.benchmark.conclusions import sentences
from edgeres.report import report_files
from edgeres.report.benchmark import HEADS, cells, footnotes
from edgeres.runs import document
from edgeres.settings import plain

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.latency.benchmark.interleaved import InterleavedSettings
    from edgeres.latency.benchmark.result import BenchmarkResult
    from edgeres.runs.run import Run


def bench_command(options: Namespace, given: list[str]) -> int:
    """Times, tells, and adds the table to the run's report."""
    from edgeres.pipeline.run_folder import RunFolder

    folder, screen = Path(options.run), Screen(quiet=options.quiet)
    before = document.load(folder)  # a folder without a run must not become one by being held
    result = _measured(folder, before, options, screen)
    with RunFolder(folder).held():
        run = document.load(folder)
        pages = report_files.write(replace(run, timings=replace(run.timings, bench=result)), folder)
    if options.json:
        screen.out.out(json.dumps(plain(result), indent=2))
        return 0
    if not options.quiet:
        screen.table(tuple(head.lower() for head in HEADS), cells(result))
    for line in (*sentences(result), *(() if options.quiet else footnotes(result)), f"report: {pages[-1]}"):
        screen.line(line)
    return 0


def _measured(folder: Path, run: Run, options: Namespace, screen: Screen) -> BenchmarkResult:
    import onnx

    from edgeres.latency.benchmark.benchmark import BenchmarkSubject, bench, pinned
    from edgeres.latency.benchmark.variants import find_variants
    from edgeres.onnx_graph import operator_counts
    from edgeres.runs.graphs import read_graphs
    from edgeres.targets.target import find_target

    pinned(options.threads)  # too many threads are refused before anything is built
    target, exported = find_target(run.target.name), read_graphs(folder, run)
    macs = operator_counts.macs(onnx.load(str(exported.float_model.path)))
    accurate = next((line.status == "passed" for line in run.lines if line.name == "accuracy_drop_pp"), None)
    # A board's ONNX Runtime is not this host's; TensorRT's adapter itself tells whether this is the board.
    own = target.backend if target.build_on == "host" or target.runtime.tensorrt else ""
    subject = BenchmarkSubject(run.model, target.name, own, macs, accurate if exported.scales else None)
    wanted = options.runtimes.split(",") if options.runtimes else None
    with TemporaryDirectory(prefix="edgeres-bench-") as out:
        found = find_variants(exported, target, Path(out), screen, wanted)
        return bench(subject, found, screen, threads=options.threads, timing=_timing(options))


def _timing(options: Namespace) -> InterleavedSettings:
    from edgeres.latency.benchmark.interleaved import InterleavedSettings

    if options.rounds is not None:
        return InterleavedSettings(least=options.rounds, most=options.rounds, limit_s=float("inf"))
    return InterleavedSettings(limit_s=float(options.seconds))
