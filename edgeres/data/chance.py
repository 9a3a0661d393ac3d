"""``Chance``: whether answers know more of the labels than chance, by one exact binomial test.

Answers that are independent of the labels get ``sum_k p_k q_k`` of the images right, ``p_k`` the share of label ``k``
and ``q_k`` the share of answer ``k`` (the expected agreement of Cohen 1960). It is 1/classes where either is spread
evenly, the share of the commonest class where every answer is that class, and never more than that share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Standing = Literal["above", "at", "unknown"]

_ALPHA = 0.01
"""Level of the test that says "above chance"."""

_DOUBT = 0.005
"""Chance that a network that works is called "at chance"."""

_NEAR = 0.05
"""Share of the way from chance to all right that still counts as chance, twice chance at most."""

_WORKS = 0.15
"""Share of the way that a network which works has come at least; the test must be able to tell it from chance."""


@dataclass(frozen=True, slots=True)
class Chance:
    """How many answers are right, and how many would be by chance.

    Attributes:
        right: Images answered rightly.
        images: Images in all.
        expected: Share that answers independent of the labels would get right.
    """

    right: int
    images: int
    expected: float

    @classmethod
    def of(cls, predictions: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> Chance:
        """Counts predictions ``[N]`` against labels ``[N]``, both below ``classes``."""
        count = len(labels)
        shares = [np.bincount(values, minlength=classes) / max(1, count) for values in (predictions, labels)]
        return cls(int((predictions == labels).sum()), count, float(shares[0] @ shares[1]))

    @property
    def standing(self) -> Standing:
        """``above`` chance, ``at`` (or near) it, or ``unknown`` where the images are too few to tell.

        Above: accuracy is beyond near-chance, one-sided exact binomial test at 1 %. At: it is not, and the upper
        Clopper-Pearson bound at 99.5 % excludes what a network that works would reach.
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
        """The counts in a few words."""
        share = 100 * self.right / max(1, self.images)
        return (
            f"{self.right:,} of {self.images:,} images right ({share:.1f} %), "
            f"answers that ignore the image would be right on {100 * self.expected:.1f} %"
        )
