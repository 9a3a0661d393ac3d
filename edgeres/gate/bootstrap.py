"""Paired bootstrap over images, for metrics that are no mean over images: mAP, F1, mIoU.

Images are drawn with replacement, with the outputs of both networks together, and the drop is computed on every sample.
The interval is BCa (Efron 1987, JASA 82:171): percentiles that are corrected for bias by the share of samples below the
measured drop, and for skewness by the jackknife, with images in at most 200 groups (Efron and Tibshirani 1993,
chapters 11 and 14). Where no sample differs, the bootstrap sees no error, though the images are few: the interval is
never narrower than Tango's of as many images without a single flip.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, isfinite
from typing import TYPE_CHECKING

import numpy as np

from edgeres.gate.paired_test import Decision, Interval, Outcome, Paired, tango

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Drop = Callable[[NDArray[np.float64]], NDArray[np.float64]]
    """Drops ``[B]`` in pp of samples that hold each image as often as ``counts`` ``[B,N]`` says."""

SEED = 20_260_101
"""Seed of the samples, which is part of the recorded method: equal outputs have equal intervals."""
SAMPLES = 2_000
_GROUPS = 200
_CELLS = 1 << 21
"""Most elements of the counts of one batch of samples: 16 MiB."""
_POWER = 0.8


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """The measured drop in pp of ``n`` images, and those of the samples ``[B]``, sorted, without undefined ones.

    ``acceleration`` is the ``a`` of BCa, a sixth of the skewness of the jackknife's drops.
    """

    n: int
    drop: float
    samples: NDArray[np.float64]
    acceleration: float

    @classmethod
    def of(cls, drop: Drop, n: int, *, samples: int = SAMPLES, seed: int = SEED) -> Bootstrap:
        """Draws the samples, in the same order for the same seed and number of images."""
        rng, batch = np.random.default_rng([seed, n]), max(1, _CELLS // n)
        drawn: list[NDArray[np.float64]] = []
        for start in range(0, samples, batch):
            count = min(batch, samples - start)
            drawn.append(drop(rng.multinomial(n, np.full(n, 1 / n), size=count).astype(np.float64)))
        every = np.concatenate(drawn)
        measured = float(drop(np.ones((1, n)))[0])
        return cls(n, measured, np.sort(every[np.isfinite(every)]), _acceleration(drop, n))

    @property
    def error(self) -> float:
        """Standard error of the drop, in pp."""
        return float(self.samples.std(ddof=1)) if len(self.samples) > 1 else inf

    def interval(self, confidence: float = 0.95) -> Interval:
        """BCa interval of the drop, and at least as wide as that of as many images without a flip."""
        least = tango(Paired(n=self.n, b=0, c=0), confidence).high
        low, high = self.drop - least, self.drop + least
        if len(self.samples) > 1:
            tail = (1 - confidence) / 2
            low, high = min(low, self._quantile(tail)), max(high, self._quantile(1 - tail))
        return Interval(low=low, high=high, confidence=confidence)

    def _quantile(self, level: float) -> float:
        from scipy.stats import norm

        below = float(np.mean(self.samples < self.drop) + np.mean(self.samples == self.drop) / 2)
        edge = 1 / (2 * len(self.samples))
        bias = float(norm.ppf(np.clip(below, edge, 1 - edge)))
        shifted = bias + float(norm.ppf(level))
        scaled = bias + shifted / max(1 - self.acceleration * shifted, 1e-6)
        return float(np.quantile(self.samples, norm.cdf(scaled)))


def _acceleration(drop: Drop, n: int) -> float:
    """``sum d^3 / (6 (sum d^2)^1.5)`` of the jackknife's deviations ``d``; 0 where nothing deviates."""
    groups = np.arange(n) % min(n, _GROUPS)
    without = (groups[None, :] != np.arange(groups.max() + 1)[:, None]).astype(np.float64)
    values = drop(without)
    values = values[np.isfinite(values)]
    if len(values) < 3:
        return 0.0
    deviations = values.mean() - values
    square = float((deviations**2).sum())
    return float((deviations**3).sum() / (6 * square**1.5)) if square > 0 else 0.0


def images_needed(bootstrap: Bootstrap, drop_pp: float, margin_pp: float, alpha: float = 0.05) -> int | None:
    """Images that distinguish a true drop from the margin with a power of 0.8, the error shrinking with their root.

    None where the two are equal, or where no error is known.
    """
    from scipy.stats import norm

    if drop_pp == margin_pp or not isfinite(bootstrap.error):
        return None
    z = float(norm.isf(alpha)) + float(norm.ppf(_POWER))
    spread = bootstrap.n * (z * bootstrap.error / (margin_pp - drop_pp)) ** 2
    least = float(norm.isf(alpha)) ** 2 * (100 - margin_pp) / margin_pp  # so few cannot pass without a flip either
    return ceil(max(spread, least))


def decide(bootstrap: Bootstrap, margin_pp: float, alpha: float = 0.05) -> Decision:
    """Tests the drop against a margin above zero: PASS or FAIL where the ``1 - 2 alpha`` interval is on one side."""
    interval, outcome, needed = bootstrap.interval(1 - 2 * alpha), Outcome.INCONCLUSIVE, None
    if interval.high < margin_pp:
        outcome = Outcome.PASS
    elif interval.low > margin_pp:
        outcome = Outcome.FAIL
    elif (images := images_needed(bootstrap, bootstrap.drop, margin_pp, alpha)) is not None:
        needed = max(bootstrap.n + 1, images)
    sentence = (
        f"{outcome}: drop {bootstrap.drop:.2f} pp [{interval.low:.2f}, {interval.high:.2f}] "
        f"({interval.confidence:.0%} BCa bootstrap interval, {bootstrap.n} images, {len(bootstrap.samples)} samples of "
        f"seed {SEED}) against a margin of {margin_pp:g} pp"
    )
    if needed is not None:
        sentence += f"; about {needed} images would settle it"
    return Decision(outcome=outcome, interval=interval, n_needed=needed, sentence=sentence)
