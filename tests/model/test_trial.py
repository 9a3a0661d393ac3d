"""Two transforms are compared by what the same images cost under each."""

import numpy as np
import pytest

from edgeres.data.preprocess import Preprocess
from edgeres.model.trial import Trial, choose

LABELS = np.arange(120) % 4


def trial(share, scale=5.0, crop=32, seed=0, noise=1.0):
    """Answers that are right on a share of the images, with a margin of ``scale`` and normal noise."""
    random = np.random.default_rng(seed)
    said = np.where(random.random(len(LABELS)) < share, LABELS, (LABELS + 1) % 4)
    logits = scale * np.eye(4)[said] + noise * random.normal(size=(len(LABELS), 4))
    return Trial(Preprocess(resize=crop, crop=crop), logits.astype(np.float32), LABELS)


def test_a_clear_lead_beats_custom():
    ahead, usual = trial(0.9, crop=64), trial(0.5)
    assert choose([usual, ahead]) is ahead


def test_within_noise_the_more_usual_wins_in_either_order():
    first, second = trial(0.7, seed=1), trial(0.71, seed=2, crop=64)
    assert not first.worse_than(second)
    assert not second.worse_than(first)
    assert choose([first, second]) is first
    assert choose([second, first]) is second


def test_contrast_alone_wins_nothing():
    """The same answers ten thousand times as loud cost the same."""
    quiet = trial(0.8)
    loud = Trial(Preprocess(crop=64), quiet.logits * 1e4, LABELS)
    assert loud.loss.mean() == pytest.approx(quiet.loss.mean(), abs=1e-4)
    assert choose([quiet, loud]) is quiet


def test_loss_sees_what_accuracy_cannot():
    """The same images right under both; of the wrong ones, one is hardly and the other utterly wrong."""
    wrong = np.arange(120) % 6 == 0
    said = np.where(wrong, (LABELS + 1) % 4, LABELS)
    hardly, utterly = (
        Trial(Preprocess(crop=crop), (np.where(wrong, margin, 5.0)[:, None] * np.eye(4)[said]).astype("f"), LABELS)
        for crop, margin in ((64, 0.5), (32, 5.0))
    )
    np.testing.assert_array_equal(hardly.right, utterly.right)
    assert utterly.worse_than(hardly)
    assert choose([utterly, hardly]) is hardly


def test_fewer_right_answers_beyond_noise_rule_a_transform_out():
    right = trial(0.9, noise=0.1)
    logits = right.logits.copy()
    logits[:60] += 20 * np.eye(4)[(LABELS[:60] + 2) % 4]  # wrong on half of the images
    wrong = Trial(Preprocess(crop=64), logits, LABELS)
    assert wrong.less_right_than(right)
    assert not right.less_right_than(wrong)


def test_answers_that_know_nothing_cost_the_logarithm_of_the_classes():
    constant = Trial(Preprocess(), np.tile(np.array([1e6, 0, 0, 0], "f"), (120, 1)), LABELS)
    assert constant.loss.mean() == pytest.approx(np.log(4), abs=1e-3)
    broken = Trial(Preprocess(), np.full((120, 4), np.nan, "f"), LABELS)
    np.testing.assert_allclose(broken.loss, np.log(4))


def test_a_graph_that_ends_in_a_softmax_is_judged_like_its_logits():
    plain = trial(0.8)
    wide = plain.logits.astype(np.float64)
    probabilities = np.exp(wide) / np.exp(wide).sum(1, keepdims=True)
    ended = Trial(Preprocess(), probabilities.astype(np.float32), LABELS)
    np.testing.assert_allclose(ended.loss, plain.loss, rtol=2e-3, atol=2e-3)


def test_joined_images_stand_in_their_order():
    whole = trial(0.8)
    parts = [Trial(whole.preprocess, whole.logits[part], LABELS[part]) for part in (slice(0, 50), slice(50, 120))]
    joined = parts[0].joined(parts[1])
    np.testing.assert_array_equal(joined.logits, whole.logits)
    assert joined.top1 == whole.top1


def test_labels_say_the_transform_and_its_result():
    text = trial(1.0, noise=0).label
    assert text.startswith("resize 32, crop 32, mean 0.485/0.456/0.406, std 0.229/0.224/0.225: 100.0 % of 120")
