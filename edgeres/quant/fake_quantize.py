"""``QuantNetwork``: the torch module with Q/DQ, which computes what the exported graph computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.model.network import Network

if TYPE_CHECKING:
    from torch import Tensor

    from edgeres.model.graph import Op
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights
    from edgeres.quant.placement import Placement
    from edgeres.quant.qparams import QParams
    from edgeres.quant.quant_table import QuantTable


def quantized_weights(weights: Weights, table: QuantTable) -> Weights:
    """Weights rounded to their integer grid and dequantized; biases are unchanged."""
    rounded = {}
    for name, params in table.weights.items():
        key = f"{name}.weight"
        rounded[key] = params.dequantize(params.quantize(weights[key]))
    return weights.replaced(rounded)


def fake_quantize(x: Tensor, params: QParams) -> Tensor:
    """Rounds a tensor to its integer grid and dequantizes it.

    Divides by the scale, as ONNX QuantizeLinear does; ``torch.fake_quantize`` multiplies by its reciprocal, which
    rounds some values at a boundary differently.
    """
    scale = float(np.float32(params.scale[0]))
    low, high = params.low - params.zero_point, params.high - params.zero_point
    return (x / scale).round_().clamp_(low, high).mul_(scale)


class QuantNetwork(Network):
    """A network that reads the placement's edges through Q/DQ and has rounded weights."""

    def __init__(self, spec: ResNetSpec, weights: Weights, table: QuantTable, placement: Placement) -> None:
        super().__init__(spec, quantized_weights(weights, table))
        self.table = table
        self.placement = placement

    def read(self, op: Op, index: int, values: dict[str, Tensor]) -> Tensor:
        """The tensor after Q/DQ where the placement has a pair, the plain tensor elsewhere."""
        tensor = op.inputs[index]
        if (op.name, index) not in self.placement.edges:
            return values[tensor]
        return fake_quantize(values[tensor], self.table.activations[tensor])
