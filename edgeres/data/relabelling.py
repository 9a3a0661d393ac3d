"""``Relabelling``: another order of the classes that a network's answers fit far better, proven on held-out images.

Class folders are numbered in sorted order, and a network's outputs in the order of its training. Where the two differ,
every answer is counted as another class. The best order is a linear assignment (Kuhn 1955) on the confusion matrix of
labelled images. It always fits the images it was found on at least as well as the given one, so that it counts only
what it gets right on images left out of the assignment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FOLDS = 5
"""Parts of the images; each is judged by the order found on the others."""

_ALPHA = 1e-3
"""One-sided level at which the other order is better: an exact sign test on the images only one order gets right."""

GAIN = 0.05
"""Least gain in accuracy on the images left out: what is less is a confusion of the network's own."""

_TIE = 1e-6
"""Weight of the given order, so that a class that no image speaks of stays where it is."""


@dataclass(frozen=True, slots=True)
class Relabelling:
    """Another order of the classes.

    Attributes:
        outputs: Output of the network for each class index of the data.
        before: Images right in the given order.
        after: Images right in the other order, each judged by an order found without it.
        images: Images in all.
    """

    outputs: tuple[int, ...]
    before: int
    after: int
    images: int

    @property
    def share(self) -> float:
        """Share of the images right in the other order."""
        return self.after / self.images

    def names(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the data's classes in the order of the network's outputs."""
        ordered = [""] * len(classes)
        for name, output in zip(classes, self.outputs, strict=True):
            ordered[output] = name
        return tuple(ordered)


def find_relabelling(
    answers: NDArray[np.int64], labels: NDArray[np.int64], classes: int, tests: int = 1
) -> Relabelling | None:
    """Looks for an order of the classes that fits far better.

    Args:
        answers: Predicted class of each image ``[N]``.
        labels: Class index of each image ``[N]``.
        classes: Number of classes.
        tests: How many networks or transforms are looked at; the level is divided by it (Bonferroni).

    Returns:
        None where no other order is better by the test, or by enough.
    """
    from scipy.stats import binom

    count = len(labels)
    fold = _folds(labels)
    right = np.zeros(count, dtype=bool)
    for part in range(_FOLDS):
        held = fold == part
        outputs = _assigned(answers[~held], labels[~held], classes)
        right[held] = answers[held] == outputs[labels[held]]
    given = answers == labels
    gained, lost = int((right & ~given).sum()), int((given & ~right).sum())
    if gained - lost < GAIN * count or binom.sf(gained - 1, gained + lost, 0.5) >= _ALPHA / tests:
        return None
    outputs = _assigned(answers, labels, classes)
    return Relabelling(tuple(int(output) for output in outputs), int(given.sum()), int(right.sum()), count)


def _folds(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Fold of each image ``[N]``: the images of a class go to the folds in turn."""
    seen: dict[int, int] = {}
    folds = np.zeros(len(labels), dtype=np.int64)
    for index, label in enumerate(labels.tolist()):
        seen[label] = seen.get(label, -1) + 1
        folds[index] = (seen[label] + label) % _FOLDS
    return folds


def _assigned(answers: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Output of each class ``[classes]``, one output a class, that make the most answers right."""
    from scipy.optimize import linear_sum_assignment

    matrix = _TIE * np.eye(classes)
    np.add.at(matrix, (labels, answers), 1)
    _, outputs = linear_sum_assignment(matrix, maximize=True)
    return np.asarray(outputs, dtype=np.int64)
