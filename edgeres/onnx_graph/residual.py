"""Residual adds of a graph: which input is the identity and which the residual branch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeres.onnx_graph.graph_index import WEIGHTED

if TYPE_CHECKING:
    from onnx import NodeProto

    from edgeres.onnx_graph.graph_index import GraphIndex


@dataclass(frozen=True, slots=True)
class ResidualAdd:
    """An Add of two computed tensors.

    Attributes:
        node: The Add.
        identity: Index of the input with fewer weighted layers before it.
    """

    node: NodeProto
    identity: int

    @property
    def identity_tensor(self) -> str:
        """Tensor of the identity branch."""
        return str(self.node.input[self.identity])

    @property
    def residual_tensor(self) -> str:
        """Tensor of the residual branch."""
        return str(self.node.input[1 - self.identity])


def residual_adds(view: GraphIndex) -> tuple[ResidualAdd, ...]:
    """Every Add of two computed tensors, in execution order.

    The identity is the input with fewer weighted layers on its longest path from the network's input; after the fork
    that both branches share this is the length of the branch itself. Equal branches are distinguished by their other
    operators; if those are equal too, input 1 is the identity.
    """
    depth = _depths(view)
    found = []
    for node in view.of_type("Add"):
        if any(name in view.constants for name in node.input):
            continue
        first, second = (depth.get(view.origin(name), (0, 0)) for name in node.input)
        found.append(ResidualAdd(node, 0 if first < second else 1))
    return tuple(found)


def _depths(view: GraphIndex) -> dict[str, tuple[int, int]]:
    """Longest path of each tensor from the inputs, as ``(weighted layers, other layers)``; Q/DQ is not counted."""
    depth: dict[str, tuple[int, int]] = {}
    for node in view.nodes:
        weighted, others = max((depth.get(name, (0, 0)) for name in node.input), default=(0, 0))
        if node.op_type in WEIGHTED:
            weighted += 1
        elif node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            others += 1
        depth.update(dict.fromkeys(node.output, (weighted, others)))
    return depth
