"""``Trial``: logits of a network for labelled images under one transform, and paired comparison of two trials.

Logits are divided by the temperature that fits the labels best before the cross-entropy (Guo et al. 2017, arXiv
1706.04599). Otherwise a stronger contrast, which makes a network more confident and not more accurate, would be chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from edgeres.data.chance import Chance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeres.data.preprocess import Preprocess

_ALPHA = 0.01  # one-sided significance level at which one trial's loss is larger than another's
_LOG_SCALES = (-18.0, 7.0)
"""Search interval of the natural logarithm of the inverse temperature, for logits of 1e-3 to 1e7."""

_TIE = 1e-6  # nats within which two losses are equal: the precision of the search for the temperature
_LEAST = 1e-12  # lower bound of a float32 softmax's probabilities


@dataclass(frozen=True)
class Trial:
    """Logits ``[N,classes]`` under one transform, in the order of the images, and their labels ``[N]``."""

    preprocess: Preprocess
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]

    @cached_property
    def loss(self) -> NDArray[np.float64]:
        """Cross-entropy of each image's label in nats ``[N]``, at the best temperature."""
        from scipy.optimize import minimize_scalar
        from scipy.special import log_softmax

        wide = _centred(self.logits)
        rows = np.arange(len(self.labels))

        def loss(log_scale: float) -> NDArray[np.float64]:
            return np.asarray(-log_softmax(wide * np.exp(log_scale), axis=1)[rows, self.labels])

        best = minimize_scalar(
            lambda log_scale: float(loss(log_scale).mean()),
            bounds=_LOG_SCALES,
            method="bounded",
            options={"xatol": 1e-3},
        )
        return loss(best.x)

    @cached_property
    def mean_loss(self) -> float:
        """Mean of ``loss``."""
        return float(self.loss.mean())

    @cached_property
    def predictions(self) -> NDArray[np.int64]:
        """Class index per image ``[N]``; NaN logits count as class 0, as in ``argmax``."""
        return np.asarray(_centred(self.logits).argmax(1), dtype=np.int64)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each image is predicted correctly ``[N]``."""
        return np.asarray(self.predictions == self.labels)

    @property
    def top1(self) -> float:
        """Accuracy in percent."""
        return float(100 * self.right.mean())

    @property
    def chance(self) -> Chance:
        """The accuracy compared with chance."""
        return Chance.of(self.predictions, self.labels, self.logits.shape[1])

    @property
    def label(self) -> str:
        """The transform and its accuracy as text."""
        return f"{self.preprocess.label}: {self.top1:.1f} % of {len(self.labels)}, loss {self.mean_loss:.3g}"

    def joined(self, rest: Trial) -> Trial:
        """The trial with further images appended."""
        logits = np.concatenate([self.logits, rest.logits])
        return Trial(self.preprocess, logits, np.concatenate([self.labels, rest.labels]))

    def first(self, count: int) -> Trial:
        """The first images alone."""
        return Trial(self.preprocess, self.logits[:count], self.labels[:count])

    def worse_than(self, other: Trial) -> bool:
        """Whether this trial's loss is significantly larger, by a one-sided paired t-test at 1 %."""
        from scipy.stats import t

        difference = self.loss - other.loss
        count = len(difference)
        if count < 2:
            return False
        error = float(difference.std(ddof=1)) / count**0.5
        return bool(difference.mean() > t.ppf(1 - _ALPHA, count - 1) * error + _TIE)

    def less_right_than(self, other: Trial) -> bool:
        """Whether this trial has significantly fewer correct predictions.

        The images that only one of the two predicts correctly split within two standard errors under the null
        hypothesis, twice the square root of their number (McNemar 1947).
        """
        lead = int(other.right.sum()) - int(self.right.sum())
        return lead > 0 and lead**2 > 4 * int((self.right != other.right).sum())


def choose(trials: Sequence[Trial]) -> Trial:
    """The trial of the smallest loss, or the first that does not differ from it significantly.

    Trials are in order of frequency, so the more usual transform wins a tie. Trials with significantly fewer correct
    predictions than the best are excluded.
    """
    most = max(trials, key=lambda trial: int(trial.right.sum()))
    able = [trial for trial in trials if not trial.less_right_than(most)]
    best = min(able, key=lambda trial: trial.mean_loss)
    return next(trial for trial in able if not trial.worse_than(best))


def _centred(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits less their largest ``[N,classes]``; probabilities of a softmax output are converted to logits.

    A row with NaN becomes zeros.
    """
    wide = logits.astype(np.float64)
    wide[~np.isfinite(wide).all(axis=1)] = 0
    sums = wide.sum(axis=1)
    if wide.size and wide.min() >= 0 and np.allclose(sums, 1, atol=1e-3):
        wide = np.log(np.maximum(wide, _LEAST))
    return np.asarray(wide - wide.max(axis=1, keepdims=True))
