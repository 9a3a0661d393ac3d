"""``Evaluator``: compares quantized networks with the float network, image by image, on tuning images.

Tuning images are disjoint from calibration and from validation images.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np

from edgeres.errors import StageError
from edgeres.metrics import sqnr_db
from edgeres.model.cost import macs, shapes
from edgeres.model.network import Network
from edgeres.quant.streaming import each_image
from edgeres.tasks.kinds.classification import Classification
from edgeres.tasks.measure import Answers, Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.gate.paired_test import Outcome
    from edgeres.model.graph import Graph
    from edgeres.model.weights import Weights
    from edgeres.progress import Progress
    from edgeres.quant.quantized import Quantized
    from edgeres.tasks.task import Task

CONFIDENCE = 0.95  # confidence of every interval over images
NEGLIGIBLE = 1e-5  # KL divergence in nats below which no further technique is tried: by Pinsker's inequality the
# probabilities of the classes differ by at most sqrt(KL / 2) in total, here 0.22 %
_RESOLUTION = 1e-9  # divergences in nats below this are rounding errors of float32 logits


@dataclass(frozen=True, slots=True)
class Gain:
    """Reduction of the divergence from float by a candidate: mean over images, with its interval."""

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
    """Whether divergences ``[N]`` are significantly smaller than others of the same images.

    The 95 % interval, by Student's t over images, lies above zero for the mean of ``KL_i(others) - KL_i(some)``, or for
    the mean of ``log(KL_i(others) / KL_i(some))`` where the mean divergence is not larger either. A few images on which
    float is unsure have most of the divergence, so that the first mean resolves little; the ratio has the spread of
    rounding noise alone.
    """
    gain = mean_interval(others - some)
    ratio = np.log(np.maximum(others, _RESOLUTION) / np.maximum(some, _RESOLUTION))
    return gain.low > 0 or (gain.mean >= 0 and mean_interval(ratio).low > 0)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a candidate on the tuning images.

    ``score`` is the task's metric in percent, ``drop_pp`` float's less this one, with the gate's interval;
    ``agreement`` is the percentage of predictions equal to float's; ``divergences`` float64 ``[N]`` are from float's
    outputs per image, for a classifier the KL divergence of the softmax in nats;
    ``integer`` is the number of weighted layers in integers. ``outcome`` is the gate's, None without a limit;
    ``doubtful`` says that it is INCONCLUSIVE with a drop over the limit, on images that would give PASS to a network
    without one; ``needed`` is the number of images on which a network without any drop would pass with a chance of 0.8.
    """

    score: float
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
    task: type[Task] = Classification

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.divergences)

    @cached_property
    def divergence(self) -> Gain:
        """Mean divergence from float, with its interval; NaN where an output is NaN."""
        return mean_interval(self.divergences)

    @property
    def kl(self) -> float:
        """Mean divergence from float."""
        return self.divergence.mean

    @property
    def top1(self) -> float | None:
        """The score of a classifier; None for any other task."""
        return self.score if self.task is Classification else None

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


SCREENED = 64
"""Tuning images on which all variants of a technique are compared; the nearest are then compared on twice as many."""

_GROUP, _CACHED = 16, 1 << 20
"""Most images of a group that goes through a network together, and most bytes of their largest activation."""


class Evaluator:
    """Evaluates candidates for one network.

    ``split`` are tuning images with labels, ``task`` says what the outputs are, ``margin`` is the allowed drop of its
    score in percentage points; None allows any.

    Raises:
        StageError: There are no tuning images, or the float network's logits are not finite.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Weights,
        split: Split,
        preprocess: Preprocess,
        *,
        task: Task,
        margin: float | None,
        progress: Progress,
    ) -> None:
        if not len(split):
            raise StageError(
                "there are no tuning images to judge candidates on", "a tenth of the training images serves: give more"
            )
        self.split, self.preprocess, self.margin, self.progress = split, preprocess, margin, progress
        self.task, self.labels = task, task.labels(split, preprocess)
        sizes = shapes(graph, *preprocess.crop)
        self._group = max(1, min(_GROUP, _CACHED // (4 * max(prod(shape) for shape in sizes.values()))))
        start = time.monotonic()
        answers = self._answers(Network(graph, weights), split, "float on the tuning images")
        self.reference, self._kept = answers.sampled, answers.kept
        if not np.isfinite(self.reference).all():
            raise StageError("the float network returns NaN or infinity", "check its weights")
        self.pass_s = (time.monotonic() - start) / len(split)
        """Seconds of one float image, decoding included, from which the predicted times of techniques follow."""
        self.macs_per_s = macs(graph, *preprocess.crop) / self.pass_s
        """MACs per second of that image, for work that is proportional to weights and not to images."""

    @property
    def few(self) -> Split:
        """The images on which single layers are compared."""
        return self.split.take(range(min(SCREENED, len(self.split))))

    def nearest(self, variants: Mapping[str, Quantized], label: str) -> tuple[str, dict[str, float]]:
        """Name of the variant nearest to float, by racing (Maron and Moore 1994), and the mean divergence of each.

        All variants are compared on the first ``SCREENED`` images. Those significantly worse than the nearest are
        dropped, and the number of images doubles, until one is left or all images were used. A divergence is infinite
        where an output is NaN.
        """
        means: dict[str, float] = {}
        seen: dict[str, NDArray[np.float64]] = {name: np.empty(0) for name in variants}
        start, stop = 0, min(SCREENED, len(self.split))
        while True:
            some = self.split.take(range(start, stop))
            for name, before in seen.items():
                answers = self._answers(variants[name].network(), some, f"{label}: {name}")
                fresh = self.task.divergences(self.reference[start:stop], answers.sampled)
                seen[name] = np.concatenate([before, np.where(np.isnan(fresh), np.inf, fresh)])
            means |= {name: float(fresh.mean()) for name, fresh in seen.items()}
            seen = _not_beaten(seen)
            if len(seen) == 1 or stop == len(self.split):
                return next(iter(seen)), {name: means[name] for name in variants}
            start, stop = stop, min(2 * stop, len(self.split))

    def evaluation(self, quantized: Quantized, label: str) -> Evaluation:
        """Metrics of a candidate on all tuning images."""
        answers = self._answers(quantized.network(), self.split, label)
        task, labels = self.task, self.labels
        before, after = (task.predictions(kept, labels) for kept in (self._kept, answers.kept))
        comparison, margin = task.compare(before, after, labels), self.margin
        decision = comparison.decide(margin) if margin is not None else None
        interval = decision.interval if decision else comparison.interval(0.9)
        return Evaluation(
            score=task.score(after, labels),
            drop_pp=comparison.drop,
            low_pp=interval.low,
            high_pp=interval.high,
            agreement=task.agreement(before, after),
            divergences=task.divergences(self.reference, answers.sampled),
            sqnr_db=sqnr_db(self.reference, answers.sampled),
            integer=len(quantized.placement.weighted),
            outcome=decision.outcome if decision else None,
            doubtful=margin is not None and comparison.doubtful(margin),
            needed=comparison.needed(margin) if margin is not None else None,
            task=type(task),
        )

    def images(self, split: Split) -> Iterator[NDArray[np.float32]]:
        """Preprocessed images of a split in batches."""
        return (batch for batch, _ in split.batches(self.preprocess))

    def _answers(self, network: Network, split: Split, label: str) -> Answers:
        """Answers to the images, in groups of a fixed size, so that they do not depend on the batch size."""
        collector = Collector(self.task, split, self.preprocess)
        with self.progress.task(label, len(split)) as advance:
            for logits in each_image(network, self.images(split), Network.__call__, advance, group=self._group):
                collector.add(logits.numpy())
        return collector.answers()[0]


def _not_beaten(seen: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Variants that the nearest does not significantly beat; the nearest comes first, of equals the earlier."""
    best = min(seen, key=lambda name: float(seen[name].mean()))
    remaining = {best: seen[best]}
    for name, values in seen.items():
        if name != best and np.isfinite(values).all() and not nearer(seen[best], values):
            remaining[name] = values
    return remaining
