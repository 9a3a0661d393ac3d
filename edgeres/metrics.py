"""Accuracy, agreement, signal to quantization noise and divergence of predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


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
