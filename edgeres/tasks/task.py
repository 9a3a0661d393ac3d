"""``Task``: what the outputs of a network mean, how they are scored, and how far they are from float."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeres.data.chance import Chance, ChanceTest
from edgeres.gate.paired_test import Paired
from edgeres.metrics import agreement, top1
from edgeres.tasks.comparison import Comparison, Hits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.artifacts.results import Rows
    from edgeres.data.dataset import LabelKind
    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.tasks.comparison import Scored

    Outputs = NDArray[np.float32]
    """Outputs of a network ``[N,...]``, such as logits ``[N,classes]``."""
    Array = NDArray[Any]


class Task(ABC):
    """What is asked of a network's outputs; a new task is one file in ``edgeres/tasks/kinds/`` that sets ``TASK``.

    ``probabilities`` says that the graph ends in a sigmoid or softmax, so that its outputs are no logits. A classifier
    predicts the largest of its ``scored`` outputs, of all where there are none.
    """

    name: ClassVar[str]  # of --task, in metadata and reports
    metric: ClassVar[str]  # what is judged, in percent: top-1, mAP, recall@1
    divergence: ClassVar[str]  # what the search of techniques minimises
    unit: ClassVar[str] = " nats"  # of the divergence, with a space in front; empty where it has none
    searched: ClassVar[bool] = False  # whether the preprocessing can be searched by the loss of its labels
    trained: ClassVar[bool] = False  # whether the stages that train know its labels
    measures_outputs: ClassVar[bool] = False  # whether a report has the cosine of the outputs to float's
    label_kind: ClassVar[LabelKind] = "class"  # what the labels of images are
    calibrated: ClassVar[bool] = False  # whether decisions have a threshold, which tuning images give
    maps: ClassVar[bool] = False  # whether outputs are maps [N,classes,H,W]
    classes: ClassVar[bool] = False  # whether predictions are indices of classes, which have a confusion matrix

    def __init__(self, *, probabilities: bool = False, scored: tuple[int, ...] = ()) -> None:
        self.probabilities = probabilities
        self.scored = scored

    @abstractmethod
    def check_head(self, classes: Sequence[str], outputs: int) -> None:
        """Compares the labels' classes with the number of outputs; a mismatch is a ``DataError``."""

    @abstractmethod
    def labels(self, split: Split, preprocess: Preprocess) -> Array:
        """What is right for each image, ``[N]`` or ``[N,classes]``."""

    @abstractmethod
    def predictions(self, kept: Array, labels: Array) -> Array:
        """What judges the outputs, of what is ``kept`` of all batches, ``[N]`` or ``[N,K]``."""

    @abstractmethod
    def score(self, predictions: Array, labels: Array) -> float:
        """The metric in percent."""

    @abstractmethod
    def divergences(self, reference: Outputs, outputs: Outputs) -> NDArray[np.float64]:
        """Divergence of each image's outputs from float's ``[N]``, 0 for equal ones; NaN where an output is."""

    @abstractmethod
    def direction(self, outputs: Tensor, signs: Tensor) -> Tensor:
        """Random direction whose covariance is the curvature of the divergence, for signs of the outputs' shape."""

    @abstractmethod
    def compare(self, before: Array, after: Array, labels: Array) -> Comparison:
        """The paired comparison of float with deployed predictions."""

    @abstractmethod
    def agreement(self, before: Array, after: Array) -> float:
        """Share of equal answers, in percent."""

    def kept(self, outputs: Outputs, truths: Sequence[Array]) -> Array:
        """What is kept of the outputs of a batch to judge them; ``truths`` are the masks of a task of maps."""
        return outputs

    def sampled(self, outputs: Outputs) -> Outputs:
        """The outputs of a batch that are kept to compare them with float's."""
        return outputs

    def logits(self, outputs: Outputs) -> Outputs:
        """Outputs as logits of classes ``[N,classes]``, for the search of the preprocessing."""
        return outputs

    def confidences(self, outputs: Outputs) -> NDArray[np.float64] | None:
        """Probability of the predicted class of each image ``[N]``; None where no class is predicted."""
        return None

    def chance(self, predictions: Array, labels: Array, classes: int) -> ChanceTest | None:
        """The score compared with that of answers that ignore the image; None where there is no such test."""
        return None

    def threshold(self, outputs: Outputs, labels: Array) -> float | None:
        """Threshold that tuning images give to decisions; None for a task without one."""
        return None

    def further(
        self, before: Array, after: Array, labels: Array, threshold: float | None, classes: Sequence[str]
    ) -> tuple[Scored, ...]:
        """Further metrics for the report, of outputs with these class names."""
        return ()


class HitTask(Task):
    """A task of which every image is right or wrong; predictions and labels are indices ``[N]``."""

    def labels(self, split: Split, preprocess: Preprocess) -> Array:
        """Class index of each image ``[N]``."""
        return np.asarray(split.labels, dtype=np.int64)

    def score(self, predictions: Array, labels: Array) -> float:
        """Share of right images in percent."""
        return top1(predictions.tolist(), labels.tolist())

    def compare(self, before: Array, after: Array, labels: Array) -> Comparison:
        """Images that one network alone gets right, by Tango's score test."""
        return Hits(Paired.of(before.tolist(), after.tolist(), labels.tolist()))

    def agreement(self, before: Array, after: Array) -> float:
        """Share of equal predictions in percent."""
        return agreement(before.tolist(), after.tolist())

    def chance(self, predictions: Array, labels: Array, classes: int) -> ChanceTest | None:
        """The exact binomial test against independent predictions."""
        return Chance.of(predictions, labels, classes)


def rows(values: Array) -> Rows:
    """Predictions or labels as nested tuples, for an artifact."""
    if values.ndim == 1:
        return tuple(int(value) for value in values)
    return tuple(tuple(float(value) for value in row) for row in values)
