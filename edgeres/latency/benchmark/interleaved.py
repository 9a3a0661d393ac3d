"""Interleaved timing of worker processes: rounds of bursts of calls, one burst per worker, in alternating order.

It is the protocol of ``edgeres.metrics`` with bursts in place of single calls. The first calls of a burst warm the
caches of a process that was stopped, and do not count. Calls of one burst share the load of the machine, so calls are
no independent samples; rounds nearly are. The bootstrap intervals of medians, and of ratios of two medians, therefore
draw whole rounds with replacement (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8,
resampling of clusters), and for a ratio the same rounds of both. They are percentiles of the resampled statistics
(Efron 1979).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from edgeres.latency.benchmark.worker import WorkerRequest
from edgeres.latency.timer import Timing, time_rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from edgeres.latency.benchmark.worker import Worker
    from edgeres.latency.timer import Samples
    from edgeres.progress import Advance

    Rounds = Sequence[Sequence[float]]

DRAWS = 1000
CONFIDENCE = 0.95
_CALIBRATION_REQUEST = WorkerRequest(calls=3, warmup=5)
"""Calls whose median time gives the number of calls in a burst."""
_LOOKS = 300
"""Bootstrap resamples of the interval that decides whether another round is needed."""


@dataclass(frozen=True, slots=True)
class BurstTiming(Timing):
    """How long to time networks: bursts of about ``burst_s`` seconds, each after ``warmup`` calls."""

    warmup: int = 2
    least: int = 8
    most: int = 500
    limit_s: float = 30.0
    burst_s: float = 0.15


def time_workers(
    workers: Mapping[str, Worker],
    timing: BurstTiming,
    advance: Advance = lambda units: None,
    between: Callable[[], object] = lambda: None,
    clock: Callable[[], int] = time.monotonic_ns,
) -> Samples:
    """Milliseconds of every call, by worker and round.

    ``advance`` gets 100 units in all; ``between`` is called once a round, while no worker runs.
    """
    reported = 0

    def burst(worker: Worker, request: WorkerRequest) -> list[float]:
        return list(worker.ask(request)["ms"])

    def after_round(number: int, seconds: float) -> None:
        nonlocal reported
        between()
        share = max(seconds / timing.limit_s if timing.limit_s else 1.0, number / timing.most)
        units = min(100, int(100 * share)) - reported
        reported += units
        advance(units)

    turns = {name: partial(burst, worker, _burst_request(worker, timing)) for name, worker in workers.items()}
    narrow = partial(_narrow, tolerance=timing.tolerance)
    samples = time_rounds(turns, timing, settled=narrow, after_round=after_round, clock=clock)
    advance(100 - reported)
    return samples


def _burst_request(worker: Worker, timing: BurstTiming) -> WorkerRequest:
    call_ms = median(worker.ask(_CALIBRATION_REQUEST)["ms"])
    return WorkerRequest(calls=min(200, max(2, round(1e3 * timing.burst_s / call_ms))), warmup=timing.warmup)


def _narrow(samples: Samples, tolerance: float) -> bool:
    intervals = ((rounds, median_interval(rounds, draws=_LOOKS)) for rounds in samples.values())
    return all(high - low <= tolerance * np.median(np.concatenate(rounds)) for rounds, (low, high) in intervals)


def median_interval(rounds: Rounds, *, draws: int = DRAWS) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median of all samples, which are given by round.

    Raises:
        ValueError: There is no round, or one without a sample.
    """
    return _interval(_medians(rounds, draws))


def ratio_interval(above: Rounds, below: Rounds) -> tuple[float, float]:
    """The 95 % bootstrap interval of the ratio of two medians, of samples of the same rounds.

    Raises:
        ValueError: Unequal numbers of rounds, none at all, or one without a sample.
    """
    if len(above) != len(below):
        raise ValueError(f"{len(above)} rounds over {len(below)}")
    return _interval(_medians(above, DRAWS) / _medians(below, DRAWS))


def _medians(rounds: Rounds, draws: int) -> NDArray[np.float64]:
    """Median of each resample, ``[draws]``; the same rounds are drawn for every runner."""
    drawn = np.random.default_rng(0).integers(len(rounds), size=(draws, len(rounds)))
    if not all(len(samples) for samples in rounds):
        raise ValueError("a round without a sample")
    parts = [np.asarray(samples, dtype=np.float64) for samples in rounds]
    return np.array([np.median(np.concatenate([parts[index] for index in row])) for row in drawn])


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, (tail, 100 - tail))
    return float(low), float(high)
