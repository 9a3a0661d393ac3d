"""Bootstrap intervals against closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from edgeres.latency.benchmark.interleaved import median_interval, ratio_interval

TIMES = st.lists(st.lists(st.floats(0.1, 100), min_size=1, max_size=5), min_size=1, max_size=8)


def closed_form(ordered, share):
    """The quantile of the bootstrapped median of n distinct values, n odd.

    A resample's median is at most the k-th value where at least (n + 1) / 2 of the n draws are among the k smallest:
    ``P(median* <= x_(k)) = P(Bin(n, k / n) >= (n + 1) / 2)``.
    """
    n = len(ordered)
    return next(value for k, value in enumerate(ordered, 1) if binom.sf((n - 1) // 2, n, k / n) >= share)


@pytest.mark.parametrize("n", [9, 25])
def test_one_sample_a_round_gives_the_exact_distribution_of_the_median(n):
    values = np.sort(np.random.default_rng(n).lognormal(size=n))
    shuffled = np.random.default_rng(1).permutation(values)
    low, high = median_interval([[value] for value in shuffled], draws=10_000)
    assert low == pytest.approx(closed_form(values, 0.025))
    assert high == pytest.approx(closed_form(values, 0.975))


def test_rounds_are_drawn_whole():
    """Ten rounds that differ and agree within: 100 calls are worth ten, and the interval has to say so."""
    levels = [float(level) for level in range(1, 11)]
    whole = median_interval([[level] * 10 for level in levels], draws=4000)
    single = median_interval([[level] for level in levels], draws=4000)
    scattered = median_interval([[level] for level in levels for _ in range(10)], draws=4000)
    assert whole == single
    assert scattered[1] - scattered[0] < 0.6 * (whole[1] - whole[0])


def test_what_slows_both_in_a_round_leaves_their_ratio_alone():
    slow = np.random.default_rng(0).lognormal(sigma=0.5, size=30)
    above, below = [[3 * factor] for factor in slow], [[factor] for factor in slow]
    low, high = ratio_interval(above, below)
    assert (low, high) == pytest.approx((3, 3))
    assert median_interval(above)[1] > 1.2 * median_interval(above)[0]


@given(TIMES, st.floats(0.1, 10))
def test_intervals_hold_the_range_and_scale(rounds, factor):
    low, high = median_interval(rounds, draws=50)
    every = [value for samples in rounds for value in samples]
    assert min(every) <= low <= high <= max(every)
    scaled = median_interval([[factor * value for value in samples] for samples in rounds], draws=50)
    assert scaled == pytest.approx((factor * low, factor * high))


def test_interval_covers_the_true_median_at_its_confidence():
    random, hits = np.random.default_rng(7), 0
    for _ in range(100):
        rounds = random.exponential(size=(25, 1)).tolist()
        low, high = median_interval(rounds, draws=200)
        hits += low <= np.log(2) <= high
    assert 88 <= hits <= 99


def test_unequal_rounds_and_empty_ones_are_refused():
    with pytest.raises(ValueError, match="2 rounds over 1"):
        ratio_interval([[1.0], [2.0]], [[1.0]])
    with pytest.raises(ValueError, match="without a sample"):
        median_interval([[1.0], []])
