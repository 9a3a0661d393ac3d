"""The sequential test: fair bets by exact expectation, error rates by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gate import Scenario, measure
from edgeres.gate.paired_test import Outcome
from edgeres.gate.sequential import Bets, _kelly, sequential

MARGIN = 0.01


def state(images, lost, gained):
    zero = np.zeros(1)
    return Bets(images, np.array([float(lost)]), np.array([float(gained)]), zero, zero)


histories = st.integers(0, 5000).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda b: st.integers(0, n - b).map(lambda c: (n, b, c)))
)


@given(histories, st.floats(0.001, 0.2), st.floats(0, 1), st.floats(0, 1))
def test_wealth_is_supermartingale_under_null(history, margin, extra, more):
    """After any history, for any discordance: the expectation of the next factor, in closed form over three cases."""
    for side in (1, -1):
        drop = min(1.0, margin + extra * (1 - margin)) if side == 1 else margin - extra * (1 + margin)
        psi = abs(drop) + more * (1 - abs(drop))
        chances = {(1, 0): (psi + drop) / 2, (0, 1): (psi - drop) / 2, (0, 0): 1 - psi}
        expected = 0.0
        for (lost, gained), chance in chances.items():
            after = state(*history).after(1, np.array([float(lost)]), np.array([float(gained)]), margin)
            expected += chance * np.exp((after.below if side == 1 else after.above)[0])
        assert expected <= 1 + 1e-9
        assert np.isfinite(expected)


@given(histories)
def test_wealth_is_positive_after_any_image(history):
    for lost, gained in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0)):
        after = state(*history).after(1, np.array([lost]), np.array([gained]), MARGIN)
        assert after.below[0] > np.log(0.04)
        assert after.above[0] > np.log(0.04)


@pytest.mark.parametrize(
    ("lost", "gained", "side"), [(0.01, 0.01, -1), (0.03, 0.01, 1), (0.05, 0.05, -1), (0.06, 0.04, 1)]
)
def test_stake_maximises_expected_log_wealth(lost, gained, side):
    stakes = np.linspace(0, 0.94, 4001)
    high, none, low = side * (1 - MARGIN), -side * MARGIN, side * (-1 - MARGIN)
    growth = lost * np.log1p(stakes * high) + gained * np.log1p(stakes * low)
    growth += (1 - lost - gained) * np.log1p(stakes * none)
    found = _kelly(np.array([lost]), np.array([gained]), side, MARGIN)[0]
    assert found == pytest.approx(stakes[growth.argmax()], abs=3e-4)


def test_block_of_images_equals_single_images_at_same_stake():
    start = state(100, 3, 2)
    at_once = start.after(20, np.array([2.0]), np.array([1.0]), MARGIN)
    single = [
        start.after(1, np.array([b]), np.array([c]), MARGIN).below[0] for b, c in [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]
    ]
    assert at_once.below[0] == pytest.approx(2 * single[0] + single[1] + 17 * single[2])


@pytest.mark.parametrize("psi", [0.01, 0.03, 0.1])
def test_sequential_error_rates_at_margin_are_below_alpha(psi):
    runs = 3000
    rates = measure(Scenario(psi, MARGIN, 3000), MARGIN, runs)
    allowed = 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
    assert 0.005 < rates.passed < allowed
    assert 0.005 < rates.failed < allowed


@pytest.mark.parametrize("psi", [0.05, 0.1])
def test_sequential_test_needs_about_half_of_fixed_images(psi):
    images = {0.05: 5406, 0.1: 10817}[psi]
    clean = measure(Scenario(psi, 0.0, images), MARGIN, 1000)
    bad = measure(Scenario(psi, 0.02, images), MARGIN, 1000)
    assert clean.used / images < 0.56
    assert bad.used / images < 0.56
    assert clean.passed > 0.8
    assert bad.failed > 0.79
    assert clean.failed < 0.01
    assert bad.passed < 0.01


def test_sequential_test_decides_clear_cases_early():
    same = sequential(np.zeros(1000, np.int8), 1.0)
    assert same.outcome is Outcome.PASS
    assert same.used < 600
    assert same.below >= 20
    broken = sequential(np.ones(1000, np.int8), 1.0)
    assert broken.outcome is Outcome.FAIL
    assert broken.used <= 40


def test_sequential_test_is_inconclusive_with_too_few_images():
    found = sequential(np.zeros(100, np.int8), 1.0)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.used == found.n == 100


def test_sequential_order_depends_on_seed():
    signs = np.repeat(np.array([1, -1, 0], np.int8), [30, 30, 2940])
    assert sequential(signs, 1.0, seed=3) == sequential(signs, 1.0, seed=3)
    assert len({sequential(signs, 1.0, seed=seed).used for seed in range(5)}) > 1
