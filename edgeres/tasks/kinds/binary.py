"""Binary: one logit says whether an image is of the second of two classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.errors import DataError
from edgeres.tasks.kinds.classification import Classification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from edgeres.tasks.task import Outputs

_LEAST = 1e-7  # lower bound of a probability: float32 does not hold one nearer to 1


class Binary(Classification):
    """Accuracy of one logit ``[N,1]`` at a probability of 1/2; logits of the two classes are ``[0, logit]``.

    So its divergence is the KL of the two-class softmax, which is that of the sigmoid.
    """

    name = "binary"
    metric = "accuracy"
    trained = False

    def check_head(self, classes: Sequence[str], outputs: int) -> None:
        """One output, and two classes of which the second is the positive one."""
        if outputs != 1:
            what = f"--task binary takes one logit, and the network has {outputs} outputs"
            raise DataError(what, "leave --task out for one output a class, or pass --task multilabel")
        if len(classes) != 2:
            what = f"the data has {len(classes)} classes, and one logit tells two apart"
            raise DataError(what, "put the images into two folders, of which the one named last is the positive class")

    def logits(self, outputs: Outputs) -> Outputs:
        """Logits ``[N,2]`` of the negative and the positive class."""
        positive = outputs
        if self.probabilities:
            p = np.clip(outputs.astype(np.float64), _LEAST, 1 - _LEAST)
            positive = np.log(p / (1 - p)).astype(np.float32)
        return np.concatenate([np.zeros_like(positive), positive], axis=1)

    def direction(self, outputs: Tensor, signs: Tensor) -> Tensor:
        """``sqrt(p (1 - p)) e`` for signs ``e``: its covariance is the curvature of the sigmoid's KL."""
        p = outputs.sigmoid()
        return (p * (1 - p)).sqrt() * signs


TASK = Binary
