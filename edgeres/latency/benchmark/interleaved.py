"""Interleaved timing: rounds of bursts of calls, one burst per worker, in alternating order.

It is the protocol of ``edgeres.metrics`` with bursts in place of single calls. The first calls of a burst warm the
caches of a process that was stopped, and do not count.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import count
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgeres.latency.benchmark.bootstrap import median_interval
from edgeres.latency.benchmark.worker_spec import WorkerRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeres.progress import Advance

    Samples = dict[str, list[list[float]]]

_CALIBRATION_REQUEST = WorkerRequest(calls=3, warmup=5)
"""Calls whose median time gives the number of calls in a burst."""
_LOOKS = 300
"""Bootstrap resamples of the interval that decides whether another round is needed."""


class TimedWorker(Protocol):
    """A worker that times calls: ``worker_pool.Worker``."""

    def ask(self, request: WorkerRequest) -> Any:
        """Runs a burst; ``ns`` of the answer holds the nanoseconds of each call."""


@dataclass(frozen=True, slots=True)
class InterleavedSettings:
    """Length of bursts and number of rounds.

    Attributes:
        burst_s: Approximate seconds of a burst.
        warmup: Calls at the start of a burst that do not count.
        least: Minimum number of rounds.
        most: Maximum number of rounds.
        limit_s: Seconds after which no further round begins, once ``least`` rounds are done.
        tolerance: Rounds end once the 95 % interval of every median is no wider than this share of the median.
    """

    burst_s: float = 0.15
    warmup: int = 2
    least: int = 8
    most: int = 500
    limit_s: float = 30.0
    tolerance: float = 0.02


def time_interleaved(
    runners: Mapping[str, TimedWorker],
    timing: InterleavedSettings,
    advance: Advance = lambda units: None,
    between: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> Samples:
    """Milliseconds of every call, by runner and round.

    Args:
        runners: Workers by name.
        timing: Burst length, rounds and time limit.
        advance: Progress callback after each round; 100 units in all.
        between: Called once a round, while no runner runs.
        clock: Monotonic clock in seconds.
    """
    requests = {name: _burst_request(runner, timing) for name, runner in runners.items()}
    samples: Samples = {name: [] for name in runners}
    turn, start, reported = list(runners), clock(), 0
    for number in count(1):
        for name in turn:
            taken = runners[name].ask(requests[name])["ns"]
            samples[name].append([nanoseconds / 1e6 for nanoseconds in taken])
        turn.reverse()
        between()
        spent = (clock() - start) / timing.limit_s
        units = min(100, int(100 * max(spent, number / timing.most))) - reported
        reported += units
        advance(units)
        if number >= timing.most or (number >= timing.least and (spent >= 1 or _narrow(samples, timing.tolerance))):
            advance(100 - reported)
            return samples
    raise AssertionError("rounds never end by themselves")


def _burst_request(runner: TimedWorker, timing: InterleavedSettings) -> WorkerRequest:
    one_s = median(runner.ask(_CALIBRATION_REQUEST)["ns"]) / 1e9
    return WorkerRequest(calls=min(200, max(2, round(timing.burst_s / one_s))), warmup=timing.warmup)


def _narrow(samples: Samples, tolerance: float) -> bool:
    for rounds in samples.values():
        low, high = median_interval(rounds, draws=_LOOKS)
        if high - low > tolerance * float(np.median(np.concatenate(rounds))):
            return False
    return True
