"""Interleaved timing: percentiles of calls with their intervals, and ``Timer``, which is relative to a reference graph.

Protocol: warm-up calls first; then rounds in which every candidate runs once, forwards and backwards in turn, so that
drift of the machine hits all of them alike; rounds go on until the 95 % interval of every median is narrow enough or
the time is up. What the hypervisor took away meanwhile is kept beside the figures.

``Timer`` measures ONNX graphs in units of a reference, a few convolutions in the same precision: other load slows both.
Of each the fastest tenth of its calls counts. On one thread the clock is the processor time of the process, which
excludes other processes; on more threads it is wall time, since threads that wait for each other spin.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter_ns, process_time_ns
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeres.artifacts.results import Latency
from edgeres.backends.bundle.device import median_interval, percentile_bound
from edgeres.backends.registry import find_backend
from edgeres.latency import microbenchmark
from edgeres.targets.host import stolen_s, stolen_share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from onnx import ModelProto

    from edgeres.targets.target import Target

    Run = Callable[[], object]
    Samples = dict[str, list[list[float]]]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long to time: ``warmup`` calls of each first, then ``least`` to ``most`` rounds.

    After ``least`` rounds, whatever they take, none begins once ``limit_s`` seconds are over, or once the 95 % interval
    of every median is no wider than ``tolerance`` as a share of the median.
    """

    warmup: int = 5
    least: int = 20
    most: int = sys.maxsize
    limit_s: float = 10.0
    tolerance: float = 0.02


def time_rounds(
    turns: Mapping[str, Callable[[], list[float]]],
    timing: Timing,
    *,
    settled: Callable[[Samples], bool] = lambda samples: False,
    after_round: Callable[[int, float], object] = lambda number, seconds: None,
    clock: Callable[[], int] = perf_counter_ns,
) -> Samples:
    """Milliseconds of every call, by name and round, in rounds that alternate between forwards and backwards.

    Each turn gives the milliseconds of its calls. From ``timing.least`` rounds on ``settled`` says whether the samples
    suffice. ``after_round`` gets the number of rounds and the seconds since the start. The clock counts nanoseconds.
    """
    samples: Samples = {name: [] for name in turns}
    order, start = list(turns), clock()
    for number in range(1, max(timing.least, timing.most) + 1):
        for name in order:
            samples[name].append(turns[name]())
        order.reverse()
        seconds = (clock() - start) / 1e9
        after_round(number, seconds)
        if number >= timing.least and (seconds > timing.limit_s or settled(samples)):
            break
    return samples


def time_calls(
    runs: Mapping[str, Run],
    timing: Timing,
    settled: Callable[[Samples], bool] = lambda samples: False,
    clock: Callable[[], int] = perf_counter_ns,
) -> dict[str, list[float]]:
    """Milliseconds of every call after warm-up, one call of each in a round."""

    def turn(run: Run) -> list[float]:
        begin = clock()
        run()
        return [(clock() - begin) / 1e6]

    for run in runs.values():
        for _ in range(timing.warmup):
            run()
    turns = {name: partial(turn, run) for name, run in runs.items()}
    samples = time_rounds(turns, timing, settled=settled, clock=clock)
    return {name: _flat(rounds) for name, rounds in samples.items()}


def interleaved(
    runs: Mapping[str, Run], timing: Timing, *, wanted: int = 0, clock: Callable[[], int] = perf_counter_ns
) -> dict[str, Latency]:
    """Latency of several callables measured in one go, so that the same noise hits all of them.

    ``wanted`` calls of each are measured before narrow intervals end it; 459 give the 99th percentile.
    """
    check = max(timing.least, wanted)

    def settled(samples: Samples) -> bool:
        nonlocal check
        number = len(next(iter(samples.values())))
        if number < check:
            return False
        # Sorting after each call would weigh on what is measured: look again after a quarter more calls.
        check = number + number // 4
        intervals = [(median_interval(values), float(np.median(values))) for values in map(_flat, samples.values())]
        return all(high - low <= timing.tolerance * p50 for (low, high), p50 in intervals)

    before, start = stolen_s(), clock()
    samples = time_calls(runs, timing, settled, clock)
    stolen = stolen_share(before, stolen_s(), (clock() - start) / 1e9)
    return {name: _latency(values, timing.warmup, stolen) for name, values in samples.items()}


def _flat(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [ms for calls in rounds for ms in calls]


def _latency(values: Sequence[float], warmup: int, stolen: float | None) -> Latency:
    low, high = median_interval(values)
    p50, p90, p99 = (float(value) for value in np.percentile(values, (50, 90, 99)))
    return Latency(
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        low_ms=low,
        high_ms=high,
        n=len(values),
        warmup=warmup,
        stolen=stolen,
        p90_high_ms=percentile_bound(values, 0.90),
        p99_high_ms=percentile_bound(values, 0.99),
    )


Precision = Literal["int8", "float"]
PRECISIONS: tuple[Precision, ...] = ("int8", "float")
LAYER_TIMING = Timing(warmup=2, least=12, most=80, limit_s=0.2)
"""How long one layer is timed."""

_QUIET_CALLS, _QUIET = 0.1, 0.1
"""Quantiles that estimate an idle machine: of the calls in a measurement, and of the reference's times."""


@dataclass
class Timer:
    """Times graphs of one precision in a target's runtime, interleaved with a reference graph.

    Temporary graphs lie in ``folder``. ``quiet`` are the reference's times in milliseconds, one per measurement.
    """

    target: Target
    threads: int
    folder: Path
    precision: Precision
    quiet: list[float] = field(default_factory=list)

    def relative(self, runs: Mapping[str, Run], timing: Timing) -> dict[str, float]:
        """Time of each run in units of the run named ``reference``."""
        calls = time_calls(runs, timing, clock=process_time_ns if self.threads == 1 else perf_counter_ns)
        times = {name: float(np.quantile(ms, _QUIET_CALLS)) for name, ms in calls.items()}
        unit = times["reference"]
        self.quiet.append(unit)
        return {name: ms / unit for name, ms in times.items()}

    @property
    def unit_ms(self) -> float:
        """Time of the reference in ms, on an otherwise idle machine."""
        return float(np.quantile(self.quiet, _QUIET))

    @contextmanager
    def opened(self, models: Mapping[str, ModelProto]) -> Iterator[dict[str, Run]]:
        """Functions that run each graph on a random input of its own, and the reference."""
        reference = microbenchmark.pair(64, 64, 3, 56)  # long enough that preemption is a small part of its time
        unit = reference.models(self.target.runtime, integer=self.precision == "int8")["many"]
        with ExitStack() as stack:
            yield {name: self._open(name, model, stack) for name, model in {"reference": unit, **models}.items()}

    def _open(self, name: str, model: ModelProto, stack: ExitStack) -> Run:
        shape = tuple(dim.dim_value or 1 for dim in model.graph.input[0].type.tensor_type.shape.dim)
        image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        path = self.folder / f"{name}.onnx"
        path.write_bytes(model.SerializeToString(deterministic=True))
        stack.callback(path.unlink)
        backend = find_backend(self.target.backend)
        session = stack.enter_context(backend.session(path, self.target, threads=self.threads))
        return lambda: session.run(image)
