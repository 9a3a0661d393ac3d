"""``Quantized``: a network with its scales, what every quantization technique takes and gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeres.model.graph import graph
from edgeres.quant.placement import Placement, place

if TYPE_CHECKING:
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights
    from edgeres.quant.fake import QuantNetwork
    from edgeres.quant.qparams import QuantTable
    from edgeres.target import QuantScheme


@dataclass(frozen=True, slots=True)
class Quantized:
    """A folded network, its scales, and the scheme they are for.

    Attributes:
        spec: The network.
        weights: float32 values that the table rounds; where rounding was learned they lie on the grid already, so that
            rounding them again changes nothing.
        table: Scales.
        scheme: What the target wants.
    """

    spec: ResNetSpec
    weights: Weights
    table: QuantTable
    scheme: QuantScheme

    @property
    def placement(self) -> Placement:
        """Where the Q/DQ pairs are."""
        return place(graph(self.spec), self.scheme, self.table.float_layers)

    def network(self) -> QuantNetwork:
        """The torch module that computes what ships, in evaluation mode."""
        from edgeres.quant.fake import QuantNetwork

        return QuantNetwork(self.spec, self.weights, self.table, self.placement).eval()
