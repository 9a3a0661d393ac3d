"""Knowledge distillation loss from a teacher network (Hinton et al. 2015, arXiv 1503.02531)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor, nn


class Distillation:
    """``alpha T^2 KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) CE(student, labels)``, batch mean.

    ``T^2`` keeps the gradients of the soft part on the scale of the hard part as ``T`` changes (their section 2). The
    teacher is in evaluation mode, on the device of the student; ``alpha`` is the weight of the soft part, 0 to 1.
    """

    def __init__(self, teacher: nn.Module, temperature: float, alpha: float) -> None:
        self._teacher = teacher
        self._temperature = temperature
        self._alpha = alpha

    def __call__(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """The scalar loss of the student's logits ``[N,classes]`` for images ``[N,3,H,W]`` with labels ``[N]``."""
        with torch.no_grad():
            answers = self._teacher(images).float()
        soft = F.kl_div(
            F.log_softmax(logits.float() / self._temperature, dim=1),
            F.log_softmax(answers / self._temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        hard = F.cross_entropy(logits.float(), labels)
        return self._alpha * self._temperature**2 * soft + (1 - self._alpha) * hard
