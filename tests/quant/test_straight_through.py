"""Gradients of fake quantization: LSQ's formulas by hand, as a law that holds everywhere, and as secants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeres.quant.learned_network import quantize_through
from edgeres.quant.qparams import QParams
from edgeres.quant.quantized import fake_quantize

floats = hnp.arrays(np.float32, 12, elements=st.floats(-40, 40, width=32))
steps = st.floats(0.0078125, 0.5, width=32)
LOW, HIGH = -2, 3


def gradients(x: torch.Tensor, step: torch.Tensor, low: int = LOW, high: int = HIGH, weights=None):
    """``x'`` and the gradients of ``sum(weights * x')`` to x and to the step."""
    x, step = x.clone().requires_grad_(), step.clone().requires_grad_()
    y = quantize_through(x, step, low, high)
    y.backward(torch.ones_like(y) if weights is None else weights)
    return y.detach(), x.grad, step.grad


def test_a_case_by_hand() -> None:
    """s = 0.5, codes -2 to 3: v = x / s is -2.6, -0.8, 0.2, 1.2, 3.4."""
    x, weights = torch.tensor([-1.3, -0.4, 0.1, 0.6, 1.7]), torch.tensor([1.0, 10.0, 100.0, 1000.0, 10000.0])
    y, to_x, to_step = gradients(x, torch.tensor(0.5), weights=weights)
    assert y.tolist() == [-1.0, -0.5, 0.0, 0.5, 1.5]
    assert to_x.tolist() == [0.0, 10.0, 100.0, 1000.0, 0.0]
    # round(v) - v inside, the nearer end outside: -2, -0.2, -0.2, -0.2, 3
    assert to_step.item() == pytest.approx(-2 - 0.2 * (10 + 100 + 1000) + 3 * 10000, rel=1e-6)


@pytest.mark.parametrize(("x", "slope", "step_slope"), [(1.5, 0.0, 3.0), (-1.0, 0.0, -2.0), (1.25, 1.0, -0.5)])
def test_the_ends_themselves_count_as_outside(x: float, slope: float, step_slope: float) -> None:
    """LSQ's inside is open; 1.25 is 2.5 steps and rounds to 2, the even neighbour."""
    _, to_x, to_step = gradients(torch.tensor([x]), torch.tensor(0.5))
    assert (to_x.item(), to_step.item()) == (slope, step_slope)


@given(floats, steps, st.integers(-40, 40))
def test_forward_is_what_ships(x: np.ndarray, step: float, zero_point: int) -> None:
    params = QParams(scale=(step,), zero_point=zero_point)
    low, high = params.low - zero_point, params.high - zero_point
    given_ = quantize_through(torch.from_numpy(x), torch.tensor(step), low, high)
    assert torch.equal(given_, fake_quantize(torch.from_numpy(x), params))
    assert np.array_equal(given_.numpy(), params.dequantize(params.quantize(x)))


def test_multiplying_by_the_reciprocal_would_be_noticed() -> None:
    step = torch.tensor(0.3)
    x = (torch.arange(-100.0, 100.0) + 0.5) * step
    mutant = torch.round(x * (1 / step)).clamp(-127, 127) * step
    assert not torch.equal(quantize_through(x, step, -127, 127), mutant)


@given(floats, steps)
def test_scaling_everything_scales_the_result(x: np.ndarray, step: float) -> None:
    """Euler: x' is homogeneous of degree 1 in (x, s), so ``x dx'/dx + s dx'/ds = x'`` for each element."""
    values, own = torch.from_numpy(x), torch.full((len(x),), step)
    y, to_x, to_step = gradients(values, own)
    assert set(to_x.tolist()) <= {0.0, 1.0}
    assert torch.allclose(values * to_x + own * to_step, y, rtol=1e-4, atol=1e-5)


@given(st.integers(-1, 2), st.floats(-0.45, 0.45))
def test_slope_is_the_secant_over_whole_steps(code: int, fraction: float) -> None:
    """Rounding moves by one code when x moves by one step; where both ends are outside it does not move."""
    x, step = (code + fraction) / 2, torch.tensor(0.5)
    ahead, here = (gradients(torch.tensor([value]), step, -100, 100) for value in (x + 0.5, x))
    assert ((ahead[0] - here[0]) / 0.5).item() == here[1].item() == 1.0
    outside = [gradients(torch.tensor([value]), step)[:2] for value in (x + 5.5, x + 5.0)]
    assert (outside[0][0] - outside[1][0]).item() == outside[1][1].item() == 0.0


def test_outside_the_step_gradient_is_a_finite_difference() -> None:
    x, step, h = torch.tensor([-4.0, -2.0, 5.0]), 0.5, 1e-3
    _, _, to_step = gradients(x, torch.tensor(step))
    ends = [quantize_through(x, torch.tensor(step + side * h), LOW, HIGH).sum().item() for side in (1, -1)]
    assert to_step.item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-3) == -2 - 2 + 3


def test_each_channel_has_its_own_step() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weights = (torch.randn(4, 3, 3, 3, generator=generator) for _ in range(2))
    scale = torch.tensor([0.1, 0.2, 0.4, 0.8])
    y, to_x, to_step = gradients(x, scale.reshape(-1, 1, 1, 1), weights=weights)
    assert to_step.shape == (4, 1, 1, 1)
    for channel in range(4):
        alone = gradients(x[channel], scale[channel], weights=weights[channel])
        assert torch.equal(y[channel], alone[0])
        assert torch.equal(to_x[channel], alone[1])
        assert to_step[channel].item() == pytest.approx(alone[2].item(), rel=1e-4)


def test_what_needs_no_gradient_gets_none() -> None:
    step = torch.tensor(0.5, requires_grad=True)
    quantize_through(torch.tensor([0.6]), step, LOW, HIGH).sum().backward()
    assert step.grad is not None
    x = torch.tensor([0.6], requires_grad=True)
    quantize_through(x, torch.tensor(0.5), LOW, HIGH).sum().backward()
    assert x.grad is not None


def test_gradient_of_the_step_is_multiplied() -> None:
    x, found = torch.tensor([0.3, 1.2, 9.0]), []
    for factor in (1.0, 0.25):
        step = torch.tensor(0.5, requires_grad=True)
        quantize_through(x, step, LOW, HIGH, factor=factor).sum().backward()
        found.append(step.grad.item())
    assert found[1] == 0.25 * found[0] != 0


def test_margin_passes_gradients_to_values_that_round_to_the_outermost_codes() -> None:
    x = torch.tensor([-1.3, -1.2, 1.7, 1.8], requires_grad=True)
    quantize_through(x, torch.tensor(0.5), LOW, HIGH, margin=0.5).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]
