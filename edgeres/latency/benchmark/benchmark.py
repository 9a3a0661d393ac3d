"""Benchmark of a network's variants: latency in ms by runtime and precision, timed interleaved in worker processes."""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeres.backends.backend import LayerTime, Profiled
from edgeres.backends.registry import find_backend
from edgeres.errors import StageError, UsageError
from edgeres.latency.benchmark.interleaved import BurstTiming, median_interval, ratio_interval, time_workers
from edgeres.latency.benchmark.result import BenchmarkResult, HostLoad, ProcessorPeak, Ratio, VariantResult
from edgeres.latency.benchmark.variants import version_of
from edgeres.latency.benchmark.worker import TORCH, Worker, WorkerRequest, WorkerSpec, start_worker
from edgeres.settings import parse
from edgeres.targets.host import machine, stolen_share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeres.latency.benchmark.variants import Variants
    from edgeres.latency.benchmark.worker import Variant
    from edgeres.latency.timer import Samples
    from edgeres.progress import Progress
    from edgeres.targets.host import Machine

_PEAKS: tuple[Literal["int8", "float32"], ...] = ("int8", "float32")
_PEAK_CALLS, _PROFILED = 15, 20


@dataclass(frozen=True, slots=True)
class BenchmarkSubject:
    """The benchmarked network, with the multiply-adds of one image, and the target it was compiled for.

    ``backend`` is empty where this host cannot be the target. ``accurate`` says whether the INT8 network kept its
    accuracy limit; None where that is unknown.
    """

    network: str
    target: str
    backend: str
    macs: int
    accurate: bool | None = None


def bench(
    subject: BenchmarkSubject,
    variants: Variants,
    progress: Progress,
    *,
    threads: int = 2,
    timing: BurstTiming | None = None,
) -> BenchmarkResult:
    """Latency of every variant at batch 1, with bootstrap intervals and the processor's peak.

    Each of the runtime's ``threads`` is pinned to its own processor. Without ``timing`` it takes about 30 s.

    Raises:
        UsageError: Nothing can be timed, or there are fewer processors than threads.
    """
    timing, cores = timing or BurstTiming(), pinned(threads)
    before, absent = machine(), dict(variants.absent)
    rates: dict[Literal["int8", "float32"], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        workers = _start_workers(variants.variants, cores, absent, stack, progress)
        if not workers:
            raise UsageError("no runtime of this host takes the network", "; ".join(absent.values()))
        starts = {kind: _start(f"{kind} peak", WorkerSpec(peak=kind, cores=cores), absent, stack) for kind in _PEAKS}
        meters = {kind: meter for kind, meter in starts.items() if meter}

        def measure_peaks() -> None:
            for kind, meter in meters.items():
                rates[kind] += meter.ask(WorkerRequest(calls=_PEAK_CALLS))["rates"]

        timed, begin = {name: worker for name, (_, worker) in workers.items()}, monotonic()
        with progress.task("rounds", 100) as advance:
            samples = time_workers(timed, timing, advance, measure_peaks)
        seconds, after = monotonic() - begin, machine()
        layers = _layers(list(workers.values()), progress)
    peaks = tuple(_peak(kind, measured) for kind, measured in rates.items())
    rows = _rows(subject, {name: variant for name, (variant, _) in workers.items()}, samples, peaks)
    return BenchmarkResult(
        network=subject.network,
        target=subject.target,
        here=any(row.own for row in rows),
        accurate=subject.accurate,
        macs=subject.macs,
        threads=threads,
        seconds=seconds,
        rows=rows,
        peaks=peaks,
        machine=_host_load(before, after, cores, seconds),
        absent=absent,
        layers=layers,
    )


def _peak(kind: Literal["int8", "float32"], rates: list[float]) -> ProcessorPeak:
    """The fastest and the median of measured rates, in MACs per second, as a peak."""
    median = float(np.median(rates)) / 1e9
    return ProcessorPeak(precision=kind, gmacs=max(rates) / 1e9, median_gmacs=median, n=len(rates))


def pinned(threads: int, sysfs: Path = Path("/sys")) -> tuple[int, ...]:
    """Processor ids to pin ``threads`` threads to; the first hardware threads of all cores come first.

    Raises:
        UsageError: This process may use fewer.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if threads > len(allowed):
        raise UsageError(f"{threads} threads on {len(allowed)} processors", f"--threads {len(allowed)}")
    firsts: list[int] = []
    seconds: list[int] = []
    seen: set[str] = set()
    for cpu in allowed:
        listed = sysfs / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        core = listed.read_text(encoding="utf-8").strip() if listed.is_file() else str(cpu)
        (seconds if core in seen else firsts).append(cpu)
        seen.add(core)
    return tuple((*firsts, *seconds)[:threads])


def _start_workers(
    variants: Sequence[Variant], cores: tuple[int, ...], absent: dict[str, str], stack: ExitStack, progress: Progress
) -> dict[str, tuple[Variant, Worker]]:
    """Starts a worker for each variant."""
    workers = {}
    with progress.task("load each runtime", len(variants)) as advance:
        for variant in variants:
            if worker := _start(variant.name, WorkerSpec(variant=variant, cores=cores), absent, stack):
                workers[variant.name] = variant, worker
            advance(1)
    return workers


def _start(name: str, spec: WorkerSpec, absent: dict[str, str], stack: ExitStack) -> Worker | None:
    """Starts a worker; where it refuses, the reason is added to ``absent``."""
    try:
        return stack.enter_context(start_worker(spec))
    except StageError as refusal:
        absent[name] = refusal.what
        return None


def _layers(workers: Sequence[tuple[Variant, Worker]], progress: Progress) -> dict[str, tuple[LayerTime, ...]]:
    """Kernel times of each INT8 variant, by runtime, where the runtime has a profiler."""
    profiled = [
        (variant.runtime, worker)
        for variant, worker in workers
        if variant.precision == "int8"
        and variant.runtime != TORCH
        and isinstance(find_backend(variant.runtime), Profiled)
    ]
    layers = {}
    with progress.task("profile", len(profiled)) as advance:
        for runtime, worker in profiled:
            answer = worker.ask(WorkerRequest(calls=_PROFILED, layers=True))["layers"]
            layers[runtime] = tuple(parse(LayerTime, layer, "layer") for layer in answer)
            advance(1)
    return layers


def _rows(
    subject: BenchmarkSubject, variants: Mapping[str, Variant], samples: Samples, peaks: Sequence[ProcessorPeak]
) -> tuple[VariantResult, ...]:
    medians = {name: float(np.median(np.concatenate(rounds))) for name, rounds in samples.items()}
    order = sorted(medians, key=medians.__getitem__)
    floats = [name for name in order if variants[name].precision == "float32"]
    peak_gmacs: dict[str, float] = {peak.precision: peak.gmacs for peak in peaks}
    is_quantized = any(variant.precision == "int8" for variant in variants.values())

    def ratio(to: str, name: str) -> Ratio:
        low, high = ratio_interval(samples[to], samples[name]) if to != name else (1.0, 1.0)
        return Ratio(value=medians[to] / medians[name], low=low, high=high)

    def row(name: str) -> VariantResult:
        variant, every = variants[name], np.concatenate(samples[name])
        low, high = median_interval(samples[name])
        own = variant.runtime == subject.backend
        reference = f"float32 on {variant.runtime}"
        peak = peak_gmacs.get(variant.precision)
        return VariantResult(
            runtime=variant.runtime,
            version=version_of(variant.runtime),
            precision=variant.precision,
            own=own,
            ships=own and variant.precision == ("int8" if is_quantized else "float32"),
            p50_ms=medians[name],
            low_ms=low,
            high_ms=high,
            p10_ms=float(np.percentile(every, 10)),
            p90_ms=float(np.percentile(every, 90)),
            n=len(every),
            rounds=len(samples[name]),
            speedup=ratio(floats[0], name) if floats else None,
            over_float=ratio(reference, name) if reference in samples and reference != name else None,
            to_fastest=ratio(order[0], name),
            peak_share=subject.macs / (1e6 * medians[name] * peak) if peak else None,
        )

    return tuple(row(name) for name in order)


def _host_load(before: Machine, after: Machine, cores: tuple[int, ...], seconds: float) -> HostLoad:
    return HostLoad(
        cpu=before.cpu,
        cores=before.cores,
        pinned=cores,
        governor=before.governor,
        load_before=before.load,
        load_after=after.load,
        stolen=stolen_share(before.stolen, after.stolen, seconds),
    )
