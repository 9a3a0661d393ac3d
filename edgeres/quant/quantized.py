"""``Quantized``: a network with its scales, input and output of every quantization algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeres.model.graph import graph
from edgeres.quant.placement import Placement, place
from edgeres.quant.table import with_room

if TYPE_CHECKING:
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights
    from edgeres.quant.fake_quantize import QuantNetwork
    from edgeres.quant.quant_table import QuantTable
    from edgeres.targets.target import QuantScheme


@dataclass(frozen=True, slots=True)
class Quantized:
    """A folded network, its scales, and their scheme.

    ``weights`` are float32 values that the table rounds; where rounding was learned they lie on the grid already, so
    that rounding them again changes nothing. Under the table's scales int32 holds every accumulator: weight scales that
    are too small for the biases are raised (``edgeres.quant.scale``), whatever the origin of scales, weights and
    biases.
    """

    spec: ResNetSpec
    weights: Weights
    table: QuantTable
    scheme: QuantScheme

    def __post_init__(self) -> None:
        """Raises weight scales that are too small for the biases."""
        object.__setattr__(self, "table", with_room(self.table, self.spec, self.weights))

    @property
    def placement(self) -> Placement:
        """Placement of the Q/DQ pairs."""
        return place(graph(self.spec), self.scheme, self.table.float_layers)

    def network(self) -> QuantNetwork:
        """The torch module that computes the deployed network, in evaluation mode."""
        from edgeres.quant.fake_quantize import QuantNetwork

        return QuantNetwork(self.spec, self.weights, self.table, self.placement).eval()
