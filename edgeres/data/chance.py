"""``Chance``: exact binomial test of a network's accuracy against chance.

Predictions that are independent of the labels get ``sum_k p_k q_k`` of the images right, ``p_k`` the share of label
``k`` and ``q_k`` the share of prediction ``k`` (the expected agreement of Cohen 1960). It is 1/classes where either is
uniform, the share of the commonest class where every prediction is that class, and never more than that share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Standing = Literal["above", "at", "unknown"]

_ALPHA = 0.01
"""Significance level of "above chance"."""

_DOUBT = 0.005
"""Probability that a working network is classified as "at chance"."""

_NEAR = 0.05  # share of the way from chance to 100 % that still counts as chance, at most twice chance
_WORKS = 0.15
"""Share of the way from chance to 100 % of the worst working network, which the test must distinguish from chance."""


_SHUFFLES = 199
"""Shuffles of the labels: the score of the network is then among the highest 1 % by chance once in 100 times."""


class ChanceTest(Protocol):
    """A score compared with that of answers that ignore the image."""

    @property
    def standing(self) -> Standing:
        """``above`` chance, ``at`` it, or ``unknown`` where there are too few images."""

    @property
    def label(self) -> str:
        """The comparison as text."""


@dataclass(frozen=True, slots=True)
class Shuffled:
    """Permutation test of a score in percent: its value, and those of shuffled labels (Fisher 1935).

    ``highest`` is the second highest of 199 shuffled ones, which answers that ignore the image exceed once in 100
    times; ``expected`` is their mean.
    """

    metric: str
    score: float
    images: int
    expected: float
    highest: float

    @classmethod
    def of(cls, metric: str, score: Callable[[NDArray[Any]], float], labels: NDArray[Any]) -> Shuffled:
        """Shuffles the labels ``[N,...]`` among the images, in an order that the number of images fixes."""
        rng = np.random.default_rng(len(labels))
        shuffled = sorted(score(rng.permutation(labels)) for _ in range(_SHUFFLES))
        return cls(metric, score(labels), len(labels), float(np.mean(shuffled)), shuffled[-2])

    @property
    def standing(self) -> Standing:
        """``above`` chance where the score exceeds the shuffled ones.

        It is ``at`` chance where a working network, 15 % of the way from chance to 100 %, would exceed them too.
        """
        if self.score > self.highest:
            return "above"
        return "at" if self.highest < self.expected + _WORKS * (100 - self.expected) else "unknown"

    @property
    def label(self) -> str:
        """The comparison as text."""
        return (
            f"{self.metric} {self.score:.1f} % on {self.images:,} images, "
            f"answers that ignore the image have {self.expected:.1f} %, and once in 100 times {self.highest:.1f} %"
        )


@dataclass(frozen=True, slots=True)
class PixelChance:
    """Pixel accuracy of each image, 0 to 1, and that of the same areas at places that ignore the image.

    ``low`` to ``high`` is the interval of the mean over images by Student's t, the lower bound at 99 %, the upper one
    at 99.5 %.
    """

    images: int
    accuracy: float
    expected: float
    low: float
    high: float

    @classmethod
    def of(cls, right: NDArray[Any], predicted: NDArray[Any], truth: NDArray[Any]) -> PixelChance:
        """Compares pixels ``[N,classes]`` that are right, predicted, and in the mask of each class and image."""
        from scipy.stats import t

        every = truth.sum(1)
        used = every > 0
        if used.sum() < 2:
            return cls(int(used.sum()), 0.0, 0.0, 0.0, 1.0)
        shares = predicted.sum(0) / max(1, predicted.sum())
        accuracies, chances = right[used].sum(1) / every[used], truth[used] @ shares / every[used]
        count, accuracy, expected = int(used.sum()), float(accuracies.mean()), float(chances.mean())
        gains = accuracies - chances
        error = float(gains.std(ddof=1)) / count**0.5
        low, high = (accuracy + float(t.ppf(level, count - 1)) * error for level in (_ALPHA, 1 - _DOUBT))
        return cls(count, accuracy, expected, low, high)

    @property
    def standing(self) -> Standing:
        """``above`` chance where the lower bound is 5 % of the way to 100 %, ``at`` it where the upper is below 15."""
        near = self.expected + min(_NEAR * (1 - self.expected), self.expected)
        if self.low > near:
            return "above"
        return "at" if self.high < self.expected + _WORKS * (1 - self.expected) else "unknown"

    @property
    def label(self) -> str:
        """The comparison as text."""
        return (
            f"{100 * self.accuracy:.1f} % of the pixels of {self.images:,} images right, "
            f"the same areas anywhere would be right on {100 * self.expected:.1f} %"
        )


@dataclass(frozen=True, slots=True)
class Chance:
    """Number of images and of correct predictions; ``expected`` is the share that independent ones get right."""

    right: int
    images: int
    expected: float

    @classmethod
    def of(cls, predictions: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> Chance:
        """Compares predictions ``[N]`` with labels ``[N]``, both below ``classes``."""
        count = len(labels)
        shares = [np.bincount(values, minlength=classes) / max(1, count) for values in (predictions, labels)]
        return cls(int((predictions == labels).sum()), count, float(shares[0] @ shares[1]))

    @property
    def standing(self) -> Standing:
        """``above`` chance, ``at`` (or near) it, or ``unknown`` where there are too few images.

        Above: accuracy exceeds near-chance by the one-sided exact binomial test at 1 %. At: it does not, and the upper
        Clopper-Pearson bound at 99.5 % is below the accuracy of a working network.
        """
        from scipy.stats import beta, binom

        if not self.images:
            return "unknown"
        near = self.expected + min(_NEAR * (1 - self.expected), self.expected)
        if binom.sf(self.right - 1, self.images, near) < _ALPHA:
            return "above"
        wrong = self.images - self.right
        upper = beta.ppf(1 - _DOUBT, self.right + 1, wrong) if wrong else 1.0
        return "at" if upper < self.expected + _WORKS * (1 - self.expected) else "unknown"

    @property
    def label(self) -> str:
        """The counts as text."""
        share = 100 * self.right / max(1, self.images)
        return (
            f"{self.right:,} of {self.images:,} images right ({share:.1f} %), "
            f"answers that ignore the image would be right on {100 * self.expected:.1f} %"
        )
