"""Latency percentiles of calls with their confidence intervals.

Protocol: warm-up calls first; then rounds in which every candidate runs once, forwards and backwards in turn, so that
drift of the machine hits all of them alike; rounds go on until the 95 % interval of every median is narrow enough or
the time is up. What the hypervisor took away meanwhile is kept beside the figures.
"""

from __future__ import annotations

import os
import time
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from edgeres.artifacts.results import Latency
from edgeres.targets.host import stolen_s

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Run = Callable[[], object]


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


def interleaved(
    runs: Mapping[str, Run],
    *,
    warmup: int = 5,
    least: int = 20,
    wanted: int = 0,
    tolerance: float = 0.02,
    limit_s: float = 10.0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, Latency]:
    """Latency of several callables by name, measured in one go, so that the same noise hits all of them.

    Args:
        runs: The callables.
        warmup: Calls of each before anything counts.
        least: Measured calls of each at least, whatever they take.
        wanted: Measured calls of each before narrow intervals end it; 459 tell the 99th percentile.
        tolerance: Stop once the 95 % interval of every median is no wider than this share of the median.
        limit_s: Stop after this many seconds in any case.
        clock: Nanoseconds.
    """
    for run in runs.values():
        for _ in range(warmup):
            run()
    samples: dict[str, list[float]] = {name: [] for name in runs}
    order, before, start = list(runs), stolen_s(), clock()
    check = least
    for number in count(1):
        for name in order:
            begin = clock()
            runs[name]()
            samples[name].append((clock() - begin) / 1e6)
        order.reverse()
        late = clock() - start > limit_s * 1e9
        if number >= least and (late or number >= max(check, wanted)):
            # Sorting after each call would weigh on what is measured: look again after a quarter more calls.
            check = number + number // 4
            if late or all(_narrow(values, tolerance) for values in samples.values()):
                break
    seconds, after = (clock() - start) / 1e9, stolen_s()
    stolen = None if before is None or after is None else (after - before) / (seconds * (os.cpu_count() or 1))
    return {name: _latency(values, warmup, stolen) for name, values in samples.items()}


def _narrow(values: Sequence[float], tolerance: float) -> bool:
    low, high = median_interval(values)
    return high - low <= tolerance * float(np.median(values))


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
