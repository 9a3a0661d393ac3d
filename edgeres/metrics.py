"""Accuracy, precision, IoU, agreement, signal to quantization noise and divergence of predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

_LEAST = 1e-7  # lower bound of a probability: float32 does not hold one nearer to 1


def predicted(logits: NDArray[np.float32], scored: Sequence[int] = ()) -> list[int]:
    """Class index of each row of logits ``[N,classes]``: the largest, of all or of the ``scored`` outputs."""
    if not scored:
        return [int(index) for index in logits.argmax(1)]
    columns = np.asarray(scored)
    return [int(index) for index in columns[logits[:, columns].argmax(1)]]


def top1(predictions: Sequence[int], labels: Sequence[int]) -> float:
    """Share of right answers in percent."""
    return agreement(predictions, labels)


def agreement(some: Sequence[int], others: Sequence[int]) -> float:
    """Share of images on which two lists of class indices are equal, in percent.

    Raises:
        ValueError: The lists differ in length, or there are no images.
    """
    if not len(some):
        raise ValueError("no predictions to compare")
    return 100 * sum(a == b for a, b in zip(some, others, strict=True)) / len(some)


def sqnr_db(reference: NDArray[np.float32], value: NDArray[np.float32]) -> float:
    """Signal to quantization noise, ``10 log10(sum r^2 / sum (r - v)^2)``, in dB over arrays of one shape.

    Infinite for equal arrays, minus infinite for noise without a signal.
    """
    exact = np.asarray(reference, dtype=np.float64)
    signal, noise = float(np.sum(exact**2)), float(np.sum((exact - value) ** 2))
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal else float("-inf")


def kl(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """Mean Kullback-Leibler divergence ``KL(softmax(reference) || softmax(logits))`` in nats, of ``[N,classes]``."""
    return float(np.mean(divergences(reference, logits)))


def divergences(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The same for each image, float64 ``[N]``; never below 0."""
    p, q = _log_softmax(reference), _log_softmax(logits)
    return np.asarray(np.maximum(np.sum(np.exp(p) * (p - q), axis=1), 0.0))


def cross_entropy(logits: NDArray[np.float32], labels: Sequence[int]) -> NDArray[np.float64]:
    """Loss ``[N]`` in nats of logits ``[N,classes]`` against class indices, image by image."""
    loss: NDArray[np.float64] = -_log_softmax(logits)[np.arange(len(labels)), np.asarray(labels)]
    return loss


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = np.asarray(logits, dtype=np.float64) - np.max(logits, axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True)))


def average_precision(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], counts: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Average precision ``[B]`` of one class, ``sum (R_k - R_(k-1)) P_k`` over its distinct scores ``[N]``.

    The definition is scikit-learn's ``average_precision_score``, without interpolation. ``counts`` ``[B,N]`` says how
    often each image occurs in each of ``B`` samples; None is once. NaN for a sample without a positive image.
    """
    order = np.argsort(-scores, kind="stable")
    weight = np.ones((1, len(scores))) if counts is None else counts[:, order]
    last = np.append(np.diff(scores[order]) != 0, True)  # of images with equal scores
    true = np.cumsum(weight * positive[order], axis=1)[:, last]
    precision = true / np.maximum(np.cumsum(weight, axis=1)[:, last], 1e-300)
    gained = np.diff(true, axis=1, prepend=0.0)
    with np.errstate(invalid="ignore"):
        area: NDArray[np.float64] = (gained * precision).sum(axis=1) / true[:, -1]
    return area


def mean_average_precision(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], counts: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Mean over classes of the average precision, in percent ``[B]``, of scores and labels ``[N,classes]``.

    Classes without a positive image in a sample are left out of its mean; NaN where that is every class.
    """
    by_class = [average_precision(*columns, counts) for columns in zip(scores.T, positive.T, strict=True)]
    present = np.isfinite(by_class)
    total = np.where(present, by_class, 0.0).sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = 100 * total / present.sum(axis=0)
    return mean


def f1(
    predicted: NDArray[np.bool_], positive: NDArray[np.bool_], counts: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Micro-averaged F1, ``2 TP / (2 TP + FP + FN)``, in percent ``[B]``, of decisions and labels ``[N,classes]``."""
    rows = [np.sum(one, axis=1, dtype=np.float64) for one in (predicted & positive, predicted, positive)]
    both, decided, true = (row.sum(keepdims=True) if counts is None else counts @ row for row in rows)
    score: NDArray[np.float64] = 200 * both / np.maximum(decided + true, 1e-300)
    return score


def bernoulli_divergences(reference: NDArray[np.float64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """``sum_c KL(Bernoulli(p_c) || Bernoulli(q_c))`` in nats ``[N]``, for probabilities ``[N,classes]``."""
    p, q = (np.clip(values, _LEAST, 1 - _LEAST) for values in (reference, probabilities))
    each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return np.asarray(np.maximum(each.sum(axis=1), 0.0))


def cosines(some: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of each pair of rows ``[N]`` of two arrays ``[N,D]``; 0 where a row is zero."""
    first, second = unit_rows(some), unit_rows(others)
    return np.asarray((first * second).sum(axis=1))


def unit_rows(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rows ``[N,D]`` divided by their Euclidean norms; rows of zeros stay."""
    wide = np.asarray(values, dtype=np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.where(norms == 0, 1.0, norms))


def class_areas(
    predicted: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]], classes: int, ignored: int
) -> NDArray[np.int64]:
    """Right and predicted pixels of each class in an image, int64 ``[2,classes]``, for predictions ``[H,W]``.

    Pixels whose truth is ``ignored`` do not count. They are the diagonal and the sums by prediction of the image's
    confusion matrix.
    """
    valid = truth != ignored
    first, second = predicted[valid], truth[valid]
    return np.stack([np.bincount(values, minlength=classes) for values in (first[first == second], first)])


def mean_iou(
    areas: NDArray[np.float64], truth: NDArray[np.float64], counts: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Mean over classes of the IoU, ``TP / (TP + FP + FN)`` over the pixels of all images, in percent ``[B]``.

    ``areas`` ``[N,2 classes]`` are the right and the predicted pixels of each class in each image, ``truth``
    ``[N,classes]`` those of its mask. ``counts`` ``[B,N]`` says how often each image occurs in each of ``B`` samples;
    None is once. Classes that no mask of a sample has are left out; NaN where that is every class
    (Everingham et al. 2015, IJCV 111:98, section 4.2.3).
    """
    weight = np.ones((1, len(areas))) if counts is None else counts
    right, predicted = np.split(weight @ areas, 2, axis=1)
    true = weight @ truth
    present = true > 0
    shares = np.where(present, right, 0.0) / np.where(present, predicted + true - right, 1.0)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = 100 * shares.sum(axis=1) / present.sum(axis=1)
    return mean


def pixel_accuracy(
    areas: NDArray[np.float64], truth: NDArray[np.float64], counts: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Share of the pixels of all images that are right, in percent ``[B]``, of areas as for the IoU."""
    weight = np.ones((1, len(areas))) if counts is None else counts
    right, every = (one.sum(axis=1) for one in (areas[:, : truth.shape[1]], truth))
    with np.errstate(invalid="ignore"):
        share: NDArray[np.float64] = 100 * (weight @ right) / (weight @ every)
    return share
