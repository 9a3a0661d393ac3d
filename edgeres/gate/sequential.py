"""Sequential gate: two e-processes (bets against the margin), which are valid at every look.

Each image says +1 (lost: only the original is right), -1 (gained: only the compressed network is right) or 0; the mean
of that is the drop. A bet against the hypothesis that the drop is at least the margin ``m`` starts with wealth 1; the
wealth is multiplied by ``1 - stake (x - m)`` at each image. If the hypothesis holds, the wealth is a supermartingale
whatever the stakes, as long as each is chosen before its image is seen, so the chance that it ever reaches ``1 /
alpha`` is at most ``alpha`` (Ville's inequality). The opposite bet, ``1 + stake (x - m)``, is against the hypothesis
that the drop is at most ``m``. PASS is returned once the first wealth reaches ``1 / alpha``, FAIL once the second does:
each is wrong with probability at most ``alpha``, however often the test looks and whatever the discordance.

Sources: Waudby-Smith and Ramdas 2023, "Estimating means of bounded random variables by betting" (JRSS B 86:1,
arXiv 2010.09686), whose hedged capital this is; Kelly 1956 for the stake, which maximises the expected logarithm of the
wealth under an assumed drop: zero for PASS, twice the margin for FAIL, with the discordance seen so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

import numpy as np

from edgeres.gate.paired_test import Outcome
from edgeres.settings import settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOOK = 20
"""Images between two looks; stakes are constant in between."""
_SUPPOSED = 3.0, 33.0
"""Prior of the discordance: its value in margins, and its weight in images."""
_MOST = 0.95
"""Largest stake as a share of the one that a single image could ruin."""


@settings
class Sequential:
    """Result of a sequential test of ``n`` images, of which it ``used`` some; INCONCLUSIVE where it used all.

    ``below`` and ``above`` are the greatest wealth against a drop of at least, and at most, the margin.
    """

    outcome: Outcome
    used: int
    n: int
    seed: int
    below: float
    above: float


@dataclass(frozen=True, slots=True)
class Bets:
    """State of ``R`` parallel tests after the same number of images: lost and gained ones in each, ``[R]``.

    ``below`` and ``above`` are the logarithms of their wealth against a drop of at least, and at most, the margin.
    """

    images: int
    lost: NDArray[np.float64]
    gained: NDArray[np.float64]
    below: NDArray[np.float64]
    above: NDArray[np.float64]

    @classmethod
    def none(cls, tests: int) -> Bets:
        """Initial state: wealth 1 in each test."""
        zero = np.zeros(tests)
        return cls(0, zero, zero, zero, zero)

    def after(self, images: int, lost: NDArray[np.float64], gained: NDArray[np.float64], margin: float) -> Bets:
        """State after some more images, of which each test lost and gained some, ``[R]``; the margin is a share."""
        same = images - lost - gained
        stake = self._stake_below(margin)
        below = lost * np.log1p(-stake * (1 - margin)) + gained * np.log1p(stake * (1 + margin))
        below += same * np.log1p(stake * margin)
        stake = self._stake_above(margin)
        above = lost * np.log1p(stake * (1 - margin)) + gained * np.log1p(-stake * (1 + margin))
        above += same * np.log1p(-stake * margin)
        return Bets(
            self.images + images, self.lost + lost, self.gained + gained, self.below + below, self.above + above
        )

    def _discordance(self, margin: float) -> NDArray[np.float64]:
        share, worth = _SUPPOSED
        discordance: NDArray[np.float64] = (self.lost + self.gained + share * margin * worth) / (self.images + worth)
        return np.minimum(discordance, 1.0)

    def _stake_below(self, margin: float) -> NDArray[np.float64]:
        """Stakes of the PASS bets: optimal if there is no drop."""
        half = self._discordance(margin) / 2
        return _kelly(half, half, -1, margin)

    def _stake_above(self, margin: float) -> NDArray[np.float64]:
        """Stakes of the FAIL bets: optimal at twice the margin, or at the observed drop where it is clearly larger."""
        psi, images = self._discordance(margin), self.images + _SUPPOSED[1]
        mean = (self.lost - self.gained + 2 * margin * _SUPPOSED[1]) / images
        drop = np.maximum(mean - 2 * np.sqrt(psi / images), 2 * margin)
        psi = np.maximum(psi, 1.05 * drop)
        return _kelly((psi + drop) / 2, (psi - drop) / 2, 1, margin)


def _kelly(lost: NDArray[np.float64], gained: NDArray[np.float64], side: int, margin: float) -> NDArray[np.float64]:
    """Kelly stake: maximises ``E log(1 + stake y)``, ``y = side (x - margin)``, for assumed probabilities ``[R]``.

    Its derivative ``sum p y / (1 + stake y) = 0`` is a quadratic in the stake for three values of ``y``.
    """
    high, none, low = side * (1 - margin), -side * margin, side * (-1 - margin)
    same = 1 - lost - gained
    mean = lost * high + same * none + gained * low
    linear = lost * high * (none + low) + same * none * (high + low) + gained * low * (high + none)
    root = np.sqrt(np.maximum(0.0, linear**2 - 4 * high * none * low * mean))
    best: NDArray[np.float64] = 2 * mean / (root - linear)
    return np.clip(best, 0.0, _MOST / (1 + side * margin))


def sequential(signs: NDArray[np.int8], margin_pp: float, *, alpha: float = 0.05, seed: int = 0) -> Sequential:
    """Sequential test of recorded predictions ``[N]``: 1 lost, -1 gained, 0 neither; the margin is above zero.

    The seed gives their order, since recorded images may be sorted by class.
    """
    order = np.random.default_rng(seed).permutation(signs)
    bets, rich = Bets.none(1), -log(alpha)
    outcome, below, above = Outcome.INCONCLUSIVE, 0.0, 0.0
    for start in range(0, len(order), LOOK):
        block = order[start : start + LOOK]
        lost, gained = np.array([float((block == sign).sum()) for sign in (1, -1)]).reshape(2, 1)
        bets = bets.after(len(block), lost, gained, margin_pp / 100)
        below, above = max(below, float(bets.below[0])), max(above, float(bets.above[0]))
        if max(below, above) >= rich:
            outcome = Outcome.PASS if below >= rich else Outcome.FAIL
            break
    wealth_below, wealth_above = (
        float(np.exp(min(logarithm, 700.0))) for logarithm in (below, above)
    )  # a number in JSON too
    return Sequential(
        outcome=outcome, used=bets.images, n=len(order), seed=seed, below=wealth_below, above=wealth_above
    )
