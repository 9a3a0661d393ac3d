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
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgeres.latency.benchmark.worker import WorkerRequest
from edgeres.metrics import Timing, time_rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from edgeres.metrics import Samples
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


class TimedWorker(Protocol):
    """A worker that times calls: ``worker.Worker``."""

    def ask(self, request: WorkerRequest) -> Any:
        """Runs a burst; ``ns`` of the answer holds the nanoseconds of each call."""


def time_workers(
    workers: Mapping[str, TimedWorker],
    timing: BurstTiming,
    advance: Advance = lambda units: None,
    between: Callable[[], object] = lambda: None,
    clock: Callable[[], int] = time.monotonic_ns,
) -> Samples:
    """Milliseconds of every call, by worker and round.

    ``advance`` gets 100 units in all; ``between`` is called once a round, while no worker runs.
    """
    reported = 0

    def burst(worker: TimedWorker, request: WorkerRequest) -> list[float]:
        return [nanoseconds / 1e6 for nanoseconds in worker.ask(request)["ns"]]

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


def _burst_request(worker: TimedWorker, timing: BurstTiming) -> WorkerRequest:
    call_s = median(worker.ask(_CALIBRATION_REQUEST)["ns"]) / 1e9
    return WorkerRequest(calls=min(200, max(2, round(timing.burst_s / call_s))), warmup=timing.warmup)


def _narrow(samples: Samples, tolerance: float) -> bool:
    for rounds in samples.values():
        low, high = median_interval(rounds, draws=_LOOKS)
        if high - low > tolerance * float(np.median(np.concatenate(rounds))):
            return False
    return True


def median_interval(rounds: Rounds, *, draws: int = DRAWS) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median of all samples, which are given by round.

    Raises:
        ValueError: There is no round, or one without a sample.
    """
    return _interval(_medians(rounds, _drawn(len(rounds), draws)))


def ratio_interval(above: Rounds, below: Rounds) -> tuple[float, float]:
    """The 95 % bootstrap interval of the ratio of two medians, of samples of the same rounds.

    Raises:
        ValueError: Unequal numbers of rounds, none at all, or one without a sample.
    """
    if len(above) != len(below):
        raise ValueError(f"{len(above)} rounds over {len(below)}")
    drawn = _drawn(len(above), DRAWS)
    return _interval(_medians(above, drawn) / _medians(below, drawn))


def _drawn(rounds: int, draws: int) -> NDArray[np.int64]:
    """Indices of the rounds in each resample, ``[draws,rounds]``."""
    return np.random.default_rng(0).integers(rounds, size=(draws, rounds))


def _medians(rounds: Rounds, drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    if not all(len(samples) for samples in rounds):
        raise ValueError("a round without a sample")
    parts = [np.asarray(samples, dtype=np.float64) for samples in rounds]
    return np.array([np.median(np.concatenate([parts[index] for index in row])) for row in drawn])


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, (tail, 100 - tail))
    return float(low), float(high)
