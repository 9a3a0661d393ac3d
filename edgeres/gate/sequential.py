"""The gate that stops as soon as it knows: two bets against the margin, valid at every look.

Each image says +1 (lost: only the original is right), -1 (gained: only the compressed network is right) or 0; the mean
of that is the drop. Whoever doubts that the drop is at least the margin ``m`` may bet at fair odds: starting with 1,
the wealth is multiplied by ``1 - stake (x - m)`` at each image. If the drop is at least ``m``, the wealth is a
supermartingale whatever the stakes, as long as each is chosen before its image is seen, so the chance that it ever
reaches ``1 / alpha`` is at most ``alpha`` (Ville's inequality). The same bet turned round, ``1 + stake (x - m)``,
doubts that the drop is at most ``m``. PASS is the first to be rich, FAIL the second: each is wrong with a chance of at
most ``alpha``, however often one looks, whatever the discordance is.

Sources: Waudby-Smith and Ramdas 2023, "Estimating means of bounded random variables by betting" (JRSS B 86:1,
arXiv 2010.09686), whose hedged capital this is; Kelly 1956 for the stake, which maximises the expected logarithm of the
wealth against a supposed truth: no drop for PASS, twice the margin for FAIL, with the discordance seen so far.
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
"""Images between two looks; the stakes stay the same in between."""
_SUPPOSED = 3.0, 33.0
"""Discordance supposed before the first image, in margins, and how many images that supposition is worth."""
_MOST = 0.95
"""Share of the wealth's reach that a stake may use: all of it would risk ruin by one image."""


@settings
class Sequential:
    """What a sequential test said.

    Attributes:
        outcome: PASS, FAIL, or INCONCLUSIVE when the images ran out.
        used: Images it looked at before it knew; all of them when it never did.
        n: Images there are.
        seed: Seed of their order.
        below: Greatest wealth against a drop of at least the margin; PASS from ``1 / alpha`` on.
        above: Greatest wealth against a drop of at most the margin; FAIL from ``1 / alpha`` on.
    """

    outcome: Outcome
    used: int
    n: int
    seed: int
    below: float
    above: float


@dataclass(frozen=True, slots=True)
class Bets:
    """Tests side by side, all after the same number of images.

    Attributes:
        images: Images seen.
        lost: Images lost in each test, ``[R]``.
        gained: Images gained, ``[R]``.
        below: Logarithm of the wealth against a drop of at least the margin, ``[R]``.
        above: Logarithm of the wealth against a drop of at most the margin, ``[R]``.
    """

    images: int
    lost: NDArray[np.float64]
    gained: NDArray[np.float64]
    below: NDArray[np.float64]
    above: NDArray[np.float64]

    @classmethod
    def none(cls, tests: int) -> Bets:
        """Before the first image: a wealth of 1 each."""
        zero = np.zeros(tests)
        return cls(0, zero, zero, zero, zero)

    def after(self, images: int, lost: NDArray[np.float64], gained: NDArray[np.float64], margin: float) -> Bets:
        """Bets on some more images.

        Args:
            images: How many.
            lost: Those lost in each test, ``[R]``.
            gained: Those gained, ``[R]``.
            margin: Drop that is still acceptable, as a share.
        """
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
        found: NDArray[np.float64] = (self.lost + self.gained + share * margin * worth) / (self.images + worth)
        return np.minimum(found, 1.0)

    def _stake_below(self, margin: float) -> NDArray[np.float64]:
        """Best against no drop at all."""
        half = self._discordance(margin) / 2
        return _kelly(half, half, -1, margin)

    def _stake_above(self, margin: float) -> NDArray[np.float64]:
        """Best against twice the margin, or against the drop seen so far where that is clearly more."""
        psi, worth = self._discordance(margin), _SUPPOSED[1]
        mean = (self.lost - self.gained + 2 * margin * worth) / (self.images + worth)
        sure = mean - 2 * np.sqrt(psi / (self.images + worth))
        drop = np.maximum(sure, 2 * margin)
        psi = np.maximum(psi, 1.05 * drop)
        return _kelly((psi + drop) / 2, (psi - drop) / 2, 1, margin)


def _kelly(lost: NDArray[np.float64], gained: NDArray[np.float64], side: int, margin: float) -> NDArray[np.float64]:
    """The stake that makes ``E log(1 + stake y)`` greatest, ``y = side (x - margin)``, for supposed chances ``[R]``.

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
    """Goes through recorded answers in a random order until it knows.

    Args:
        signs: 1 lost, -1 gained, 0 neither, ``[N]``.
        margin_pp: Drop that is still acceptable, in pp, above zero.
        alpha: Level of either verdict.
        seed: Seed of the order: a recorded order may have all images of a class in a row.
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
    # Wealth beyond any use is cut, so that it stays a number in JSON.
    return Sequential(
        outcome=outcome,
        used=bets.images,
        n=len(order),
        seed=seed,
        below=float(np.exp(min(below, 700.0))),
        above=float(np.exp(min(above, 700.0))),
    )
