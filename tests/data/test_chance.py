"""Chance: a refusal needs images enough to know, and an honest network is never refused."""

import numpy as np
import pytest

from edgeres.data.chance import Chance


def standing(predictions, labels, classes):
    return Chance.of(np.asarray(predictions, dtype=np.int64), np.asarray(labels, dtype=np.int64), classes).standing


@pytest.mark.parametrize(("classes", "images"), [(2, 1000), (10, 400), (10, 3925), (1000, 3000)])
def test_answers_that_ignore_the_image_are_at_chance(classes, images):
    labels = np.arange(images) % classes
    for seed in range(20):
        random = np.random.default_rng(seed)
        assert standing(random.integers(0, classes, images), labels, classes) == "at"
    assert standing(np.zeros(images, int), labels, classes) == "at"


def test_the_commonest_class_every_time_is_chance_whatever_its_share():
    labels = np.arange(3000) % 10 // 8  # four fifths are class 0
    chance = Chance.of(np.zeros(3000, np.int64), labels, 2)
    assert chance.expected == pytest.approx(0.8)
    assert chance.standing == "at"


def test_less_than_the_commonest_class_may_be_far_from_chance():
    """Nine in ten images are of one class; a network that gets 85 % of either class right is a good one."""
    labels = np.repeat([0, 1], [900, 100])
    answers = np.where(np.arange(1000) % 20 < 3, 1 - labels, labels)
    assert (answers == labels).mean() < 0.9
    assert standing(answers, labels, 2) == "above"


def test_hardly_better_than_chance_is_chance():
    labels = np.arange(4000) % 10
    turn = np.arange(4000) // 10
    answers = np.where(turn % 50 == 1, labels, (labels + turn) % 10)
    share = (answers == labels).mean()
    assert 0.11 < share < 0.13
    assert standing(answers, labels, 10) == "at"


@pytest.mark.parametrize(("classes", "images", "accuracy"), [(2, 400, 0.62), (10, 200, 0.3), (1000, 3000, 0.01)])
def test_a_weak_network_is_above_chance(classes, images, accuracy):
    labels = np.arange(images) % classes
    for seed in range(20):
        random = np.random.default_rng(seed)
        known = random.random(images) < accuracy
        answers = np.where(known, labels, (labels + random.integers(1, classes, images)) % classes)
        assert standing(answers, labels, classes) != "at"


@pytest.mark.parametrize(("classes", "images", "right"), [(2, 40, 20), (3, 20, 7), (10, 12, 1), (1000, 10, 0)])
def test_few_images_decide_nothing_against_a_network(classes, images, right):
    labels = np.arange(images) % classes
    answers = np.where(np.arange(images) < right, labels, (labels + 1) % classes)
    assert standing(answers, labels, classes) == "unknown"


def test_no_images_and_one_class_say_nothing():
    assert standing([], [], 5) == "unknown"
    assert standing([0] * 100, [0] * 100, 2) == "unknown"


def test_false_alarms_on_networks_that_work_are_rare():
    """A network 15 % of the way from chance to all right is called "at chance" once in 200 times at most."""
    random = np.random.default_rng(5)
    for classes, images in ((2, 400), (10, 100), (100, 100)):
        labels = np.arange(images) % classes
        accuracy = 1 / classes + 0.15 * (1 - 1 / classes)
        alarms = 0
        for _ in range(1000):
            known = random.random(images) < accuracy
            answers = np.where(known, labels, (labels + random.integers(1, classes, images)) % classes)
            alarms += standing(answers, labels, classes) == "at"
        assert alarms <= 12
