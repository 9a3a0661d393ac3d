"""``Evaluation``: accuracy and KL divergence of a quantized network on the tuning images, and paired comparisons.

Two candidates are compared by their KL divergence from float, image by image. One is significantly better where the
95 % interval, by Student's t over images, lies above zero

* of the mean of ``KL_i(before) - KL_i(after)``,
* or of the mean of ``log(KL_i(before) / KL_i(after))``, and the mean divergence is not larger either. A few images on
  which float is unsure have most of the divergence, so that the first mean resolves little; the ratio has the spread of
  rounding noise alone, and resolves finer differences.

Top-1 cannot resolve them: of 512 images a good candidate changes two or three predictions, in either direction by
chance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.gate.paired_test import Outcome

CONFIDENCE = 0.95
"""Confidence of every interval over images."""

NEGLIGIBLE = 1e-5
"""KL divergence in nats below which no further technique is tried.

By Pinsker's inequality the probabilities of the classes differ by at most ``sqrt(KL / 2)`` in total, here 0.22 %.
"""


_RESOLUTION = 1e-9
"""Divergences in nats below this are rounding errors of float32 logits."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Reduction of the KL divergence from float by a candidate, in nats.

    The mean over images, with the ends of its interval.
    """

    mean: float
    low: float
    high: float


def mean_interval(values: NDArray[np.float64]) -> Gain:
    """Mean of ``[N]`` with its interval by Student's t; infinite bounds for fewer than two values."""
    from scipy.stats import t

    mean, count = float(values.mean()), len(values)
    if count < 2:
        return Gain(mean, -np.inf, np.inf)
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * float(values.std(ddof=1)) / sqrt(count)
    return Gain(mean, mean - half, mean + half)


def nearer(some: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    """Whether divergences ``[N]`` are significantly smaller than others of the same images."""
    gain = mean_interval(others - some)
    ratio = np.log(np.maximum(others, _RESOLUTION) / np.maximum(some, _RESOLUTION))
    return gain.low > 0 or (gain.mean >= 0 and mean_interval(ratio).low > 0)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a candidate on the tuning images.

    Attributes:
        top1: Accuracy in percent.
        drop_pp: Float accuracy less this one.
        low_pp: Lower end of the gate's interval of the drop.
        high_pp: Upper end of it.
        agreement: Predictions equal to float's, in percent.
        divergences: KL divergence of the softmax from float's per image, in nats; float64 ``[N]``.
        sqnr_db: Signal to quantization noise of the logits in dB.
        integer: Number of weighted layers in integers.
        outcome: Outcome of the accuracy gate; None without a limit.
        doubtful: Whether the gate is INCONCLUSIVE with a drop over the limit, on images that would give PASS to a
            network without one.
        needed: Images on which a network without any drop would pass with a chance of 0.8.
    """

    top1: float
    drop_pp: float
    low_pp: float
    high_pp: float
    agreement: float
    divergences: NDArray[np.float64] = field(repr=False, compare=False)
    sqnr_db: float
    integer: int
    outcome: Outcome | None
    doubtful: bool
    needed: int | None

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.divergences)

    @cached_property
    def divergence(self) -> Gain:
        """Mean KL divergence from float in nats, with its interval; NaN where a logit is NaN."""
        return mean_interval(self.divergences)

    @property
    def kl(self) -> float:
        """Mean KL divergence from float in nats."""
        return self.divergence.mean

    @property
    def limit_missed(self) -> bool:
        """Whether the gate returns FAIL, or is INCONCLUSIVE with a drop over the limit on enough images."""
        return self.doubtful or str(self.outcome) == "FAIL"

    def better_than(self, other: Evaluation) -> bool:
        """Whether this candidate is significantly nearer to float; never for a network with NaN logits."""
        if not np.isfinite(self.divergences).all():
            return False
        if not np.isfinite(other.divergences).all():
            return True
        return nearer(self.divergences, other.divergences)
