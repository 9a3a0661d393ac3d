"""Figures of merit: accuracy, agreement, signal to noise, divergence, latency, memory and file size.

Latency protocol: warm-up calls first; then rounds in which every candidate runs once, forwards and backwards in turn,
so that drift of the machine hits all of them alike; rounds go on until the 95 % interval of every median is narrow
enough or the time is up. What the hypervisor took away meanwhile is kept beside the figures.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeres.artifacts.results import Latency
from edgeres.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Run = Callable[[], object]


def top1(predictions: Sequence[int], labels: Sequence[int]) -> float:
    """Share of right answers in percent."""
    return agreement(predictions, labels)


def agreement(some: Sequence[int], others: Sequence[int]) -> float:
    """Share of images on which two lists of class indices are equal, in percent.

    Raises:
        ValueError: The lists differ in length, or there are no images.
    """
    if not len(some):
        raise ValueError("no predictions to compare")
    return 100 * sum(a == b for a, b in zip(some, others, strict=True)) / len(some)


def sqnr_db(reference: NDArray[np.float32], value: NDArray[np.float32]) -> float:
    """Signal to quantization noise, ``10 log10(sum r^2 / sum (r - v)^2)``, in dB over arrays of one shape.

    Infinite for equal arrays, minus infinite for noise without a signal.
    """
    exact = np.asarray(reference, dtype=np.float64)
    signal, noise = float(np.sum(exact**2)), float(np.sum((exact - value) ** 2))
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal else float("-inf")


def kl(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """Mean Kullback-Leibler divergence ``KL(softmax(reference) || softmax(logits))`` in nats, of ``[N,classes]``."""
    return float(np.mean(divergences(reference, logits)))


def divergences(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The same for each image, float64 ``[N]``; never below 0."""
    p, q = _log_softmax(reference), _log_softmax(logits)
    return np.asarray(np.maximum(np.sum(np.exp(p) * (p - q), axis=1), 0.0))


def cross_entropy(logits: NDArray[np.float32], labels: Sequence[int]) -> NDArray[np.float64]:
    """Loss ``[N]`` in nats of logits ``[N,classes]`` against class indices, image by image."""
    found: NDArray[np.float64] = -_log_softmax(logits)[np.arange(len(labels)), np.asarray(labels)]
    return found


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = np.asarray(logits, dtype=np.float64) - np.max(logits, axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True)))


def peak_rss_mib() -> float:
    """Most resident memory this process has ever had, in MiB."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


@settings
class Machine:
    """The machine a figure was measured on.

    Attributes:
        cpu: Model name.
        cores: Cores this process may use.
        governor: Frequency governor, None where the kernel shows none, as in most virtual machines.
        load: Runnable processes, averaged over one minute.
        stolen: CPU seconds the hypervisor has given to others since boot, None where the kernel does not say.
    """

    cpu: str
    cores: int
    governor: str | None
    load: float
    stolen: float | None


def machine(proc: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> Machine:
    """Reads what the kernel says about this machine now."""
    governor = sysfs / "devices/system/cpu/cpu0/cpufreq/scaling_governor"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        cpu=_cpu_model(proc / "cpuinfo"),
        cores=cores,
        governor=governor.read_text().strip() if governor.is_file() else None,
        load=os.getloadavg()[0],
        stolen=_stolen(proc / "stat"),
    )


def _cpu_model(cpuinfo: Path) -> str:
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    return platform.processor() or platform.machine()


def _stolen(stat: Path) -> float | None:
    """Steal time in seconds: the eighth figure of the ``cpu`` line of proc(5) ``/proc/stat``, in clock ticks."""
    if not stat.is_file():
        return None
    figures = stat.read_text().splitlines()[0].split()[1:]
    return int(figures[7]) / os.sysconf("SC_CLK_TCK") if len(figures) > 7 else None


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
    """Measures several callables in one go, so that the same noise hits all of them.

    Args:
        runs: What to measure, by name.
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
    order, before, start = list(runs), _stolen(Path("/proc/stat")), clock()
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
    seconds, after = (clock() - start) / 1e9, _stolen(Path("/proc/stat"))
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
