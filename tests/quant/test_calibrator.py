from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference_histogram import histogram_of
from scipy import stats

from edgeres.errors import RecipeError
from edgeres.quant.calibrator import (
    CALIBRATORS,
    Density,
    activation_qparams,
    divergences,
    entropy,
    mean_squared_error,
    percentile,
    range_qparams,
)
from edgeres.quant.qparams import SMALLEST
from edgeres.targets.target import QuantScheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.quant.qparams import QParams

    Floats = NDArray[np.float32]

SIGNED = QuantScheme(signed=True, add_inputs="identity", pools=False)
UNSIGNED = QuantScheme(signed=False, add_inputs="both", pools=True)
SCHEMES = (SIGNED, UNSIGNED)


def row(*values: float) -> Floats:
    return np.array([values], dtype=np.float32)


def sample(name: str, count: int = 60_000) -> Floats:
    """Quantile-spaced values ``[1,count]`` of a known distribution."""
    shares = (np.arange(count) + 0.5) / count
    values = {
        "gaussian": lambda: stats.norm.ppf(shares),
        "laplace": lambda: stats.laplace.ppf(shares),
        "relu": lambda: np.maximum(stats.norm.ppf(shares), 0),
        "heavy": lambda: stats.t.ppf(shares, df=3),
        "skewed": lambda: stats.lognorm.ppf(shares, 0.7) - 0.8,
        "uniform": lambda: 2 * shares - 1,
    }[name]()
    return values.astype(np.float32)[None]


def error(values: Floats, params: QParams) -> float:
    rounded = params.dequantize(params.quantize(values)).astype(np.float64)
    return float(((values - rounded) ** 2).mean())


def reach(params: QParams) -> tuple[float, float]:
    """Lowest and highest value a tensor's codes stand for."""
    return tuple(float((code - params.zero_point) * params.scale[0]) for code in (params.low, params.high))


# --- from range to scale


def test_signed_scales_are_symmetric() -> None:
    params = activation_qparams(histogram_of(row(-2.54, 0.5)), "minmax", SIGNED)
    assert params.scale == (float(np.float32(np.float64(np.float32(2.54)) / 127)),)
    assert (params.zero_point, params.bits, params.signed, params.axis) == (0, 8, True, None)


def test_unsigned_scales_behind_a_relu_start_at_zero() -> None:
    params = activation_qparams(histogram_of(row(0.0, 5.1)), "minmax", UNSIGNED)
    assert params.scale == (float(np.float32(np.float64(np.float32(5.1)) / 255)),)
    assert (params.zero_point, params.signed) == (0, False)


def test_a_positive_tensor_still_represents_zero() -> None:
    params = activation_qparams(histogram_of(row(4.0, 5.1)), "minmax", UNSIGNED)
    assert reach(params)[0] == 0.0


def test_asymmetric_scales_have_a_zero_point() -> None:
    params = activation_qparams(histogram_of(row(-1.0, 3.0)), "minmax", UNSIGNED)
    assert params.scale == (float(np.float32(4 / 255)),)
    assert params.zero_point == 64  # round(1 / (4 / 255)) = round(63.75)


def test_a_negative_tensor_puts_zero_at_the_top() -> None:
    params = activation_qparams(histogram_of(row(-1.0, -3.0)), "minmax", UNSIGNED)
    assert params.zero_point == 255
    assert reach(params)[1] == 0.0


@given(hnp.arrays(np.float32, (1, 20), elements=st.floats(-1000, 1000, width=32)), st.sampled_from(SCHEMES))
def test_minmax_rounds_every_value_within_half_a_step(values: Floats, scheme: QuantScheme) -> None:
    params = activation_qparams(histogram_of(values), "minmax", scheme)
    rounded = params.dequantize(params.quantize(values))
    assert np.abs(rounded - values).max() <= params.scale[0] * 0.5001 + 1e-6 * np.abs(values).max()
    assert params.dequantize(np.array([params.zero_point], dtype=np.int32))[0] == 0.0


def test_a_dropped_zero_point_would_be_noticed() -> None:
    values = sample("gaussian", 1000)
    params = activation_qparams(histogram_of(values), "minmax", UNSIGNED)
    assert error(values, params) < params.scale[0] ** 2
    assert error(values, replace(params, zero_point=0)) > 100 * params.scale[0] ** 2


@pytest.mark.parametrize("scheme", SCHEMES, ids=["signed", "unsigned"])
@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("peak", [0.0, 1e-45, 1e-30, 1e-3, 3e38])
def test_every_scale_is_a_positive_normal_float32(calibrator: str, scheme: QuantScheme, peak: float) -> None:
    for values in (row(0.0, peak), row(-peak, peak / 3), row(*([0.0] * 99_999), peak)):
        (scale,) = activation_qparams(histogram_of(values), calibrator, scheme).scale
        assert SMALLEST <= scale < np.inf
        assert float(np.float32(scale)) == scale
        if peak == 0:
            assert scale == 1.0


@pytest.mark.parametrize("scheme", SCHEMES, ids=["signed", "unsigned"])
@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("name", ["gaussian", "relu", "heavy", "skewed", "uniform"])
def test_no_calibrator_leaves_the_values_seen(calibrator: str, scheme: QuantScheme, name: str) -> None:
    histogram = histogram_of(sample(name, 5000))
    low, high = CALIBRATORS[calibrator](histogram, scheme)
    bound = max(-histogram.low, histogram.high)
    assert -bound <= low <= 0 <= high <= bound
    if not scheme.signed:
        assert histogram.low <= low
        assert high <= histogram.high


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_scales_follow_the_unit_of_the_values(calibrator: str) -> None:
    values = sample("laplace", 5000)
    for scheme in SCHEMES:
        plain = activation_qparams(histogram_of(values), calibrator, scheme)
        scaled = activation_qparams(histogram_of(values * np.float32(8)), calibrator, scheme)
        assert scaled.scale[0] == 8 * plain.scale[0]
        assert scaled.zero_point == plain.zero_point


def test_an_unknown_calibrator_gets_its_nearest_name() -> None:
    with pytest.raises(RecipeError, match="did you mean 'minmax'"):
        activation_qparams(histogram_of(row(1.0)), "minmaxx", SIGNED)


# --- moving average and percentile


def test_moving_average_is_the_mean_of_the_images_extrema() -> None:
    values = np.array([[-1.0, 2.0], [-2.0, 3.0], [-9.0, 10.0]], dtype=np.float32)
    assert CALIBRATORS["moving_average"](histogram_of(values), UNSIGNED) == (-4.0, 5.0)
    params = activation_qparams(histogram_of(values), "moving_average", SIGNED)
    assert params.scale == (float(np.float32(5 / 127)),)


@pytest.mark.parametrize("percent", [99.0, 99.9, 99.99, 100.0])
def test_percentile_covers_that_percentage_of_the_magnitudes(percent: float) -> None:
    values = sample("laplace")
    histogram = histogram_of(values)
    exact = np.quantile(np.abs(values), percent / 100, method="inverted_cdf")
    _, high = percentile(histogram, SIGNED, percent)
    assert abs(high - exact) <= histogram.width
    if percent == 100:
        assert high == histogram.high


def test_an_asymmetric_percentile_cuts_both_ends() -> None:
    values = sample("skewed")
    histogram = histogram_of(values)
    low, high = percentile(histogram, UNSIGNED, 99.0)
    assert abs(low - np.quantile(values, 0.005)) <= histogram.width
    assert abs(high - np.quantile(values, 0.995)) <= histogram.width


def test_a_percentile_of_almost_only_zeros_cuts_nothing() -> None:
    assert percentile(histogram_of(row(*([0.0] * 99_999), 7.0)), SIGNED) == (0.0, 7.0)


# --- mean squared error


def brute_force(values: Floats, scheme: QuantScheme) -> float:
    """Least squared error over a dense search that quantizes the values themselves."""
    low, high = float(values.min()), float(values.max())
    shares = np.linspace(0.02, 1.0, 197)
    if scheme.signed or low >= 0:
        peak = max(-low, high)
        ranges = [(-share * peak if scheme.signed else 0.0, share * peak) for share in shares]
    else:
        ranges = [(a * low, b * high) for a in np.linspace(0.1, 1, 19) for b in np.linspace(0.1, 1, 19)]

    return min(error(values, range_qparams(low, high, scheme)) for low, high in ranges)


@pytest.mark.parametrize("scheme", SCHEMES, ids=["signed", "unsigned"])
@pytest.mark.parametrize("name", ["gaussian", "laplace", "relu", "heavy", "skewed"])
def test_mse_is_as_good_as_brute_force(name: str, scheme: QuantScheme) -> None:
    values = sample(name, 20_000)
    found = error(values, activation_qparams(histogram_of(values), "mse", scheme))
    assert found <= 1.01 * brute_force(values, scheme)


@pytest.mark.parametrize(("low", "high", "steps"), [(0.0, 5.0, 7), (0.0, 2.2, 3), (-2.6, 4.1, 7), (-1.0, 3.9, 4)])
def test_expected_errors_equal_an_integral_over_the_bins(low: float, high: float, steps: int) -> None:
    counts = np.array([5, 0, 1, 9, 3, 0, 4, 2])  # bins [-3,-2] ... [4,5], far wider than a step's rounding errors
    inside = (np.arange(4000) + 0.5) / 4000
    scale = (high - low) / steps
    zero_point = np.rint(-low / scale)
    total = 0.0
    for left, count in enumerate(counts.tolist(), start=-3):
        codes = np.clip(np.rint((left + inside) / scale) + zero_point, 0, steps)
        total += count * float((((codes - zero_point) * scale - left - inside) ** 2).mean())
    found = Density(counts, -3).errors(np.array([low]), np.array([high]), steps)
    assert found == pytest.approx(total, rel=1e-4)


def test_mse_cuts_each_end_of_an_asymmetric_range_on_its_own() -> None:
    body = sample("laplace", 20_000)
    values = np.where(body < 0, body * 0.2, body)
    histogram = histogram_of(np.concatenate([values, row(-12.0, 11.0)], axis=1))
    density = Density(np.concatenate([histogram.negative[::-1], histogram.positive]), -len(histogram.negative))
    for bits in (4, 8):
        ends = (
            np.array(mean_squared_error(histogram, SimpleNamespace(activation_bits=bits, signed=False)))
            / histogram.width
        )
        dense = np.meshgrid(np.linspace(0.02, 1, 50) * -12.0, np.linspace(0.02, 1, 50) * 11.0)
        lows, highs = (part.ravel() / histogram.width for part in dense)
        found = density.errors(ends[:1], ends[1:], 2**bits - 1)[0]
        assert found <= 1.01 * density.errors(lows, highs, 2**bits - 1).min()


@pytest.mark.parametrize("scheme", SCHEMES, ids=["signed", "unsigned"])
def test_mse_beats_minmax_on_heavy_tails(scheme: QuantScheme) -> None:
    values = sample("heavy")
    mse, minmax = (error(values, activation_qparams(histogram_of(values), name, scheme)) for name in ("mse", "minmax"))
    assert mse < 0.9 * minmax


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("scheme", SCHEMES, ids=["signed", "unsigned"])
def test_a_uniform_tensor_is_best_left_whole(scheme: QuantScheme, bits: int) -> None:
    # The ideal grid of n steps over [-1, 1] has its outermost codes half a step inside the ends: at 1 - 1 / (n + 1).
    steps = 2**bits - (2 if scheme.signed else 1)
    low, high = mean_squared_error(
        histogram_of(sample("uniform")), SimpleNamespace(activation_bits=bits, signed=scheme.signed)
    )
    assert 1 - 2 / (steps + 1) <= (high - low) / 2 <= 1


@pytest.mark.parametrize(
    ("name", "clip"),
    # Banner et al. 2019 (arXiv 1810.05723), their reference code: alpha / sigma and alpha / b for 8 bits.
    [("gaussian", 3.93), ("laplace", 9.89)],
)
def test_mse_meets_the_closed_form_of_known_densities(name: str, clip: float) -> None:
    histogram = histogram_of(sample(name, 2_000_000))
    assert mean_squared_error(histogram, SIGNED)[1] == pytest.approx(clip, rel=0.03)


# --- entropy


def literal_divergence(bins: list[int], start: int, stop: int, levels: int) -> float:
    """KL(P || Q) of one window, step by step as the GTC 2017 slides describe it, with nothing vectorised."""
    window = bins[start:stop]
    reference = [float(count) for count in window]
    reference[0] += sum(bins[:start])
    reference[-1] += sum(bins[stop:])
    candidate = [0.0] * len(window)
    for level in range(levels):
        members = [j for j in range(len(window)) if j * levels // len(window) == level]
        full = [j for j in members if window[j] > 0]
        for j in full:
            candidate[j] = sum(window[k] for k in members) / len(full)
    total, mass = sum(reference), sum(candidate)
    divergence = 0.0
    for p, q in zip(reference, candidate, strict=True):
        if p > 0:
            divergence += np.inf if q == 0 else p / total * np.log((p / total) / (q / mass))
    return divergence


@settings(max_examples=60)
@given(st.lists(st.integers(0, 50), min_size=12, max_size=40), st.integers(2, 6), st.data())
def test_divergences_equal_the_literal_method(bins: list[int], levels: int, data: st.DataObject) -> None:
    windows = []
    for _ in range(4):
        start = data.draw(st.integers(0, len(bins) - levels))
        stop = data.draw(st.integers(start + levels, len(bins)))
        if sum(bins[start:stop]):
            windows.append((start, stop))
    if not windows:
        return
    starts, stops = np.array(windows).T
    found = divergences(np.array(bins), starts, stops, levels)
    for (start, stop), divergence in zip(windows, found, strict=True):
        assert divergence == pytest.approx(literal_divergence(bins, start, stop, levels), abs=1e-12)


@pytest.mark.parametrize(("scheme", "levels"), [(SIGNED, 128), (UNSIGNED, 256)], ids=["signed", "unsigned"])
def test_entropy_equals_the_literal_search(scheme: QuantScheme, levels: int) -> None:
    values = np.abs(sample("laplace", 1_000_000))
    histogram = histogram_of(values)
    width = 2.0**histogram.exponent / 2048
    bins = np.bincount(np.ceil(values.ravel() / width).astype(int) - 1, minlength=2048).tolist()
    used = max(j for j, count in enumerate(bins) if count) + 1
    stops = range(levels, used + 1, 67)  # every 67th window: the literal method takes minutes for all of them
    literal = {stop: literal_divergence(bins, 0, stop, levels) for stop in stops}
    _, high = entropy(histogram, scheme)
    chosen = min(round(high / width), used)
    assert literal_divergence(bins, 0, chosen, levels) <= min(literal.values()) + 1e-12
    assert chosen < used


def test_entropy_cuts_a_lone_outlier() -> None:
    values = np.concatenate([sample("gaussian", 50_000), row(60.0)], axis=1)
    for scheme in SCHEMES:
        assert entropy(histogram_of(values), scheme)[1] < 12.0


def test_entropy_ignores_zeros() -> None:
    values = sample("relu", 20_000)
    more = np.concatenate([values, np.zeros((1, 100_000), dtype=np.float32)], axis=1)
    for scheme in SCHEMES:
        assert entropy(histogram_of(values), scheme) == entropy(histogram_of(more), scheme)


def test_an_asymmetric_entropy_range_keeps_its_nearer_end() -> None:
    histogram = histogram_of(sample("skewed"))
    low, high = entropy(histogram, UNSIGNED)
    assert -low < high < histogram.high
    assert low == histogram.low
