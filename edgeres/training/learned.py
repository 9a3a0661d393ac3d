"""``LearnedNetwork``: a quantized network with trainable weights and scales."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import nn

from edgeres.model.network import Network
from edgeres.quant.quantized import Quantized
from edgeres.quant.scale import SMALLEST
from edgeres.training.straight_through import quantize_through, scale_gradient

if TYPE_CHECKING:
    from torch import Tensor

    from edgeres.model.graph import Op
    from edgeres.model.network import Tap
    from edgeres.model.weights import Weights
    from edgeres.quant.qparams import QParams
    from edgeres.quant.quant_table import QuantTable

PACE = 4.0
"""Ratio of the steps of a grid's largest value under its scale to those of a weight, both in units of that grid.

Weights are about a third of their largest one, so scales and weights change by about the same share, which is the
purpose of LSQ's gradient scale (section 2.2).
"""


class LearnedNetwork(Network):
    """Computes what ``QuantNetwork`` computes, with gradients for weights, biases and scales.

    Adam's updates have the size of the learning rate whatever they update, and a network whose norms are folded has
    weights of 1e-4 beside weights of 1. So everything is learned in steps of its grid: a weight is ``start + unit *
    move`` with the unit its channel's scale, a scale is ``start * exp(PACE * step / largest code)`` (in the logarithm,
    where it stays positive: Jain et al. 2019, arXiv 1903.08066, section 3.2); ``move`` and ``step`` are the parameters
    and start at 0, so that weight decay is towards the start. The unit of a float parameter is the step that its
    largest magnitude would have with the weights' bits. The gradient of a scale is LSQ's. Zero-points are fixed. Norms
    that could not be folded keep their statistics and their gains, as in the deployed graph.

    Args:
        quantized: The initial network.

    Attributes:
        activation_steps: ``[T]``, one per scale; tensors that share a scale share an entry.
        weight_steps: ``[sum of O]``, one per output channel of every integer weight.
    """

    activation_steps: nn.Parameter
    weight_steps: nn.Parameter
    activation_start: Tensor
    activation_pace: Tensor
    weight_start: Tensor
    weight_pace: Tensor

    def __init__(self, quantized: Quantized) -> None:
        super().__init__(quantized.spec, quantized.weights)
        self.requires_grad_(False)
        self._scheme, self._table, self._placement = quantized.scheme, quantized.table, quantized.placement
        observed = self._placement.observed
        self._position = {tensor: index for index, tensor in enumerate(observed)}
        self._position |= {tensor: self._position[origin] for tensor, origin in self._placement.shared.items()}
        self._on_grid = {tensor for tensor in self._placement.shared if (tensor, 0) in self._placement.edges}
        bounds = list(accumulate((len(params.scale) for params in self._table.weights.values()), initial=0))
        self._rows = {name: slice(*bounds[i : i + 2]) for i, name in enumerate(self._table.weights)}
        self._add_steps("activation", [self._table.activations[tensor] for tensor in observed])
        self._add_steps("weight", list(self._table.weights.values()))
        for op in self.graph.weighted:
            self._add_moves(op)

    def _add_steps(self, kind: str, rounded: list[QParams]) -> None:
        """Parameters for scales, with their initial values and units."""
        start = [scale for params in rounded for scale in params.scale]
        pace = [PACE / max(map(abs, _codes(params))) for params in rounded for _ in params.scale]
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
        if (op.name, index) not in self._placement.edges or tensor in self._on_grid:
            return values[tensor]
        key = f"{tensor} behind Q/DQ"
        if key not in values:
            x, position = values[tensor], self._position[tensor]
            scale = _scales(self.activation_start, self.activation_steps, self.activation_pace)[position]
            values[key] = _through(x, scale, self._table.activations[tensor], x[0].numel())
        return values[key]

    def parameter(self, op: Op, key: str) -> Tensor | None:
        """A weight on its integer grid, a bias as it is."""
        value = self._moved(op, key) if super().parameter(op, key) is not None else None
        if value is None or key != "weight" or op.name not in self._rows:
            return value
        rows, params = self._rows[op.name], self._table.weights[op.name]
        scale = _scales(self.weight_start, self.weight_steps, self.weight_pace)[rows]
        return _through(value, scale.reshape(params.scales(value.ndim).shape), params, value[0].numel())

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
        return Quantized(self.spec, self.weights(), self.table(), self._scheme)


def _scales(start: Tensor, steps: Tensor, pace: Tensor) -> Tensor:
    """Positive, normal float32 scales of the same shape.

    All are computed together: the last bit of an exponential may depend on how many are, and the deployed scales must
    equal the trained ones bit by bit.
    """
    return (start * torch.exp(pace * steps)).clamp_min(SMALLEST)


def _codes(params: QParams) -> tuple[int, int]:
    """Smallest and largest code, less the zero-point."""
    return params.low - params.zero_point, params.high - params.zero_point


def _through(x: Tensor, scale: Tensor, params: QParams, rounded: int) -> Tensor:
    """Fake quantization with LSQ's gradient; ``rounded`` is the number of values of one image that one scale rounds."""
    low, high = _codes(params)
    return quantize_through(x, scale_gradient(scale, 1 / sqrt(rounded * max(high, 1))), low, high)
