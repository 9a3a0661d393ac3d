"""Multi-label: any number of classes is right, and every output is the logit of one class by itself."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from edgeres.data.chance import Shuffled
from edgeres.errors import DataError
from edgeres.gate.bootstrap import Bootstrap
from edgeres.metrics import bernoulli_divergences, f1, mean_average_precision
from edgeres.tasks.comparison import Comparison, Resampled, Scored
from edgeres.tasks.task import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.tasks.task import Array, Outputs

    Counts = NDArray[np.float64]

_HALF = 0.5


class Multilabel(Task):
    """Mean average precision of logits ``[N,classes]``; the divergence is the sum of the sigmoids' KL."""

    name = "multilabel"
    metric = "mAP"
    divergence = "KL of the sigmoids"
    calibrated = True
    label_kind = "several"

    def check_head(self, classes: Sequence[str], outputs: int) -> None:
        """One output for each class of the labels."""
        if len(classes) != outputs:
            what = f"the labels name {len(classes)} classes, and the network has {outputs} outputs"
            raise DataError(what, "give a column for each output, in the order of the outputs")

    def labels(self, split: Split, preprocess: Preprocess) -> Array:
        """1 for each class of an image, 0 elsewhere, ``[N,classes]``."""
        if not split.annotations:
            what = f"the {split.name} images have one class each, and --task multilabel takes any number of them"
            raise DataError(what, "pass --data FILE.csv with a column of paths and one of 0 and 1 for each class")
        return np.asarray(split.annotations, dtype=np.float64)

    def predictions(self, outputs: Outputs, labels: Array) -> Array:
        """The outputs as they are: mAP orders them, and a threshold decides on them."""
        return np.asarray(outputs, dtype=np.float64)

    def score(self, predictions: Array, labels: Array) -> float:
        """Mean average precision over the classes that have an image, in percent."""
        return float(mean_average_precision(predictions, labels > _HALF)[0])

    def divergences(self, reference: Outputs, outputs: Outputs) -> NDArray[np.float64]:
        """Sum over the classes of the KL of their sigmoids, in nats ``[N]``."""
        return bernoulli_divergences(self._probabilities(reference), self._probabilities(outputs))

    def _probabilities(self, outputs: Outputs) -> NDArray[np.float64]:
        from scipy.special import expit

        wide = np.asarray(outputs, dtype=np.float64)
        return wide if self.probabilities else np.asarray(expit(wide))

    def direction(self, outputs: Tensor, signs: Tensor) -> Tensor:
        """``sqrt(p (1 - p)) e`` for signs ``e``: its covariance is the curvature of the sigmoids' KL."""
        p = outputs.sigmoid()
        return (p * (1 - p)).sqrt() * signs

    def compare(self, before: Array, after: Array, labels: Array) -> Comparison:
        """The drop of mAP, by the bootstrap over images."""
        positive = labels > _HALF

        def drop(counts: Counts) -> NDArray[np.float64]:
            first, second = (mean_average_precision(one, positive, counts) for one in (before, after))
            return np.asarray(first - second)

        return Resampled(Bootstrap.of(drop, len(labels)))

    def agreement(self, before: Array, after: Array) -> float:
        """Share of images whose outputs are in the same order, the first of them, in percent."""
        return float(100 * np.mean(before.argmax(1) == after.argmax(1)))

    def threshold(self, outputs: Outputs, labels: Array) -> float | None:
        """The threshold of highest micro-averaged F1; None without a positive label."""
        scores, positive = np.asarray(outputs, dtype=np.float64).ravel(), (labels > _HALF).ravel()
        if not positive.any():
            return None
        order = np.argsort(-scores, kind="stable")
        last = np.append(np.diff(scores[order]) != 0, True)
        true = np.cumsum(positive[order])[last]
        decided = np.flatnonzero(last) + 1
        best = int(np.argmax(2 * true / (decided + positive.sum())))
        edge = scores[order][last]
        # Half-way to the next lower score, so that a rounding error does not move an image over it.
        return float((edge[best] + edge[best + 1]) / 2 if best + 1 < len(edge) else edge[best])

    def further(
        self, before: Array, after: Array, labels: Array, threshold: float | None, classes: Sequence[str]
    ) -> tuple[Scored, ...]:
        """Micro-averaged F1 at the threshold of the tuning images."""
        if threshold is None:
            return ()
        positive = labels > _HALF
        decided = [one > threshold for one in (before, after)]
        scores = [partial(f1, one, positive) for one in decided]
        drop = Bootstrap.of(lambda counts: np.asarray(scores[0](counts) - scores[1](counts)), len(labels))
        first, second = (float(score()[0]) for score in scores)
        return (Scored(f"F1 at {threshold:.4g}", first, second, drop.interval()),)

    def chance(self, predictions: Array, labels: Array, classes: int) -> Shuffled:
        """The score compared with those of labels that are shuffled among the images."""
        score = partial(self.score, predictions)
        return Shuffled.of("mAP", score, labels)


TASK = Multilabel
