"""Rounds of bursts: in each round every runner has one turn, forwards and backwards in turn.

It is the protocol of ``edgeres.metrics`` with bursts in place of single calls, because a process that was stopped has
to find its caches again: the first calls of a burst do not count.
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

_FIRST = WorkerRequest(calls=3, warmup=5)
"""What tells how many calls fill a burst."""
_LOOKS = 300
"""Resamples for an interval that only decides whether to go on."""


class Runner(Protocol):
    """What has a turn: a ``crew.Worker``."""

    def ask(self, order: WorkerRequest) -> Any:
        """Answers an order: ``ns`` has nanoseconds of its calls."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long is measured.

    Attributes:
        burst_s: Seconds of a burst, about.
        warmup: Calls of a burst that do not count.
        least: Rounds at least.
        most: Rounds at most.
        limit_s: Seconds after which no further round begins, once there are the least.
        tolerance: Rounds end once the 95 % interval of every median is no wider than this share of it.
    """

    burst_s: float = 0.15
    warmup: int = 2
    least: int = 8
    most: int = 500
    limit_s: float = 30.0
    tolerance: float = 0.02


def race(
    runners: Mapping[str, Runner],
    pace: Pace,
    advance: Advance = lambda units: None,
    between: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> Samples:
    """Milliseconds of every call by runner and round.

    Args:
        runners: By name.
        pace: How long.
        advance: Told after each round; 100 units in all.
        between: Called once a round, while no runner has its turn.
        clock: Seconds.
    """
    orders = {name: _order(runner, pace) for name, runner in runners.items()}
    samples: Samples = {name: [] for name in runners}
    turn, start, told = list(runners), clock(), 0
    for number in count(1):
        for name in turn:
            taken = runners[name].ask(orders[name])["ns"]
            samples[name].append([nanoseconds / 1e6 for nanoseconds in taken])
        turn.reverse()
        between()
        spent = (clock() - start) / pace.limit_s
        units = min(100, int(100 * max(spent, number / pace.most))) - told
        told += units
        advance(units)
        if number >= pace.most or (number >= pace.least and (spent >= 1 or _narrow(samples, pace.tolerance))):
            advance(100 - told)
            return samples
    raise AssertionError("rounds never end by themselves")


def _order(runner: Runner, pace: Pace) -> WorkerRequest:
    one_s = median(runner.ask(_FIRST)["ns"]) / 1e9
    return WorkerRequest(calls=min(200, max(2, round(pace.burst_s / one_s))), warmup=pace.warmup)


def _narrow(samples: Samples, tolerance: float) -> bool:
    for rounds in samples.values():
        low, high = median_interval(rounds, draws=_LOOKS)
        if high - low > tolerance * float(np.median(np.concatenate(rounds))):
            return False
    return True
