"""Metrics of tasks against scikit-learn and closed forms, with ties and repeated images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from edgeres.data.preprocess import Preprocess
from edgeres.data.split import Split
from edgeres.errors import DataError
from edgeres.metrics import average_precision, bernoulli_divergences, cosines, f1, mean_average_precision
from edgeres.tasks.kinds.binary import Binary
from edgeres.tasks.kinds.classification import Classification
from edgeres.tasks.kinds.embedding import Embedding
from edgeres.tasks.kinds.multilabel import Multilabel
from edgeres.tasks.registry import task_kind, tasks


@given(st.integers(0, 10_000), st.integers(2, 40), st.sampled_from([1, 3, 100]))
@settings(max_examples=40, deadline=None)
def test_average_precision_equals_scikit_learns_with_ties(seed, count, levels):
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, levels, count) / levels, rng.random(count) < 0.4
    positive[0] = True
    assert average_precision(scores, positive)[0] == pytest.approx(average_precision_score(positive, scores))


def test_counts_weigh_images_as_repeating_them_does():
    rng = np.random.default_rng(0)
    scores, positive = rng.random((30, 4)), rng.random((30, 4)) < 0.4
    counts = rng.integers(0, 3, (5, 30)).astype(float)
    for row, found in zip(counts, mean_average_precision(scores, positive, counts), strict=True):
        repeated = np.repeat(np.arange(30), row.astype(int))
        assert found == pytest.approx(mean_average_precision(scores[repeated], positive[repeated])[0])
    decided = scores > 0.5
    for row, found in zip(counts, f1(decided, positive, counts), strict=True):
        repeated = np.repeat(np.arange(30), row.astype(int))
        assert found == pytest.approx(100 * f1_score(positive[repeated], decided[repeated], average="micro"))


def test_classes_without_an_image_are_left_out_of_the_mean():
    scores, positive = np.array([[0.9, 0.1], [0.2, 0.3]]), np.array([[True, False], [False, False]])
    assert mean_average_precision(scores, positive)[0] == 100


def test_bernoulli_divergence_is_that_of_two_classes():
    reference, outputs = np.array([[1.5], [-0.3]], np.float32), np.array([[1.0], [0.4]], np.float32)
    by_sigmoid = Multilabel().divergences(reference, outputs)
    by_softmax = Binary().divergences(reference, outputs)
    assert by_sigmoid == pytest.approx(by_softmax)
    assert bernoulli_divergences(np.full((2, 3), 0.3), np.full((2, 3), 0.3)) == pytest.approx([0, 0])


def test_probabilities_and_logits_are_the_same_network():
    logits = np.array([[2.0], [-1.0]], np.float32)
    probabilities = 1 / (1 + np.exp(-logits))
    labels = np.array([1, 0])
    for task in (Binary, Multilabel):
        direct, through = task(), task(probabilities=True)
        assert direct.divergences(logits, logits * 0.9) == pytest.approx(
            through.divergences(probabilities, 1 / (1 + np.exp(-logits * np.float32(0.9)))), rel=1e-4
        )
    assert Binary(probabilities=True).predictions(probabilities, labels).tolist() == [1, 0]


def test_cosine_of_a_row_of_zeros_is_zero():
    assert cosines(np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[6.0, 8.0], [1.0, 0.0]])).tolist() == [1.0, 0.0]


def test_recall_finds_the_nearest_other_image():
    outputs = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0.8, 0.6]], np.float32)
    task, split = Embedding(), Split("validation", tuple("abcde"), (0, 0, 1, 1, 2))
    labels = task.labels(split, Preprocess())
    assert labels.tolist() == [0, 0, 1, 1, -1]
    predictions = task.predictions(outputs, labels)
    assert task.score(predictions, labels) == 100
    assert task.compare(predictions, predictions, labels).n == 4
    assert task.predictions(outputs * 7, labels).tolist() == predictions.tolist()


def test_threshold_is_the_one_of_highest_f1():
    rng = np.random.default_rng(1)
    outputs, labels = rng.normal(size=(60, 3)), (rng.random((60, 3)) < 0.3).astype(float)
    outputs += 2 * labels
    threshold = Multilabel().threshold(outputs, labels)
    every = [float(f1(outputs > edge, labels > 0)[0]) for edge in outputs.ravel() - 1e-9]
    assert float(f1(outputs > threshold, labels > 0)[0]) == pytest.approx(max(every))


@pytest.mark.parametrize("kind", [Classification, Binary, Multilabel, Embedding])
def test_directions_have_the_curvature_of_the_divergence_as_their_covariance(kind):
    """To second order the divergence of noise n is ``n^T E[r r^T] n / 2``, for 1 - cosine as for KL."""
    task, rng = kind(), np.random.default_rng(0)
    width = 1 if kind is Binary else 4
    outputs = rng.normal(size=(1, width)).astype(np.float64)
    signs = torch.tensor([[1.0 - 2 * ((n >> bit) & 1) for bit in range(width)] for n in range(1 << width)])
    rows = task.direction(torch.tensor(outputs).expand(len(signs), -1), signs.double()).numpy()
    curvature = rows.T @ rows / len(rows)
    for _ in range(5):
        noise = 1e-3 * rng.normal(size=(1, width))
        expected = float((noise @ curvature @ noise.T)[0, 0]) / 2
        assert task.divergences(outputs, outputs + noise)[0] == pytest.approx(expected, rel=0.02)


def test_every_task_is_found_by_its_name():
    assert set(tasks()) >= {"classification", "binary", "multilabel", "embedding"}
    with pytest.raises(Exception, match="multilabel"):
        task_kind("multi-label")


def test_heads_that_do_not_fit_the_labels_are_refused():
    with pytest.raises(DataError, match="one logit, and the network has 5"):
        Binary().check_head(("a", "b"), 5)
    with pytest.raises(DataError, match="3 classes, and one logit"):
        Binary().check_head(("a", "b", "c"), 1)
    with pytest.raises(DataError, match="2 classes, and the network has 3 outputs"):
        Multilabel().check_head(("a", "b"), 3)
    with pytest.raises(DataError, match="one class each"):
        Multilabel().labels(Split("validation", ("a",), (0,)), Preprocess())
