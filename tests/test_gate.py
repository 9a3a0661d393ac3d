from dataclasses import replace
from itertools import pairwise
from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.gate.paired_test import (
    Outcome,
    Paired,
    decide,
    images_needed,
    mcnemar,
    mcnemar_worse,
    non_inferiority,
    score,
    tango,
)

counts = st.integers(1, 3000).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda b: st.integers(0, n - b).map(lambda c: Paired(n=n, b=b, c=c)))
)


def swapped(paired):
    return replace(paired, b=paired.c, c=paired.b)


def test_paired_counts_from_predictions():
    paired = Paired.of([0, 1, 2, 2, 1], [0, 2, 2, 1, 0], [0, 1, 1, 1, 1])
    assert paired == Paired(n=5, b=2, c=1)
    assert paired.drop == pytest.approx(20.0)
    assert paired.discordance == pytest.approx(0.6)


def test_paired_counts_reject_different_lengths():
    with pytest.raises(ValueError, match=r"longer|shorter"):
        Paired.of([0], [0, 1], [0, 1])


@pytest.mark.parametrize("bad", [{"n": 0, "b": 0, "c": 0}, {"n": 3, "b": 2, "c": 2}, {"n": 3, "b": -1, "c": 0}])
def test_paired_rejects_impossible_counts(bad):
    with pytest.raises(ValueError, match="paired counts"):
        Paired(**bad)


def test_mcnemar_matches_published_values():
    # Airway hyper-responsiveness before and after stem cell transplantation (Bentur et al. 2009), worked in Fagerland,
    # Lydersen and Laake 2013: asymptotic p 0.034, mid-p 0.0391, exact conditional p 0.0703.
    bentur = Paired(n=21, b=1, c=7)
    assert mcnemar(bentur) == pytest.approx(0.0391, abs=5e-5)
    assert score(bentur, 0.0) == pytest.approx(-6 / sqrt(8))


def test_mcnemar_matches_closed_form():
    # 2 (P(0) + P(1) + P(2)) - P(2) with P(k) = C(10, k) / 2^10
    assert mcnemar(Paired(n=100, b=2, c=8)) == pytest.approx((2 * (1 + 10 + 45) - 45) / 2**10)
    assert mcnemar(Paired(n=100, b=0, c=0)) == 1.0
    assert mcnemar(Paired(n=100, b=4, c=4)) == pytest.approx(1.0)
    upper = sum(comb(10, k) for k in (9, 10)) + comb(10, 8) / 2
    assert mcnemar_worse(Paired(n=100, b=8, c=2)) == pytest.approx(upper / 2**10)
    assert mcnemar_worse(Paired(n=100, b=0, c=0)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("paired", "confidence", "low", "high", "places"),
    [
        (Paired(n=21, b=1, c=7), 0.95, -51.7, -2.6, 1),  # Bentur 2009 in Fagerland, Lydersen and Laake 2014
        (Paired(n=618, b=28, c=25), 0.90, -1.48, 2.47, 2),  # R PropCIs::scoreci.mp(25, 28, 618)
    ],
)
def test_tango_matches_published_intervals(paired, confidence, low, high, places):
    interval = tango(paired, confidence)
    assert round(interval.low, places) == low
    assert round(interval.high, places) == high


@given(counts)
def test_tango_ends_solve_score_equation(paired):
    interval = tango(paired, 0.95)
    assert -100 <= interval.low <= paired.drop + 1e-9
    assert paired.drop - 1e-9 <= interval.high <= 100
    for end, z in ((interval.low, 1.959964), (interval.high, -1.959964)):
        if abs(end) < 99.999:
            assert score(paired, end) == pytest.approx(z, abs=1e-3)


@given(counts)
def test_tango_is_antisymmetric(paired):
    here, there = tango(paired), tango(swapped(paired))
    assert here.low == pytest.approx(-there.high, abs=1e-7)
    assert here.high == pytest.approx(-there.low, abs=1e-7)
    assert mcnemar(paired) == pytest.approx(mcnemar(swapped(paired)), abs=1e-12)
    assert mcnemar_worse(paired) + mcnemar_worse(swapped(paired)) == pytest.approx(1.0)


@given(counts, st.floats(0.01, 20))
def test_non_inferiority_test_agrees_with_interval(paired, margin):
    """The p value is below alpha exactly where the upper end of the 1 - 2 alpha interval is below the margin."""
    upper = tango(paired, 0.90).high
    if abs(upper - margin) > 1e-6:
        assert (non_inferiority(paired, margin) < 0.05) == (upper < margin)


def test_interval_without_flips_follows_rule_of_three():
    # With no flip in n images an exact 95 % bound is 1 - 0.05^(1/n), about 3/n (rule of three); the score bound is
    # z^2 / (n + z^2) with z = 1.645, which is 2.71/n.
    for n in (100, 3925, 10_000):
        upper = tango(Paired(n=n, b=0, c=0), 0.90).high
        assert upper == pytest.approx(100 * 2.705543 / (n + 2.705543), rel=1e-5)
        assert upper < 300 / n


@pytest.mark.parametrize(
    ("drop", "psi", "power", "images"),
    [
        (0.1, 0.01, 0.8, 61_824),
        (0.5, 0.01, 0.8, 2_471),
        (0.5, 0.01, 0.9, 3_422),
        (0.5, 0.02, 0.8, 4_944),
        (1.0, 0.05, 0.8, 3_090),
        (2.0, 0.10, 0.8, 1_544),
    ],
)
def test_images_needed_matches_connor(drop, psi, power, images):
    assert images_needed(drop, psi, power=power) == pytest.approx(images, abs=1)


def test_images_needed_against_margin_matches_closed_form():
    # (1.644854 sqrt(0.03 - 0.01^2) + 0.841621 sqrt(0.03))^2 / 0.01^2 = 1850.7
    assert images_needed(0.0, 0.03, margin_pp=1.0) == 1851


def test_images_needed_gives_requested_power():
    drop, psi, generator = 1.0, 0.03, np.random.default_rng(5)
    n = images_needed(drop, psi)
    b, c, _ = generator.multinomial(n, [(psi + drop / 100) / 2, (psi - drop / 100) / 2, 1 - psi], 4000).T
    assert np.mean((b - c) / np.sqrt(b + c) > 1.644854) == pytest.approx(0.8, abs=0.03)


def test_images_needed_rejects_drop_equal_to_margin():
    with pytest.raises(ValueError, match="itself"):
        images_needed(1.0, 0.02, margin_pp=1.0)


@pytest.mark.parametrize(("drop", "psi"), [(0.0, 0.02), (1.0, 0.02), (1.0, 0.05), (3.0, 0.08)])
def test_tango_interval_coverage(drop, psi):
    n, runs, generator = 1000, 1200, np.random.default_rng(11)
    b, c, _ = generator.multinomial(n, [(psi + drop / 100) / 2, (psi - drop / 100) / 2, 1 - psi], runs).T
    inside = []
    for lost, gained in zip(b, c, strict=True):
        # drop inside the 95 % interval <=> its score test does not reject
        inside.append(abs(score(Paired(n=n, b=int(lost), c=int(gained)), drop)) <= 1.959964)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("psi", [0.01, 0.02, 0.05])
def test_false_pass_and_fail_rates_at_margin_are_near_alpha(psi):
    n, runs, margin, generator = 2165, 3000, 1.0, np.random.default_rng(3)
    b, c, _ = generator.multinomial(n, [(psi + margin / 100) / 2, (psi - margin / 100) / 2, 1 - psi], runs).T
    scores = np.array([score(Paired(n=n, b=int(x), c=int(y)), margin) for x, y in zip(b, c, strict=True)])
    assert np.mean(scores < -1.644854) <= 0.065
    assert np.mean(scores > 1.644854) <= 0.065


def test_gate_passes_rejects_or_is_inconclusive():
    assert decide(Paired(n=10_000, b=20, c=15), 1.0).outcome is Outcome.PASS
    assert decide(Paired(n=10_000, b=400, c=100), 1.0).outcome is Outcome.FAIL
    open_question = decide(Paired(n=500, b=6, c=3), 1.0)
    assert open_question.outcome is Outcome.INCONCLUSIVE
    assert open_question.n_needed > 500
    assert str(open_question.n_needed) in open_question.sentence
    assert open_question.sentence.startswith("INCONCLUSIVE: drop 0.60 pp [")
    assert decide(Paired(n=10_000, b=20, c=15), 1.0).n_needed is None


def test_drop_equal_to_margin_has_no_images_needed():
    decision = decide(Paired(n=1000, b=20, c=10), 1.0)
    assert decision.outcome is Outcome.INCONCLUSIVE
    assert decision.n_needed is None


def test_gate_never_passes_with_too_few_images():
    assert decide(Paired(n=100, b=0, c=0), 1.0).outcome is Outcome.INCONCLUSIVE
    assert decide(Paired(n=300, b=0, c=0), 1.0).outcome is Outcome.PASS


@given(counts)
def test_images_needed_decide_the_test(paired):
    """Counts scaled up to the promised number of images leave the question open no longer."""
    decision = decide(paired, 1.0)
    if decision.n_needed is not None and decision.n_needed < 10**7 and paired.b + paired.c:
        factor = decision.n_needed // paired.n + 1
        more = Paired(n=paired.n * factor, b=paired.b * factor, c=paired.c * factor)
        assert decide(more, 1.0).outcome is not Outcome.INCONCLUSIVE


def test_interval_rises_with_lost_images():
    highs = [tango(Paired(n=500, b=b, c=5)).high for b in range(40)]
    assert all(a < b for a, b in pairwise(highs))
