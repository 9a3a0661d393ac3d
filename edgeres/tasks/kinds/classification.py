"""Classification: one of several classes is right, and the largest logit is the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.data.contract import check_head
from edgeres.metrics import divergences, predicted
from edgeres.tasks.task import HitTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.tasks.task import Array, Outputs


class Classification(HitTask):
    """Top-1 of logits ``[N,classes]``; the divergence is the KL of the softmax."""

    name = "classification"
    metric = "top-1"
    divergence = "KL"
    searched = trained = classes = True

    def check_head(self, classes: Sequence[str], outputs: int) -> None:
        """One output for each class of the data."""
        check_head(classes, outputs)

    def predictions(self, outputs: Outputs, labels: Array) -> Array:
        """Index ``[N]`` of the largest logit, of all or of the scored outputs."""
        return np.asarray(predicted(self.logits(outputs), self.scored), dtype=np.int64)

    def divergences(self, reference: Outputs, outputs: Outputs) -> NDArray[np.float64]:
        """``KL(softmax(reference) || softmax(outputs))`` in nats ``[N]``."""
        return divergences(self.logits(reference), self.logits(outputs))

    def direction(self, outputs: Tensor, signs: Tensor) -> Tensor:
        """That of the softmax, whose covariance is ``diag(p) - p p^T``."""
        from edgeres.quant.algorithms.fisher_information import softmax_direction

        return softmax_direction(outputs, signs)

    def confidences(self, outputs: Outputs) -> NDArray[np.float64] | None:
        """Softmax ``[N]`` of the largest logit, over all or over the scored outputs."""
        wide = self.logits(outputs).astype(np.float64)
        wide = wide[:, self.scored] if self.scored else wide
        total: NDArray[np.float64] = np.exp(wide - wide.max(axis=1, keepdims=True)).sum(axis=1)
        return 1 / total


TASK = Classification
