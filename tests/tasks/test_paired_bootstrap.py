"""The bootstrap gate: few false verdicts, no false certainty on few images, and planted damage does not pass."""

import numpy as np
import pytest

from edgeres.data.chance import Shuffled
from edgeres.errors import UsageError
from edgeres.gate.bootstrap import Bootstrap, decide, images_needed
from edgeres.gate.paired_test import Outcome, Paired, tango
from edgeres.tasks.judgement import PairedPredictions, judge
from edgeres.tasks.kinds.multilabel import Multilabel
from edgeres.tasks.task import rows


def scores(rng, images, noise, classes=4):
    """Labels, and scores of a network and of one whose scores have some noise added."""
    labels = (rng.random((images, classes)) < 0.4).astype(float)
    before = labels + rng.normal(0, 0.6, labels.shape)
    return before, before + rng.normal(0, noise, labels.shape) if noise else before.copy(), labels


def test_equal_outputs_have_the_interval_of_as_many_images_without_a_flip():
    found = Multilabel().compare(*scores(np.random.default_rng(0), 64, 0.0))
    least = tango(Paired(n=64, b=0, c=0), 0.9)
    assert found.drop == 0
    assert found.interval(0.9).high == pytest.approx(least.high)
    assert found.decide(1.0).outcome is Outcome.INCONCLUSIVE
    assert found.decide(1.0).n_needed == found.needed(1.0) == 268


def test_a_network_passes_against_itself():
    found = Multilabel().compare(*scores(np.random.default_rng(0), 400, 0.0))
    assert found.decide(1.0).outcome is Outcome.PASS


@pytest.mark.parametrize("seed", range(3))
def test_damage_beyond_the_margin_fails(seed):
    before, after, labels = scores(np.random.default_rng(seed), 500, 0.8)
    found = Multilabel().compare(before, after, labels)
    assert found.decide(1.0).outcome is Outcome.FAIL
    assert found.drop > 5


def test_false_verdicts_at_the_margin_are_rare():
    """A true drop of the margin is the worst case: PASS and FAIL are each wrong with a chance of about 5 %."""
    truth = np.random.default_rng(99)
    before, after, labels = scores(truth, 40_000, 0.25)
    exact = Bootstrap.of(_drop(before, after, labels), len(labels), samples=2).drop
    runs, wrong = 60, {Outcome.PASS: 0, Outcome.FAIL: 0}
    for seed in range(runs):
        drawn = scores(np.random.default_rng(seed), 300, 0.25)
        outcome = decide(Bootstrap.of(_drop(*drawn), 300, samples=300), exact).outcome
        if outcome in wrong:
            wrong[outcome] += 1
    assert max(wrong.values()) / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def _drop(before, after, labels):
    from edgeres.metrics import mean_average_precision

    return lambda counts: (
        mean_average_precision(before, labels > 0.5, counts) - mean_average_precision(after, labels > 0.5, counts)
    )


def test_the_mean_of_values_has_the_interval_of_the_t_statistic_nearly():
    values = np.random.default_rng(3).normal(2, 5, 500)
    found = Bootstrap.of(lambda counts: counts @ values / counts.sum(1), 500).interval(0.95)
    half = 1.96 * values.std(ddof=1) / np.sqrt(500)
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half) or found.low < values.mean() - half
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half) or found.high > values.mean() + half


def test_images_needed_shrink_with_the_square_of_the_distance():
    boot = Multilabel().compare(*scores(np.random.default_rng(0), 300, 0.5)).samples
    near, far = images_needed(boot, 0.0, 1.0), images_needed(boot, 0.0, 2.0)
    assert near == pytest.approx(4 * far, rel=0.01)
    assert images_needed(boot, 1.0, 1.0) is None


def test_the_gate_judges_multilabel_and_refuses_shuffled_labels():
    before, after, labels = scores(np.random.default_rng(0), 400, 0.05)
    paired = PairedPredictions("float", rows(labels), rows(before), rows(after), "multilabel")
    found = judge(paired, 1.0)
    assert (found.outcome, found.metric, found.lost, found.power) == (Outcome.PASS, "mAP", None, None)
    with pytest.raises(UsageError, match="--sequential takes images that are right or wrong"):
        judge(paired, 1.0, seed=0)
    shuffled = rows(np.random.default_rng(1).permutation(labels))
    found = judge(PairedPredictions("float", shuffled, rows(before), rows(after), "multilabel"), 1.0)
    assert found.outcome is not Outcome.PASS
    assert "answers that ignore the image" in found.warnings[0]


def test_a_permutation_test_knows_chance():
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 3)) < 0.5).astype(float)
    task = Multilabel()
    assert task.chance(rng.random((300, 3)), labels, 3).standing == "at"
    assert task.chance(labels + rng.normal(0, 1, labels.shape), labels, 3).standing == "above"
    assert task.chance(rng.random((4, 3)), labels[:4], 3).standing == "unknown"
    assert isinstance(task.chance(labels, labels, 3), Shuffled)
