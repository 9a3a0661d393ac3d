from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeres.training.loop import Ema


def _set(module: nn.Linear, value: float) -> None:
    with torch.no_grad():
        module.weight.fill_(value)


def test_average_has_its_closed_form() -> None:
    """``a_n = sum_t (1 - d_t) x_t prod_{s > t} d_s`` with ``d_t = min(decay, t / (t + 9))``."""
    module = nn.Linear(1, 1, bias=False)
    _set(module, 2.0)
    ema = Ema(module, 0.25)
    for value in (1.0, 5.0, -3.0, 7.0):
        _set(module, value)
        ema.update()
    decays = [0.1, 2 / 11, 0.25, 0.25]
    expected = 2.0
    for decay, value in zip(decays, (1.0, 5.0, -3.0, 7.0), strict=True):
        expected = decay * expected + (1 - decay) * value
    assert ema.values["weight"].item() == pytest.approx(expected)


def test_constant_stays_and_running_statistics_are_averaged_too() -> None:
    norm = nn.BatchNorm2d(2)
    ema = Ema(norm, 0.5)
    for _ in range(3):
        ema.update()
    assert torch.equal(ema.values["running_var"], torch.ones(2))
    norm.running_mean += 10
    ema.update()
    assert ema.values["running_mean"].tolist() == pytest.approx([10 * (1 - 4 / 13)] * 2)
    assert "num_batches_tracked" not in ema.values


def test_restored_average_goes_on_as_if_nothing_happened() -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    first, second = Ema(module, 0.99), Ema(module, 0.99)
    for step in range(6):
        with torch.no_grad():
            module.weight.normal_()
        first.update()
        if step == 2:
            second.restore({key: value.clone() for key, value in first.values.items()}, first.updates)
        elif step > 2:
            second.update()
    assert torch.equal(first.values["weight"], second.values["weight"])
