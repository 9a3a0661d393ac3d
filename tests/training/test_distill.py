from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeres.training.loop import distillation


class Fixed(nn.Module):
    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits + 0 * images.sum()


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 1.0), (4.0, 0.9), (2.0, 0.0)])
def test_loss_is_the_papers(temperature: float, alpha: float) -> None:
    rng = np.random.default_rng(0)
    teacher, student, labels = rng.normal(size=(5, 4)), rng.normal(size=(5, 4)), rng.integers(0, 4, 5)
    p, q = _softmax(teacher / temperature), _softmax(student / temperature)
    soft = (p * np.log(p / q)).sum(1).mean()
    hard = -np.log(_softmax(student)[np.arange(5), labels]).mean()
    loss = distillation(Fixed(torch.tensor(teacher)), temperature, alpha)
    value = loss(torch.tensor(student), torch.zeros(5, 3, 1, 1), torch.tensor(labels)).item()
    assert value == pytest.approx(alpha * temperature**2 * soft + (1 - alpha) * hard, rel=1e-5)


def test_the_gradient_reaches_the_student_alone() -> None:
    answers = torch.randn(3, 2, requires_grad=True)
    student = torch.randn(3, 2, requires_grad=True)
    distillation(Fixed(answers), 4.0, 1.0)(
        student, torch.zeros(3, 3, 1, 1), torch.zeros(3, dtype=torch.long)
    ).backward()
    assert answers.grad is None
    assert student.grad is not None
