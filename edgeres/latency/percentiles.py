"""Interleaved timing, and latency percentiles of calls with their confidence intervals.

Protocol: warm-up calls first; then rounds in which every candidate runs once, forwards and backwards in turn, so that
drift of the machine hits all of them alike; rounds go on until the 95 % interval of every median is narrow enough or
the time is up. What the hypervisor took away meanwhile is kept beside the figures.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from edgeres.artifacts.results import Latency
from edgeres.targets.host import stolen_s, stolen_share

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Run = Callable[[], object]
    Samples = dict[str, list[list[float]]]


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """Order statistics that enclose the true median with a confidence of at least 95 %, whatever the distribution.

    With ``B ~ Bin(n, 1/2)`` the k-th smallest and k-th largest do for the greatest k with
    ``P(B <= k - 1) <= 2.5 %``; fewer than six samples give the smallest and the largest.
    """
    from scipy.stats import binom

    ordered = sorted(samples)
    k = max(1, int(binom.ppf((1 - 0.95) / 2, len(ordered), 0.5)))
    return ordered[k - 1], ordered[-k]


def percentile_bound(samples: Sequence[float], share: float) -> float | None:
    """Order statistic that the true quantile of that share does not exceed, whatever the distribution.

    The k-th smallest of n does with confidence ``P(Bin(n, share) <= k - 1)``: the question that MLPerf Inference's
    early stopping answers for its latency percentiles (github.com/mlcommons/inference_policies, "Early stopping"), with
    its confidence of 99 %. None where even the largest sample does not.
    """
    from scipy.stats import binom

    k = int(binom.ppf(0.99, len(samples), share)) + 1
    return sorted(samples)[k - 1] if k <= len(samples) else None


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
    clock: Callable[[], int] = time.perf_counter_ns,
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
    clock: Callable[[], int] = time.perf_counter_ns,
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
    runs: Mapping[str, Run], timing: Timing, *, wanted: int = 0, clock: Callable[[], int] = time.perf_counter_ns
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
