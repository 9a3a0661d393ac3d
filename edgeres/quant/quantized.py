"""``Quantized``: a network with its scales, input and output of every quantization algorithm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgeres.model.network import Network
from edgeres.quant.placement import place
from edgeres.quant.quant_table import with_room

if TYPE_CHECKING:
    from torch import Tensor

    from edgeres.model.graph import Graph
    from edgeres.model.operation import Op
    from edgeres.model.weights import Weights
    from edgeres.quant.placement import Placement
    from edgeres.quant.qparams import QParams
    from edgeres.quant.quant_table import QuantTable
    from edgeres.targets.target import QuantScheme


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

    def __init__(self, graph: Graph, weights: Weights, table: QuantTable, placement: Placement) -> None:
        super().__init__(graph, quantized_weights(weights, table))
        self.table = table
        self.placement = placement

    def read(self, op: Op, index: int, values: dict[str, Tensor]) -> Tensor:
        """The tensor after Q/DQ where the placement has a pair, the plain tensor elsewhere."""
        tensor = op.inputs[index]
        if (op.name, index) not in self.placement.edges:
            return values[tensor]
        return fake_quantize(values[tensor], self.table.activations[tensor])


@dataclass(frozen=True, slots=True)
class Quantized:
    """A folded network, its scales, and their scheme.

    ``weights`` are float32 values that the table rounds; where rounding was learned they lie on the grid already, so
    that rounding them again changes nothing. Under the table's scales int32 holds every accumulator: weight scales that
    are too small for the biases are raised (``edgeres.quant.qparams``), whatever the origin of scales, weights and
    biases.
    """

    graph: Graph
    weights: Weights
    table: QuantTable
    scheme: QuantScheme

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", with_room(self.table, self.graph, self.weights))

    @property
    def placement(self) -> Placement:
        """Placement of the Q/DQ pairs."""
        return place(self.graph, self.scheme, self.table.float_layers)

    def left_in_float(self, reference: Weights, layers: tuple[str, ...]) -> Quantized:
        """The network with further layers in float: their weights of ``reference``, of the same channel scales."""
        ops, before = self.graph, self.table
        names = tuple(op.name for op in ops.weighted if op.name in (*layers, *before.float_layers))
        placement = place(ops, self.scheme, names)
        keys = [key for name in layers for key in (f"{name}.weight", f"{name}.bias") if key in reference]
        table = replace(
            before,
            activations={tensor: before.activations[tensor] for tensor in placement.tensors},
            weights={name: before.weights[name] for name in sorted(placement.weighted)},
            float_layers=names,
        )
        weights = self.weights.replaced({key: reference[key] for key in keys})
        return Quantized(self.graph, weights, table, self.scheme)

    def network(self) -> QuantNetwork:
        """The torch module that computes the deployed network, in evaluation mode."""
        return QuantNetwork(self.graph, self.weights, self.table, self.placement).eval()
