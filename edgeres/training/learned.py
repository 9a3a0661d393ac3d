"""``LearnedNetwork``: a quantized network whose weights and scales can be trained."""

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
    from edgeres.quant.qparams import QParams, QuantTable

PACE = 20.0
"""Natural logarithms of a scale per unit of its parameter: how far one learning rate moves scales beside weights."""


class LearnedNetwork(Network):
    """Computes what ``edgeres.quant.fake.QuantNetwork`` computes, with gradients for weights, biases and scales.

    A scale is ``start * exp(PACE * step)``, ``step`` a parameter that starts at 0: it stays positive, and Adam, whose
    updates have the size of the learning rate whatever they update, moves scales of 1e-4 and of 1 by the same share
    (Jain et al. 2019, arXiv 1903.08066, section 3.2). The gradient of the scale itself is LSQ's. Zero-points stay.
    Norms that could not be folded keep their statistics and their gains, as what ships does.

    Args:
        quantized: Where training starts.

    Attributes:
        activation_steps: ``[T]``, one per scale; tensors that share a scale share an entry.
        weight_steps: ``[sum of O]``, one per output channel of every integer weight.
    """

    activation_start: Tensor
    weight_start: Tensor

    def __init__(self, quantized: Quantized) -> None:
        super().__init__(quantized.spec, quantized.weights)
        self._scheme, self._table, self._placement = quantized.scheme, quantized.table, quantized.placement
        observed = self._placement.observed
        self._position = {tensor: index for index, tensor in enumerate(observed)}
        self._position |= {tensor: self._position[origin] for tensor, origin in self._placement.shared.items()}
        self._on_grid = {tensor for tensor in self._placement.shared if (tensor, 0) in self._placement.edges}
        widths = [len(params.scale) for params in self._table.weights.values()]
        bounds = list(accumulate(widths, initial=0))
        self._rows = {name: slice(*bounds[i : i + 2]) for i, name in enumerate(self._table.weights)}
        activations = [self._table.activations[tensor].scale[0] for tensor in observed]
        weights = [scale for params in self._table.weights.values() for scale in params.scale]
        self.register_buffer("activation_start", torch.tensor(activations, dtype=torch.float32))
        self.register_buffer("weight_start", torch.tensor(weights, dtype=torch.float32))
        self.activation_steps = nn.Parameter(torch.zeros(len(activations)))
        self.weight_steps = nn.Parameter(torch.zeros(len(weights)))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)

    def forward(self, image: Tensor, tap: Tap | None = None) -> Tensor:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``, in float32 whatever autocast is on around it."""
        with torch.autocast(image.device.type, enabled=False):
            return super().forward(image.contiguous(memory_format=torch.channels_last), tap)

    def read(self, op: Op, index: int, values: dict[str, Tensor]) -> Tensor:
        """The value behind Q/DQ where the placement has a pair; several readers of a tensor share one."""
        tensor = op.inputs[index]
        # A pool that reads integers and shares their scale yields values that Q/DQ would not change.
        if (op.name, index) not in self._placement.edges or tensor in self._on_grid:
            return values[tensor]
        key = f"{tensor} behind Q/DQ"
        if key not in values:
            x, position = values[tensor], self._position[tensor]
            scale = _scales(self.activation_start, self.activation_steps)[position]
            values[key] = _through(x, scale, self._table.activations[tensor], x[0].numel())
        return values[key]

    def parameter(self, op: Op, key: str) -> Tensor | None:
        """A weight on its integer grid, a bias as it is."""
        value = super().parameter(op, key)
        if value is None or key != "weight" or op.name not in self._rows:
            return value
        rows, params = self._rows[op.name], self._table.weights[op.name]
        scale = _scales(self.weight_start, self.weight_steps)[rows].reshape(params.scales(value.ndim).shape)
        return _through(value, scale, params, value[0].numel())

    def table(self) -> QuantTable:
        """The scales as they are now."""
        with torch.no_grad():
            activations = _scales(self.activation_start, self.activation_steps).tolist()
            weights = _scales(self.weight_start, self.weight_steps).tolist()
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
        """Weights and scales as they are now; the weights are float32 values that the table rounds to those used."""
        return Quantized(self.spec, self.weights(), self.table(), self._scheme)


def _scales(start: Tensor, steps: Tensor) -> Tensor:
    """Positive, normal float32 scales of the same shape.

    Always all of them: the last bit of an exponential may depend on how many are computed together, and what ships
    must have the bits that were trained with.
    """
    return (start * torch.exp(PACE * steps)).clamp_min(SMALLEST)


def _through(x: Tensor, scale: Tensor, params: QParams, rounded: int) -> Tensor:
    """Fake quantization with LSQ's gradient; ``rounded`` is how many numbers one scale rounds (of one image)."""
    low, high = params.low - params.zero_point, params.high - params.zero_point
    return quantize_through(x, scale_gradient(scale, 1 / sqrt(rounded * max(high, 1))), low, high)
