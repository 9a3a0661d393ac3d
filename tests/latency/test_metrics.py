import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.latency.timer import Timing, interleaved, median_interval, percentile_bound
from edgeres.metrics import agreement, kl, sqnr_db, top1
from edgeres.targets.host import machine, peak_rss_mib


class Clock:
    """A clock in nanoseconds that only the measured work moves."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now

    def work(self, milliseconds):
        durations = iter(milliseconds) if isinstance(milliseconds, list) else None

        def run():
            self.now += int(1e6 * (next(durations) if durations else milliseconds))

        return run


def test_top1_and_agreement_in_percent():
    assert top1([1, 2, 3, 4], [1, 2, 0, 4]) == 75.0
    assert agreement((1, 1), (2, 2)) == 0.0


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match="no predictions"):
        top1([], [])
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        agreement([1, 2], [1])


def test_sqnr_in_closed_form():
    reference = np.full((2, 3), 10.0, dtype=np.float32)
    assert sqnr_db(reference, reference + 1) == pytest.approx(20.0)
    assert sqnr_db(reference, reference) == math.inf
    assert sqnr_db(np.zeros(3, dtype=np.float32), np.ones(3, dtype=np.float32)) == -math.inf


def test_sqnr_of_a_uniform_quantizer_gains_six_db_a_bit():
    signal = np.random.default_rng(0).uniform(-1, 1, 200_000).astype(np.float32)
    for bits in (4, 8):
        step = 2 / 2**bits
        # uniform signal, variance 1/3, noise step^2 / 12: 20 log10(2^bits)
        quantized = (np.floor(signal / step) + 0.5) * step
        assert sqnr_db(signal, quantized.astype(np.float32)) == pytest.approx(20 * math.log10(2**bits), abs=0.1)


def test_kl_in_closed_form():
    p, q = np.array([[0.75, 0.25]]), np.array([[0.5, 0.5]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kl(np.log(p), np.log(q)) == pytest.approx(expected)
    assert kl(np.log(q), np.log(p)) != pytest.approx(expected)


@given(st.floats(-50, 50), st.floats(-2, 2))
def test_kl_ignores_a_shift_of_the_logits_and_is_never_negative(shift, change):
    logits = np.array([[1.0, -2.0, 0.5], [80.0, 0.0, 3.0]], dtype=np.float32)
    other = logits + np.array([0.0, change, 0.0], dtype=np.float32)
    assert kl(logits, logits + np.float32(shift)) == pytest.approx(0.0, abs=1e-4)
    assert kl(logits, other) >= -1e-12


def test_median_interval_is_the_tabulated_one():
    # Order statistics for a 95 % interval of the median: n = 10 -> 2nd and 9th, 20 -> 6th and 15th, 100 -> 40th, 61st.
    for n, k in ((10, 2), (20, 6), (100, 40)):
        assert median_interval(list(range(1, n + 1))) == (k, n + 1 - k)
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_median_interval_covers_the_median_of_a_skewed_distribution():
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(500):
        low, high = median_interval(generator.exponential(size=40).tolist())
        hits += low <= math.log(2) <= high
    assert hits / 500 > 0.93


def test_percentiles_of_known_durations():
    clock = Clock()
    durations = [float(x) for x in np.random.default_rng(2).permutation(np.arange(1, 102))]
    found = interleaved({"a": clock.work([500.0, *durations])}, Timing(warmup=1, least=101, limit_s=0), clock=clock)[
        "a"
    ]
    assert (found.p50_ms, found.p90_ms, found.p99_ms) == (51.0, 91.0, 100.0)
    assert (found.n, found.warmup) == (101, 1)
    assert found.low_ms < 51 < found.high_ms


def test_percentile_bounds_are_order_statistics():
    # 0.9**44 <= 0.01 < 0.9**43, and 0.99**459 <= 0.01 < 0.99**458.
    ordered = list(range(1, 460))
    assert percentile_bound(ordered[:43], 0.9) is None
    assert percentile_bound(ordered[:44], 0.9) == 44
    assert percentile_bound(ordered[:458], 0.99) is None
    assert percentile_bound(ordered, 0.99) == 459
    rng = np.random.default_rng(5)
    held = sum(percentile_bound(rng.exponential(size=100), 0.9) >= -math.log(0.1) for _ in range(2000))
    assert 0.985 <= held / 2000 <= 1.0


def test_wanted_calls_are_made_while_there_is_time():
    clock = Clock()
    assert interleaved({"a": clock.work(1.0)}, Timing(limit_s=60), wanted=459, clock=clock)["a"].n >= 459
    clock = Clock()
    assert interleaved({"a": clock.work(100.0)}, Timing(limit_s=5), wanted=459, clock=clock)["a"].n == 51


def test_a_steady_run_stops_early_and_an_unsteady_one_at_the_limit():
    clock = Clock()
    steady = interleaved({"a": clock.work(10.0)}, Timing(least=20, limit_s=60), clock=clock)["a"]
    assert (steady.n, steady.low_ms) == (20, steady.high_ms)
    clock = Clock()
    wild = clock.work([float(10 + 10 * (i % 2)) for i in range(10_000)])
    unsteady = interleaved({"a": wild}, Timing(least=20, limit_s=3.0), clock=clock)["a"]
    assert 3.0 <= unsteady.n * 0.015 <= 3.1
    assert unsteady.high_ms - unsteady.low_ms > 0.02 * unsteady.p50_ms


def test_the_least_number_of_calls_goes_before_the_time_limit():
    clock = Clock()
    assert interleaved({"a": clock.work(1000.0)}, Timing(least=7, limit_s=1.0), clock=clock)["a"].n == 7


def test_candidates_take_turns_forwards_and_backwards():
    clock, calls = Clock(), []

    def candidate(name, milliseconds):
        work = clock.work(milliseconds)

        def run():
            calls.append(name)
            work()

        return run

    found = interleaved({"x": candidate("x", 2.0), "y": candidate("y", 1.0)}, Timing(warmup=0, least=4), clock=clock)
    assert "".join(calls) == "xyyxxyyx"
    assert found["x"].p50_ms / found["y"].p50_ms == 2.0


def test_real_time_passes():
    found = interleaved({"a": lambda: sum(range(20_000))}, Timing(warmup=1, least=5, limit_s=0.05))["a"]
    assert found.n >= 5
    assert 0 < found.low_ms <= found.p50_ms <= found.p90_ms <= found.p99_ms


def test_machine_from_kernel_files(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2.50GHz\n")
    (tmp_path / "stat").write_text("cpu  13536 290 4550 265640 377 0 58 2800 0 0\ncpu0 1 2 3\n")
    governor = tmp_path / "devices/system/cpu/cpu0/cpufreq/scaling_governor"
    governor.parent.mkdir(parents=True)
    governor.write_text("performance\n")
    found = machine(tmp_path, tmp_path)
    assert (found.cpu, found.governor) == ("Some CPU @ 2.50GHz", "performance")
    assert found.stolen == pytest.approx(28.0)  # 100 ticks a second on Linux
    assert found.cores >= 1


def test_machine_without_kernel_files_has_no_governor_and_steal_time(tmp_path):
    found = machine(tmp_path, tmp_path)
    assert found.governor is None
    assert found.stolen is None
    assert found.cpu


def test_peak_memory_holds_what_was_filled():
    before = peak_rss_mib()
    block = np.ones(64 << 17)  # 64 MiB of float64
    assert peak_rss_mib() >= max(before, 64)
    assert block[0] == 1
    assert peak_rss_mib() < 64 * 1024
