"""``LearnedNetwork``: a quantized network with trainable weights and scales, for QAT and block reconstruction.

Fake quantization has straight-through gradients for values and step sizes (LSQ). Forward, equal to the deployed graph
(``edgeres.quant.quantized``), with ``s`` the step, ``low`` and ``high`` the codes less the zero-point, and rounding
half to even::

    v = x / s        x' = s * clamp(round(v), low, high)

Backward: rounding passes the gradient straight through (Bengio et al. 2013, arXiv 1308.3432) where ``v`` is inside, and
the step has LSQ's gradient (Esser et al. 2020, arXiv 1902.08153, equations 2 and 3)::

    dx'/dx = 1 if low - m < v < high + m else 0
    dx'/ds = round(v) - v if low - m < v < high + m else low or high, whichever is nearer

with the margin ``m`` 0, or 1/2 where values that round to the outermost codes are learned too.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from edgeres.model.network import Network
from edgeres.quant.qparams import SMALLEST
from edgeres.quant.quantized import Quantized

if TYPE_CHECKING:
    from torch import Tensor
    from torch.autograd.function import FunctionCtx

    from edgeres.model.network import Tap
    from edgeres.model.operation import Op
    from edgeres.model.weights import Weights
    from edgeres.quant.qparams import QParams
    from edgeres.quant.quant_table import QuantTable

PACE = 4.0  # ratio of the steps of a grid's largest value under its scale to those of a weight, in units of that grid,
# so that scales and weights change by about the same share, which is the purpose of LSQ's gradient scale (section 2.2)


class _Rounded(torch.autograd.Function):
    """``x'`` of the module's formulas; the output is saved for the backward pass, as by the convolution after it."""

    @staticmethod
    def forward(  # noqa: PLR0917  # torch passes them by position
        ctx: FunctionCtx, x: Tensor, step: Tensor, codes: tuple[int, int], margin: float, factor: float
    ) -> Tensor:
        low, high = codes
        y = torch.div(x, step).round_().clamp_(low, high).mul_(step)
        ctx.save_for_backward(x, step, y)
        ctx.range = low - margin, high + margin, factor  # type: ignore[attr-defined]  # torch's way to keep what is no tensor
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, step, y = ctx.saved_tensors  # type: ignore[attr-defined]  # torch's mirror of save_for_backward
        low, high, factor = ctx.range  # type: ignore[attr-defined]
        to_x, to_step = ctx.needs_input_grad[:2]  # type: ignore[attr-defined]
        # One pass each: hardtanh's gradient is the first argument where low < v < high, and 0 elsewhere.
        within = torch.ops.aten.hardtanh_backward
        v = torch.div(x, step)
        through = within(gradient, v, low, high) if to_x else None
        if not to_step:
            return through, None, None, None, None
        change = torch.addcmul(y, within(v, v, low, high), step, value=-1).mul_(gradient)
        return through, change.sum_to_size(step.shape).div(step) * factor, None, None, None


def quantize_through(
    x: Tensor, step: Tensor, low: int, high: int, *, margin: float = 0.0, factor: float = 1.0
) -> Tensor:
    """``x`` rounded to codes ``low`` to ``high`` less the zero-point and dequantized, differentiable in both tensors.

    ``step`` is positive float32 and broadcasts over ``x``: a scalar, or ``[O,1,1,1]`` for one per output channel. Its
    gradient is multiplied by ``factor``: LSQ uses ``1 / sqrt(N Q)``, ``N`` the number of values it rounds and ``Q`` the
    largest code (section 2.2), so that it is no larger than its weights' gradients when one norm clips them all.
    """
    y: Tensor = _Rounded.apply(x, step, (low, high), margin, factor)  # type: ignore[no-untyped-call]  # torch types no Function
    return y


class LearnedNetwork(Network):
    """Computes what ``QuantNetwork`` computes, with gradients for weights, biases and scales.

    Adam's updates have the size of the learning rate, and a network whose norms are folded has weights of 1e-4 beside
    weights of 1. So everything is learned in steps of its grid: a weight is ``start + unit * move`` with the unit its
    channel's scale, a scale is ``start * exp(PACE * step / largest code)`` (Jain et al. 2019, arXiv 1903.08066, section
    3.2); the parameters ``move`` and ``step`` start at 0, so that weight decay is towards the start. The unit of a
    float parameter is the step that its largest magnitude would have with the weights' bits. Zero-points are fixed, as
    are norms that could not be folded, the slopes of a PReLU and the positions of an attention pool.

    ``blockwise`` is for learning one block after another from activations in half precision: pools on integers then
    round them again, and values that round to the outermost codes have gradients. ``activation_steps`` ``[T]`` has one
    entry per scale, in the order of ``placement.owners``; ``weight_steps`` ``[sum of O]`` one per output channel of
    every integer weight.
    """

    activation_steps: nn.Parameter
    weight_steps: nn.Parameter
    activation_start: Tensor
    activation_pace: Tensor
    weight_start: Tensor
    weight_pace: Tensor

    def __init__(self, quantized: Quantized, *, blockwise: bool = False) -> None:
        super().__init__(quantized.graph, quantized.weights)
        self.requires_grad_(False)
        self._scheme, self._table, self.placement = quantized.scheme, quantized.table, quantized.placement
        owners = self.placement.owners
        self._position = {tensor: index for index, tensor in enumerate(owners)}
        self._position |= {tensor: self._position[origin] for tensor, origin in self.placement.shared.items()}
        self._on_grid = frozenset[str]() if blockwise else self.placement.on_grid
        self._margin = 0.5 if blockwise else 0.0
        bounds = list(accumulate((len(params.scale) for params in self._table.weights.values()), initial=0))
        self._rows = {name: slice(*bounds[i : i + 2]) for i, name in enumerate(self._table.weights)}
        self._add_steps("activation", [self._table.activations[tensor] for tensor in owners])
        self._add_steps("weight", list(self._table.weights.values()))
        for op in self.graph.weighted:
            self._add_moves(op)

    def _add_steps(self, kind: str, quantizers: list[QParams]) -> None:
        """Parameters for scales, with their initial values and units."""
        start = [scale for params in quantizers for scale in params.scale]
        pace = [PACE / max(map(abs, _codes(params))) for params in quantizers for _ in params.scale]
        self.register_buffer(f"{kind}_start", torch.tensor(start, dtype=torch.float32))
        self.register_buffer(f"{kind}_pace", torch.tensor(pace, dtype=torch.float32))
        self.register_parameter(f"{kind}_steps", nn.Parameter(torch.zeros(len(start))))

    def _add_moves(self, op: Op) -> None:
        """Parameters for the weight and the bias of an operation, with their units."""
        module, params = self.get_submodule(op.name), self._table.weights.get(op.name)
        for key, start in list(module.named_parameters()):
            # A bias of zeros has no magnitude; that of its operation's weights is used.
            like = start if start.any() else module.get_parameter("weight")
            unit = (like.abs().max() / ((1 << (self._scheme.weight_bits - 1)) - 1)).clamp_min(SMALLEST)
            if params is not None and key == "weight":
                unit = torch.from_numpy(params.scales(start.ndim))
            module.register_buffer(f"{key}_unit", unit)
            module.register_parameter(f"{key}_move", nn.Parameter(torch.zeros_like(start)))

    def forward(self, image: Tensor, tap: Tap | None = None) -> Tensor:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``, in float32 also under autocast."""
        with torch.autocast(image.device.type, enabled=False):
            return super().forward(image.contiguous(memory_format=torch.channels_last), tap)

    def read(self, op: Op, index: int, values: dict[str, Tensor]) -> Tensor:
        """The tensor after Q/DQ where the placement has a pair; several readers of a tensor share one."""
        tensor = op.inputs[index]
        # A pool on integers that shares their scale gives values that Q/DQ would not change.
        if (op.name, index) not in self.placement.edges or tensor in self._on_grid:
            return values[tensor]
        key = f"{tensor} behind Q/DQ"
        if key not in values:
            x, position = values[tensor], self._position[tensor]
            scale = _scales(self.activation_start, self.activation_steps, self.activation_pace)[position]
            values[key] = self._through(x, scale, self._table.activations[tensor], x[0].numel())
        return values[key]

    def parameter(self, op: Op, key: str) -> Tensor | None:
        """A weight on its integer grid, a bias as it is; slopes and positions are not learned."""
        value = super().parameter(op, key)
        if value is None or op.kind not in ("conv", "linear"):
            return value
        value = self._moved(op, key)
        if key != "weight" or op.name not in self._rows:
            return value
        rows, params = self._rows[op.name], self._table.weights[op.name]
        scale = _scales(self.weight_start, self.weight_steps, self.weight_pace)[rows]
        return self._through(value, scale.reshape(params.scales(value.ndim).shape), params, value[0].numel())

    def _through(self, x: Tensor, scale: Tensor, params: QParams, count: int) -> Tensor:
        """Fake quantization with LSQ's gradient; ``count`` is the number of values of one image that a scale rounds."""
        low, high = _codes(params)
        return quantize_through(x, scale, low, high, margin=self._margin, factor=1 / sqrt(count * max(high, 1)))

    def _moved(self, op: Op, key: str) -> Tensor:
        """Current value of a weight or a bias, before rounding."""
        module = self.get_submodule(op.name)
        # Two operations, so that each rounds once on any hardware: deployed weights must equal the trained ones.
        return module.get_parameter(key) + module.get_buffer(f"{key}_unit") * module.get_parameter(f"{key}_move")

    def weights(self) -> Weights:
        """Current weights, before rounding."""
        with torch.no_grad():
            moved = {
                f"{op.name}.{key}": self._moved(op, key).cpu().numpy()
                for op in self.graph.weighted
                for key in (("weight", "bias") if op.bias else ("weight",))
            }
        return super().weights().replaced(moved)

    def table(self) -> QuantTable:
        """Current scales."""
        with torch.no_grad():
            activations = _scales(self.activation_start, self.activation_steps, self.activation_pace).tolist()
            weights = _scales(self.weight_start, self.weight_steps, self.weight_pace).tolist()
        return replace(
            self._table,
            activations={
                tensor: replace(params, scale=(activations[self._position[tensor]],))
                for tensor, params in self._table.activations.items()
            },
            weights={
                name: replace(params, scale=tuple(weights[self._rows[name]]))
                for name, params in self._table.weights.items()
            },
            network=self.weights().digest,
        )

    def quantized(self) -> Quantized:
        """Current weights and scales; the weights are float32 values that the table rounds to those used."""
        return Quantized(self.graph, self.weights(), self.table(), self._scheme)


def _scales(start: Tensor, steps: Tensor, pace: Tensor) -> Tensor:
    """Positive, normal float32 scales of the same shape.

    All are computed together: the last bit of an exponential may depend on how many are, and the deployed scales must
    equal the trained ones bit by bit.
    """
    return (start * torch.exp(pace * steps)).clamp_min(SMALLEST)


def _codes(params: QParams) -> tuple[int, int]:
    """Smallest and largest code, less the zero-point."""
    return params.low - params.zero_point, params.high - params.zero_point
