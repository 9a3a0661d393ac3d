"""Order of the data's classes among a network's outputs, found from its predictions.

Where the data's order is not the network's, every prediction is counted as another class. The best order for some
labelled images is a linear assignment (Kuhn 1955) on their confusion matrix. It always fits these images at least as
well as the present one, so only its accuracy on images left out of the assignment counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FOLDS = 5  # number of cross-validation folds
_ALPHA = 1e-3  # one-sided significance level of the exact sign test on images that only one order gets right
GAIN = 0.05  # least gain in accuracy on held-out images; smaller ones are confusions of the network
_TIE = 1e-6  # weight of the present order, so that a class without images keeps its index


@dataclass(frozen=True, slots=True)
class Relabelling:
    """A class order that fits a network's predictions significantly better: the output for each class of the data.

    ``before`` is the number of images right in the present order, ``after`` in the other one, each under an order found
    without it.
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
        return tuple(classes[index] for index in np.argsort(self.outputs))


def find_relabelling(
    answers: NDArray[np.int64], labels: NDArray[np.int64], classes: int, tests: int = 1
) -> Relabelling | None:
    """The class order that fits predictions ``[N]`` to labels ``[N]`` better by ``GAIN``, significantly; None without.

    ``tests`` is the number of tested networks or transforms, which divides the level (Bonferroni).
    """
    from scipy.stats import binom

    count = len(labels)
    fold = _folds(labels)
    right = np.zeros(count, dtype=bool)
    for part in range(_FOLDS):
        held = fold == part
        outputs = _assigned(answers[~held], labels[~held], classes)
        right[held] = answers[held] == outputs[labels[held]]
    before = answers == labels
    gained, lost = int((right & ~before).sum()), int((before & ~right).sum())
    if gained - lost < GAIN * count or binom.sf(gained - 1, gained + lost, 0.5) >= _ALPHA / tests:
        return None
    outputs = _assigned(answers, labels, classes)
    return Relabelling(tuple(int(output) for output in outputs), int(before.sum()), int(right.sum()), count)


def _folds(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Fold of each image ``[N]``, stratified by class."""
    seen: dict[int, int] = {}
    folds = np.zeros(len(labels), dtype=np.int64)
    for index, label in enumerate(labels.tolist()):
        seen[label] = seen.get(label, -1) + 1
        folds[index] = (seen[label] + label) % _FOLDS
    return folds


def _assigned(answers: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Output of each class ``[classes]``, one per class, that maximises the number of correct predictions."""
    from scipy.optimize import linear_sum_assignment

    matrix = _TIE * np.eye(classes)
    np.add.at(matrix, (labels, answers), 1)
    _, outputs = linear_sum_assignment(matrix, maximize=True)
    return np.asarray(outputs, dtype=np.int64)
