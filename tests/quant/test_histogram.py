from __future__ import annotations

from dataclasses import FrozenInstanceError
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference_histogram import content, histogram_of

from edgeres.quant.histogram import BINS, FINEST, Histogram, coarsened, exact_units, grid_exponent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

any_float = st.floats(width=32, allow_nan=False, allow_infinity=False)
tame_float = st.floats(-64, 64, width=32)
images = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=any_float | tame_float)


def row(*values: float) -> Floats:
    return np.array([values], dtype=np.float32)


def filled(histogram: Histogram) -> dict[int, int]:
    return {int(place) - BINS: int(histogram.counts[place]) for place in np.flatnonzero(histogram.counts)}


def test_a_histogram_computed_by_hand() -> None:
    # The peak 3 needs the range 2**2, so a bin is 4 / 8192 = 2**-11 wide.
    histogram = histogram_of(np.array([[0.0, 3.0, 1.0, -0.5], [0.0, 1.0, 0.0001, -0.0001]], dtype=np.float32))
    assert histogram.exponent == 2
    assert histogram.width == 2.0**-11
    assert filled(histogram) == {-1024: 1, -1: 1, 0: 2, 1: 1, 2048: 2, 6144: 1}
    assert (histogram.low, histogram.high, histogram.images) == (-0.5, 3.0, 2)
    assert (histogram.counts.sum(), histogram.counts[BINS]) == (8, 2)
    assert histogram.mean_range[1] == 2.0
    assert histogram.mean_range[0] == (-0.5 - float(np.float32(0.0001))) / 2


def test_a_power_of_two_fills_its_own_grid_and_closes_its_bin() -> None:
    histogram = histogram_of(row(4.0, -4.0, 4.0 - 2.0**-11, np.nextafter(np.float32(4 - 2.0**-11), np.float32(4))))
    assert histogram.exponent == 2
    assert filled(histogram) == {-BINS: 1, BINS - 1: 1, BINS: 2}


@pytest.mark.parametrize(
    ("peak", "exponent"), [(0.0, FINEST), (1e-40, FINEST), (0.5, -1), (0.51, 0), (1.0, 0), (1.1, 1), (3.4e38, 128)]
)
def test_the_grid_follows_the_peak_alone(peak: float, exponent: int) -> None:
    assert grid_exponent(peak) == exponent


@given(images)
def test_merging_bins_equals_binning_directly_on_the_coarser_grid(values: Floats) -> None:
    fine = histogram_of(values)
    for doublings in (1, 2, 5, 13, 20):
        exponent = min(fine.exponent + doublings, 128)
        loud = np.full((1, 1), 2.0**exponent if exponent < 128 else 3.4e38, dtype=np.float32)
        direct = histogram_of(np.concatenate([values.reshape(1, -1), loud], axis=1))
        expected = coarsened(fine.counts, exponent - fine.exponent).copy()
        expected[BINS + BINS if exponent < 128 else BINS + int(np.ceil(3.4e38 / 2.0**115))] += 1
        assert direct.exponent == exponent
        assert np.array_equal(direct.counts, expected)


@given(images, st.randoms(use_true_random=False), st.integers(1, 4))
def test_order_batches_and_shards_leave_no_trace(values: Floats, random: Any, shards: int) -> None:
    whole = histogram_of(values)
    order = list(range(len(values)))
    random.shuffle(order)
    parts = [part for part in np.array_split(values[order], shards) if len(part)]
    merged = histogram_of(parts[0])
    for part in parts[1:]:
        merged = merged.merged(histogram_of(part)) if random.random() < 0.5 else histogram_of(part).merged(merged)
    assert content(merged) == content(whole)


def test_merging_is_associative() -> None:
    a, b, c = (histogram_of(row(*values)) for values in ((1e-30, 1.0), (1e9, -3.0), (0.0, 1e-3)))
    first, second, third = a.merged(b).merged(c), a.merged(b.merged(c)), c.merged(a).merged(b)
    assert content(first) == content(second) == content(third)


@given(images)
def test_counts_agree_with_exact_arithmetic(values: Floats) -> None:
    histogram = histogram_of(values)
    width = Fraction(2) ** (histogram.exponent - 13)
    expected = np.zeros_like(histogram.counts)
    for value in values.ravel().tolist():
        magnitude = -(-abs(Fraction(value)) // width)
        expected[BINS + int(magnitude) * (-1 if value < 0 else 1)] += 1
    assert np.array_equal(histogram.counts, expected)


@given(images)
def test_means_of_extrema_are_exact(values: Floats) -> None:
    histogram = histogram_of(values)
    lows = [Fraction(float(value)) for value in values.min(axis=1)]
    highs = [Fraction(float(value)) for value in values.max(axis=1)]
    assert histogram.mean_range[0] == float(sum(lows) / len(lows))
    assert histogram.mean_range[1] == float(sum(highs) / len(highs))


@pytest.mark.parametrize("value", [0.0, -1.5, 2.0**-149, 3.4028234663852886e38])
def test_every_float32_is_a_whole_number_of_units(value: float) -> None:
    assert Fraction(exact_units(value), 2**149) == Fraction(value)


@given(
    hnp.arrays(np.float32, st.tuples(st.just(1), st.integers(1, 200)), elements=tame_float),
    st.sampled_from([0.0, 0.001, 0.25, 0.5, 0.875, 0.999, 1.0]),
)
def test_quantiles_agree_with_numpy_within_a_bin(values: Floats, fraction: float) -> None:
    histogram = histogram_of(values)
    exact = np.quantile(values.astype(np.float64), fraction, method="inverted_cdf")
    assert abs(histogram.quantile(fraction) - exact) <= histogram.width
    exact = np.quantile(np.abs(values.astype(np.float64)), fraction, method="inverted_cdf")
    assert abs(histogram.magnitude_quantile(fraction) - exact) <= histogram.width


def test_quantiles_of_many_values_are_finer_than_a_bin() -> None:
    values = np.linspace(-1, 1, 1_000_003, dtype=np.float32)[None]
    histogram = histogram_of(values)
    for fraction in (0.0005, 0.3, 0.9999):
        exact = np.quantile(values, fraction)
        assert abs(histogram.quantile(fraction) - exact) <= histogram.width / 8


def test_a_histogram_cannot_be_changed() -> None:
    histogram = histogram_of(row(1.0))
    with pytest.raises(ValueError, match="read-only"):
        histogram.counts[0] = 1
    with pytest.raises(FrozenInstanceError):
        histogram.low = 0.0  # type: ignore[misc]
