"""Another order of the classes is found where it is there, and nowhere else."""

import numpy as np
import pytest

from edgeres.data.class_order import find_relabelling


def answers_of(outputs, accuracy, classes, seed=0):
    """Answers of a network right on a share of the images, wrong ones spread evenly."""
    random = np.random.default_rng(seed)
    known = random.random(len(outputs)) < accuracy
    return np.where(known, outputs, random.integers(0, classes, len(outputs)))


@pytest.mark.parametrize(("classes", "images"), [(2, 60), (10, 100), (10, 256), (100, 500)])
def test_the_order_of_the_outputs_is_found(classes, images):
    order = np.random.default_rng(3).permutation(classes)
    if classes == 2:
        order = np.array([1, 0])
    labels = np.arange(images) % classes
    found = find_relabelling(answers_of(order[labels], 0.75, classes), labels, classes)
    assert found is not None
    wrong = sum(a != b for a, b in zip(found.outputs, order, strict=True))
    assert wrong <= (0 if images >= 10 * classes else 0.1 * classes)
    assert found.after > 0.5 * images > found.before
    assert sorted(found.outputs) == list(range(classes))


def test_two_classes_that_changed_places_are_enough():
    order = np.array([1, 0, *range(2, 10)])
    labels = np.arange(256) % 10
    found = find_relabelling(answers_of(order[labels], 0.8, 10), labels, 10)
    assert found is not None
    assert found.outputs == tuple(order)
    assert found.names(tuple("abcdefghij")) == tuple("bacdefghij")


@pytest.mark.parametrize(("classes", "images"), [(2, 60), (10, 256), (10, 30), (1000, 512), (100, 300)])
@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.9])
def test_the_given_order_is_kept_where_it_is_right_or_nothing_is_known(classes, images, accuracy):
    labels = np.arange(images) % classes
    for seed in range(10):
        assert find_relabelling(answers_of(labels, accuracy, classes, seed), labels, classes) is None


def test_one_image_a_class_proves_no_order():
    order = np.random.default_rng(3).permutation(200)
    labels = np.arange(200)
    assert find_relabelling(answers_of(order[labels], 0.9, 200), labels, 200) is None


def test_names_stand_in_the_order_of_the_outputs():
    labels = np.arange(90) % 3
    found = find_relabelling(answers_of(np.array([2, 0, 1])[labels], 1.0, 3), labels, 3)
    assert found is not None
    assert found.names(("ant", "bee", "cow")) == ("bee", "cow", "ant")
