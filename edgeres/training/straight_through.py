"""Fake quantization with straight-through gradients for values and step sizes (LSQ).

Forward, equal to the deployed graph (``edgeres.quant.fake_quantize``), with ``s`` the step, ``low`` and ``high`` the
codes less the zero-point, and rounding half to even::

    v = x / s        x' = s * clamp(round(v), low, high)

Backward: rounding passes the gradient straight through (Bengio et al. 2013, arXiv 1308.3432) where ``v`` is inside, and
the step has LSQ's gradient (Esser et al. 2020, arXiv 1902.08153, equations 2 and 3)::

    dx'/dx = 1 if low < v < high else 0
    dx'/ds = round(v) - v if low < v < high else low or high, whichever is nearer
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from torch import Tensor
    from torch.autograd.function import FunctionCtx


class _Rounded(torch.autograd.Function):
    """``x'`` of the module's formulas; the output is saved for the backward pass, as by the convolution after it."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        y = torch.div(x, step).round_().clamp_(low, high).mul_(step)
        ctx.save_for_backward(x, step, y)
        ctx.range = low, high  # type: ignore[attr-defined]  # torch's way to keep what is no tensor
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, step, y = ctx.saved_tensors  # type: ignore[attr-defined]  # torch's mirror of save_for_backward
        low, high = ctx.range  # type: ignore[attr-defined]
        to_x, to_step = ctx.needs_input_grad[:2]  # type: ignore[attr-defined]
        # One pass each: hardtanh's gradient is the first argument where low < v < high, and 0 elsewhere.
        within = torch.ops.aten.hardtanh_backward
        v = torch.div(x, step)
        through = within(gradient, v, low, high) if to_x else None
        if not to_step:
            return through, None, None, None
        moved = torch.addcmul(y, within(v, v, low, high), step, value=-1).mul_(gradient)
        return through, moved.sum_to_size(step.shape).div(step), None, None


class _Scaled(torch.autograd.Function):
    """The value itself, with its gradient multiplied."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None  # type: ignore[attr-defined]


def quantize_through(x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """``x`` rounded to its grid and dequantized, differentiable in ``x`` and in the step.

    Args:
        x: float32 of any shape.
        step: Positive float32 that broadcasts over ``x``: a scalar, or ``[O,1,1,1]`` for one per output channel.
        low: Smallest code less the zero-point.
        high: Largest code less the zero-point.
    """
    rounded: Tensor = _Rounded.apply(x, step, low, high)  # type: ignore[no-untyped-call]  # torch types no Function
    return rounded


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """``x`` with its gradient multiplied by a factor.

    LSQ uses ``1 / sqrt(N Q)`` for a step, ``N`` the number of values it rounds and ``Q`` the largest code (its section
    2.2), so that a step's gradient is no larger than its weights' gradients when one norm clips them all.
    """
    scaled: Tensor = _Scaled.apply(x, factor)  # type: ignore[no-untyped-call]  # torch types no Function
    return scaled
