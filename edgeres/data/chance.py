"""``Chance``: exact binomial test of a network's accuracy against chance.

Predictions that are independent of the labels get ``sum_k p_k q_k`` of the images right, ``p_k`` the share of label
``k`` and ``q_k`` the share of prediction ``k`` (the expected agreement of Cohen 1960). It is 1/classes where either is
uniform, the share of the commonest class where every prediction is that class, and never more than that share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Standing = Literal["above", "at", "unknown"]

_ALPHA = 0.01
"""Significance level of "above chance"."""

_DOUBT = 0.005
"""Probability that a working network is classified as "at chance"."""

_NEAR = 0.05  # share of the way from chance to 100 % that still counts as chance, at most twice chance
_WORKS = 0.15
"""Share of the way from chance to 100 % of the worst working network, which the test must distinguish from chance."""


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
