"""``edgeres bench``: a finished run's network timed on every runtime of this host, and which variant is fastest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli._options import Commands, Options, positive, sentence

if TYPE_CHECKING:
    from edgeres.cli._console import Screen
    from edgeres.latency.benchmark.result import BenchmarkResult
    from edgeres.runs.run import Run

PLACE = 180


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres bench``."""
    help_text = "time a finished run's float32 and INT8 on every runtime of this host, and say which is fastest"
    command = commands.add_parser("bench", help=help_text, description=sentence(help_text))
    add = command.add_argument
    add("run", metavar="RUN", help="run folder, such as build/resnet18-x86")
    threads = "of each runtime, each on a processor of its own (default 2)"
    add("--threads", type=positive, default=2, metavar="N", help=threads)
    add("--runtimes", metavar="NAME,NAME", help="only these, such as openvino,onnxruntime,torch")
    length = command.add_mutually_exclusive_group()
    seconds = "stop after this long, or once every median is known to 2 %% (default 30)"
    length.add_argument("--seconds", type=positive, default=30, metavar="S", help=seconds)
    length.add_argument("--rounds", type=positive, metavar="N", help="take just so many rounds")
    add("--json", action="store_true", help="every figure and every kernel, for machines")
    add("--quiet", action="store_true", help="print the verdict only")


def run(options: Options, screen: Screen) -> int:
    """Times every variant, prints the table, and adds it to the run's report."""
    from dataclasses import replace

    from edgeres.latency.benchmark.result import sentences
    from edgeres.pipeline.run_folder import RunFolder
    from edgeres.report import report_files
    from edgeres.report.benchmark import HEADS, cells, footnotes
    from edgeres.runs import document

    folder = Path(options.run)
    before = document.load(folder)  # before the lock, which would create a folder that does not exist
    result = _result(folder, before, options, screen)
    with RunFolder(folder).held():
        finished = document.load(folder)
        timings = replace(finished.timings, bench=result)
        pages = report_files.write(replace(finished, timings=timings), folder)
    if options.json:
        screen.json(result)
        return 0
    if not options.quiet:
        screen.table(tuple(head.lower() for head in HEADS), cells(result))
    for line in (*sentences(result), *(() if options.quiet else footnotes(result)), f"report: {pages[-1]}"):
        screen.line(line)
    return 0


def _result(folder: Path, finished: Run, options: Options, screen: Screen) -> BenchmarkResult:
    """Latencies of float32 and INT8 on each runtime, with their confidence intervals."""
    from tempfile import TemporaryDirectory

    import onnx

    from edgeres.latency.benchmark.benchmark import BenchmarkSubject, bench, pinned
    from edgeres.latency.benchmark.interleaved import BurstTiming
    from edgeres.latency.benchmark.variants import find_variants
    from edgeres.onnx_graph import operator_counts
    from edgeres.runs.finished import read_graphs
    from edgeres.targets.target import find_target

    timing = BurstTiming(limit_s=float(options.seconds))
    if options.rounds is not None:
        timing = BurstTiming(least=options.rounds, most=options.rounds, limit_s=float("inf"))
    pinned(options.threads)  # too many threads are refused before anything is built
    target, exported = find_target(finished.target.name), read_graphs(folder, finished)
    macs = operator_counts.macs(onnx.load(str(exported.float_model.path)))
    accurate = next((line.status == "passed" for line in finished.lines if line.name == "accuracy_drop_pp"), None)
    # A board's ONNX Runtime is not this host's; TensorRT's adapter itself finds out whether this is the board.
    own = target.backend if target.build_on == "host" or target.runtime.tensorrt else ""
    subject = BenchmarkSubject(finished.model, target.name, own, macs, accurate if exported.scales else None)
    runtimes = options.runtimes.split(",") if options.runtimes else None
    with TemporaryDirectory(prefix="edgeres-bench-") as out:
        variants = find_variants(exported, target, Path(out), screen, runtimes)
        return bench(subject, variants, screen, threads=options.threads, timing=timing)
