"""Measurements of a network by its task: the float baseline, its chance level, and the figures of a stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from edgeres.artifacts.artifact import Baseline
from edgeres.artifacts.results import StageMetrics
from edgeres.tasks.registry import find_task
from edgeres.tasks.task import rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from edgeres.artifacts.head import Head
    from edgeres.artifacts.results import Rows
    from edgeres.data.chance import ChanceTest
    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.tasks.comparison import Comparison
    from edgeres.tasks.task import Array, Outputs, Task


_PIXELS = 1 << 18
"""Most pixels of the images of a batch for a network of maps."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What is kept of a network's outputs for the images of a split.

    ``kept`` is what judges them, ``sampled`` what is compared with float's; maps are never kept whole.
    """

    kept: Array
    sampled: Outputs


class Collector:
    """Collects the answers of some networks to the images of a split, batch by batch."""

    def __init__(self, task: Task, split: Split, preprocess: Preprocess, networks: int = 1) -> None:
        self._task = task
        self._truths = split.truths(preprocess) if task.maps else iter(())
        self._parts: list[list[tuple[Array, Outputs]]] = [[] for _ in range(networks)]

    def add(self, *outputs: Outputs) -> None:
        """Takes the outputs ``[n,...]`` of each network for the next images."""
        truths = list(islice(self._truths, len(outputs[0])))
        for parts, one in zip(self._parts, outputs, strict=True):
            parts.append((self._task.kept(one, truths), self._task.sampled(one)))

    def answers(self) -> tuple[Answers, ...]:
        """The answers of each network to all images."""
        return tuple(map(_joined, self._parts))


def _joined(parts: Sequence[tuple[Array, Outputs]]) -> Answers:
    sampled = np.concatenate([part for _, part in parts])
    same = all(kept is part for kept, part in parts)
    return Answers(sampled if same else np.concatenate([kept for kept, _ in parts]), sampled)


def batch_size(task: Task, preprocess: Preprocess, most: int) -> int:
    """Images of a batch; fewer where outputs are maps, whose size follows that of the images."""
    height, width = preprocess.crop
    return max(1, min(most, _PIXELS // (height * width))) if task.maps else most


def baseline_of(task: Task, batches: Iterable[Outputs], split: Split, preprocess: Preprocess) -> Baseline:
    """The baseline of a float network's outputs ``[n,...]``, in batches, for the images of a split."""
    labels = task.labels(split, preprocess)
    collector = Collector(task, split, preprocess)
    for outputs in batches:
        collector.add(outputs)
    predictions = task.predictions(collector.answers()[0].kept, labels)
    return Baseline(
        score=task.score(predictions, labels),
        predictions=rows(predictions),
        labels=rows(labels),
        images=split.digest,
    )


def with_threshold(head: Head, outputs: Callable[[Outputs], Outputs], preprocess: Preprocess, tuning: Split) -> Head:
    """The head with the threshold of its decisions, from the float outputs of the tuning images, where it has one."""
    task = find_task(head)
    if not task.calibrated or not len(tuning):
        return head
    answers = np.concatenate([outputs(images) for images, _ in tuning.batches(preprocess)])
    return replace(head, threshold=task.threshold(answers, task.labels(tuning, preprocess)))


def chance_of(task: Task, baseline: Baseline, classes: int) -> ChanceTest | None:
    """The baseline's score compared with that of answers that ignore the image; None where there is no such test."""
    return task.chance(np.asarray(baseline.predictions), np.asarray(baseline.labels), classes)


def compared(task: Task, before: Rows, after: Rows, labels: Rows) -> Comparison:
    """The paired comparison of two networks' predictions of the same images."""
    return task.compare(np.asarray(before), np.asarray(after), np.asarray(labels))


def score_of(task: Task, predictions: Rows, labels: Rows) -> float:
    """The metric of a task in percent."""
    return task.score(np.asarray(predictions), np.asarray(labels))


def indices(predictions: Rows) -> tuple[int, ...]:
    """Predictions that are class indices.

    Raises:
        ValueError: They are rows of figures.
    """
    if any(isinstance(value, tuple) for value in predictions):
        raise ValueError("predictions are rows of figures, not classes")
    return tuple(int(value) for value in predictions if not isinstance(value, tuple))


def metrics_of(task: Task, score: float) -> StageMetrics:
    """The metric of a task in the field of a stage's figures that has its name."""
    return StageMetrics(top1=score) if task.name == "classification" else StageMetrics(score=score)
