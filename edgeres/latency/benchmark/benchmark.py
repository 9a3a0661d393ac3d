"""Benchmark of a network's variants: latency in ms by runtime and precision, timed interleaved in worker processes."""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeres.backends.backend import Profiled
from edgeres.backends.registry import find_backend
from edgeres.errors import EdgeresError, StageError, UsageError
from edgeres.latency.benchmark.bootstrap import median_interval, ratio_interval
from edgeres.latency.benchmark.interleaved import InterleavedSettings, time_interleaved
from edgeres.latency.benchmark.result import BenchmarkResult, HostLoad, LayerTime, ProcessorPeak, Ratio, VariantResult
from edgeres.latency.benchmark.variants import version_of
from edgeres.latency.benchmark.worker_pool import Worker, start_worker
from edgeres.latency.benchmark.worker_spec import TORCH, WorkerRequest, WorkerSpec
from edgeres.settings import parse
from edgeres.targets.host import machine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeres.latency.benchmark.interleaved import Samples
    from edgeres.latency.benchmark.variants import Variants
    from edgeres.latency.benchmark.worker_spec import Variant
    from edgeres.progress import Progress
    from edgeres.targets.host import Machine

_PEAKS: tuple[str, ...] = ("int8", "float32")
_PEAK_CALLS, _PROFILED = 15, 20


@dataclass(frozen=True, slots=True)
class BenchmarkSubject:
    """The benchmarked network and the target it was compiled for.

    Attributes:
        network: Name of the network.
        target: Name of the target.
        backend: The target's runtime; empty where this host cannot be the target.
        macs: Multiply-adds of one image.
        accurate: Whether the INT8 network kept its accuracy limit; None where that is unknown.
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
    timing: InterleavedSettings | None = None,
) -> BenchmarkResult:
    """Latency of every variant at batch 1, with bootstrap intervals and the processor's peak.

    Args:
        subject: The network and its target.
        variants: Variants that run on this host.
        progress: Advanced per loaded worker, per round and per profiled runtime.
        threads: Threads of each runtime, each pinned to its own processor.
        timing: Burst length, rounds and time limit; None takes about 30 s.

    Raises:
        UsageError: Nothing can be timed, or there are fewer processors than threads.
    """
    timing, cores = timing or InterleavedSettings(), pinned(threads)
    before, absent = machine(), dict(variants.absent)
    with ExitStack() as stack:
        workers = _start_workers(variants.variants, cores, absent, stack, progress)
        if not workers:
            raise UsageError("no runtime of this host takes the network", "; ".join(absent.values()))
        meter = _Meter.start(cores, stack)
        begin = monotonic()
        with progress.task("rounds", 100) as advance:
            samples = time_interleaved(
                {name: worker for name, (_, worker) in workers.items()}, timing, advance, meter.read
            )
        seconds, after = monotonic() - begin, machine()
        absent |= meter.absent
        layers = _layers(workers, progress)
    peaks = meter.peaks()
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
    """Starts a worker per variant; the reasons for variants that the runtime refuses are added to ``absent``."""
    workers = {}
    with progress.task("load each runtime", len(variants)) as advance:
        for variant in variants:
            try:
                worker = stack.enter_context(start_worker(WorkerSpec(variant=variant, cores=cores)))
            except StageError as refusal:
                absent[variant.name] = refusal.what
            else:
                workers[variant.name] = variant, worker
            advance(1)
    return workers


@dataclass(slots=True)
class _Meter:
    """Workers that measure the processor's peak multiply-adds per second, once a round."""

    workers: dict[str, Worker]
    absent: dict[str, str]
    rates: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def start(cls, cores: tuple[int, ...], stack: ExitStack) -> _Meter:
        workers, absent = {}, {}
        for kind in _PEAKS:
            try:
                workers[kind] = stack.enter_context(
                    start_worker(parse(WorkerSpec, {"peak": kind, "cores": cores}, "worker spec"))
                )
            except EdgeresError as refusal:
                absent[f"{kind} peak"] = refusal.what
        return cls(workers, absent)

    def read(self) -> None:
        for kind, worker in self.workers.items():
            self.rates[kind] += worker.ask(WorkerRequest(calls=_PEAK_CALLS))["rates"]

    def peaks(self) -> tuple[ProcessorPeak, ...]:
        peaks = []
        for kind, rates in self.rates.items():
            figures = {"gmacs": max(rates) / 1e9, "median_gmacs": float(np.median(rates)) / 1e9, "n": len(rates)}
            peaks.append(parse(ProcessorPeak, {"precision": kind, **figures}, "peak"))
        return tuple(peaks)


def _layers(workers: Mapping[str, tuple[Variant, Worker]], progress: Progress) -> dict[str, tuple[LayerTime, ...]]:
    """Kernel times of each INT8 variant, by runtime, where the runtime has a profiler."""
    profiled = [pair for pair in workers.values() if pair[0].precision == "int8" and pair[0].runtime != TORCH]
    profiled = [
        (variant, worker) for variant, worker in profiled if isinstance(find_backend(variant.runtime), Profiled)
    ]
    layers = {}
    with progress.task("profile", len(profiled)) as advance:
        for variant, worker in profiled:
            answer = worker.ask(WorkerRequest(calls=_PROFILED, layers=True))["layers"]
            layers[variant.runtime] = tuple(parse(LayerTime, layer, "layer") for layer in answer)
            advance(1)
    return layers


def _rows(
    subject: BenchmarkSubject, variants: Mapping[str, Variant], samples: Samples, peaks: Sequence[ProcessorPeak]
) -> tuple[VariantResult, ...]:
    medians = {name: float(np.median(np.concatenate(rounds))) for name, rounds in samples.items()}
    order = sorted(medians, key=medians.__getitem__)
    floats = [name for name in order if variants[name].precision == "float32"]
    reach: dict[str, float] = {peak.precision: peak.gmacs for peak in peaks}
    is_quantized = any(variant.precision == "int8" for variant in variants.values())

    def ratio(to: str | None, name: str) -> Ratio | None:
        if to is None:
            return None
        low, high = ratio_interval(samples[to], samples[name]) if to != name else (1.0, 1.0)
        return Ratio(value=medians[to] / medians[name], low=low, high=high)

    def row(name: str) -> VariantResult:
        variant, every = variants[name], np.concatenate(samples[name])
        low, high = median_interval(samples[name])
        own = variant.runtime == subject.backend
        twin = f"float32 on {variant.runtime}"
        peak = reach.get(variant.precision)
        to_fastest = ratio(order[0], name)
        assert to_fastest is not None
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
            speedup=ratio(floats[0] if floats else None, name),
            over_float=ratio(twin, name) if twin in samples and twin != name else None,
            to_fastest=to_fastest,
            peak_share=subject.macs / (1e6 * medians[name] * peak) if peak else None,
        )

    return tuple(row(name) for name in order)


def _host_load(before: Machine, after: Machine, cores: tuple[int, ...], seconds: float) -> HostLoad:
    stolen: Any = None
    if before.stolen is not None and after.stolen is not None:
        stolen = (after.stolen - before.stolen) / (seconds * (os.cpu_count() or 1))
    return HostLoad(
        cpu=before.cpu,
        cores=before.cores,
        pinned=cores,
        governor=before.governor,
        load_before=before.load,
        load_after=after.load,
        stolen=stolen,
    )
