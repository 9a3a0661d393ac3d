"""What the gate says of answers: nobody is accused of noise, and planted regressions do not pass."""

import numpy as np
import pytest

from edgeres.gate.paired_test import Outcome, images_needed, power
from edgeres.gate.predictions import Answers
from edgeres.settings import digest
from edgeres.tasks.judgement import PairedPredictions, judge

CLASSES = 10


def compared(random, n=4000, accuracy=0.9, lost=0.0, gained=0.0, reference="float"):
    """Answers of a network, and of one that loses and gains that share of the images."""
    labels = random.integers(0, CLASSES, n)
    before = np.where(random.random(n) < accuracy, labels, (labels + 1) % CLASSES)
    draw = random.random(n)
    after = before.copy()
    after[(before == labels) & (draw < lost / accuracy)] += 1
    after = np.where((before != labels) & (draw < gained / (1 - accuracy)), labels, after % CLASSES)
    return PairedPredictions(reference, *(tuple(column.tolist()) for column in (labels, before, after)))


def test_gate_passes_identical_predictions():
    found = judge(compared(np.random.default_rng(0), n=500), 1.0)
    assert (found.outcome, found.exit_code) == (Outcome.PASS, 0)
    assert (found.lost, found.gained, found.changed, found.warnings) == (0, 0, 0, ())


def test_gate_rarely_fails_equally_accurate_networks():
    """A/A: the same accuracy, different images. At a margin this small FAIL is a test of any drop at level 5 %."""
    runs = 400
    found = [judge(compared(np.random.default_rng(seed), 2000, 0.9, 0.02, 0.02), 0.001) for seed in range(runs)]
    share = sum(one.outcome is Outcome.FAIL for one in found) / runs
    assert share <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
    assert sum(one.p_worse < 0.05 for one in found) / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
    at_margin = [judge(compared(np.random.default_rng(seed), 2000, 0.9, 0.02, 0.02), 1.0) for seed in range(runs)]
    assert not any(one.outcome is Outcome.FAIL for one in at_margin)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", [None, 0])
def test_gate_rejects_drop_above_margin(seed, kind):
    found = judge(compared(np.random.default_rng(seed), lost=0.05, gained=0.01), 1.0, seed=kind)
    assert (found.outcome, found.exit_code) == (Outcome.FAIL, 3)


def test_gate_does_not_pass_shuffled_labels():
    c = compared(np.random.default_rng(0), n=500)
    labels = tuple(np.random.default_rng(1).permutation(c.labels).tolist())
    found = judge(PairedPredictions("float", labels, c.before, c.after), 1.0)
    assert (found.outcome, found.exit_code) == (Outcome.INCONCLUSIVE, 5)
    assert "check the labels" in found.sentence
    assert len(found.warnings) == 1


def test_single_class_is_not_chance_level():
    zeros = (0,) * 500
    assert judge(PairedPredictions("float", zeros, zeros, zeros), 1.0).outcome is Outcome.PASS


def test_changed_accuracy_warns_for_baseline_only():
    better = judge(compared(np.random.default_rng(0), gained=0.03, reference="baseline"), 1.0)
    assert better.outcome is Outcome.PASS
    assert "pp higher than the baseline" in better.warnings[0]
    worse = judge(compared(np.random.default_rng(0), lost=0.005, reference="baseline"), 1.0)
    assert worse.outcome is Outcome.PASS
    assert "pp lower than the baseline" in worse.warnings[0]
    assert judge(compared(np.random.default_rng(0), lost=0.005), 1.0).warnings == ()


def test_baseline_is_compared_on_shared_images():
    hashes = [digest(index) for index in range(8)]
    ours = Answers.of("a", hashes, [0] * 8, [0] * 8, [0] * 7 + [1])
    theirs = Answers.of("b", hashes[::-1][:6], [0] * 6, [2] * 6, [3] + [0] * 5)
    c = PairedPredictions.with_baseline(ours, theirs)
    assert (c.before, c.after) == ((0, 0, 0, 0, 0, 3), (0, 0, 0, 0, 0, 1))
    assert c.reference == "baseline"


def test_sequential_test_decides_with_seed():
    c = compared(np.random.default_rng(0), lost=0.005, gained=0.005)
    found = judge(c, 1.0, seed=0)
    assert found.sequential.outcome is found.outcome is Outcome.PASS
    assert found.sequential.used < found.n == 4000
    assert f"decided after {found.sequential.used} of 4000 images" in found.sentence
    assert judge(c, 1.0).sequential is None


@pytest.mark.parametrize("psi", [0.01, 0.05])
def test_power_inverts_images_needed(psi):
    n = images_needed(0.0, psi, margin_pp=1.0, power=0.8)
    assert power(n, 0.0, psi, margin_pp=1.0) == pytest.approx(0.8, abs=1e-3)
    assert power(n - 1, 0.0, psi, margin_pp=1.0) < 0.8 <= power(n, 0.0, psi, margin_pp=1.0)


def test_power_matches_simulated_pass_rate():
    runs = 300
    found = [judge(compared(np.random.default_rng(seed), 2000, 0.9, 0.01, 0.01), 1.0) for seed in range(runs)]
    share = sum(one.outcome is Outcome.PASS for one in found) / runs
    assert share == pytest.approx(power(2000, 0.0, 0.02, margin_pp=1.0), abs=0.06)
