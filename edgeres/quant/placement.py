"""Q/DQ placement of a network for a target's scheme.

Residual adds follow the target: TensorRT fuses ``conv -> add -> relu`` into one INT8 kernel when the identity alone
carries Q/DQ (TensorRT developer guide, "Q/DQ layer-placement recommendations"); ONNX Runtime and OpenVINO fuse
quantized adds whose inputs are both quantized.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeres.model.graph import Graph
    from edgeres.targets.target import QuantScheme

_RANGE_PRESERVING = ("maxpool", "subsample", "zeropad")
"""Operations whose output lies within the range of their input, so that both may share one scale."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Q/DQ pairs of a network.

    ``edges`` are ``(operation, input index)`` pairs that read dequantized values, ``weighted`` operations whose weights
    are integers, ``tensors`` those that carry a quantizer, in execution order; ``shared`` maps a quantized tensor to
    the earlier one whose scale it shares.
    """

    edges: frozenset[tuple[str, int]]
    weighted: frozenset[str]
    tensors: tuple[str, ...]
    shared: dict[str, str]

    @property
    def observed(self) -> tuple[str, ...]:
        """Tensors that calibration has to observe."""
        return tuple(tensor for tensor in self.tensors if tensor not in self.shared)


def place(graph: Graph, scheme: QuantScheme, float_layers: tuple[str, ...] = ()) -> Placement:
    """Places the Q/DQ pairs of a network by a target's scheme.

    ``float_layers`` are weighted operations that stay in float beside those of the scheme.
    """
    pooled: set[str] = set()  # tensors [N,C,1,1] after a global pool: matrix-vector products gain nothing from integers
    for op in graph.ops:
        if op.kind == "gap" or (op.kind != "mul" and op.inputs[0] in pooled):
            pooled.add(op.name)
    weighted = {
        op.name
        for op in graph.weighted
        if op.name not in (*scheme.float_layers, *float_layers) and (op.kind == "linear" or op.inputs[0] not in pooled)
    }
    edges: set[tuple[str, int]] = {(name, 0) for name in weighted}
    for op in graph.ops:
        if op.kind == "add":
            edges.add((op.name, 1))
            if scheme.add_inputs == "both":
                edges.add((op.name, 0))
        elif scheme.pools and op.kind in (*_RANGE_PRESERVING, "gap", "flatten", "mul"):
            edges.add((op.name, 0))
    by_name = {op.name: op for op in graph.ops}
    quantized = {by_name[name].inputs[index] for name, index in edges}
    order = [graph.ops[0].inputs[0], *(op.name for op in graph.ops)]
    tensors = tuple(tensor for tensor in order if tensor in quantized)
    shared: dict[str, str] = {}
    for tensor in tensors:
        origin = tensor
        while origin in by_name and by_name[origin].kind in _RANGE_PRESERVING:
            origin = by_name[origin].inputs[0]
            if origin in quantized:
                shared[tensor] = shared.get(origin, origin)
                break
    return Placement(frozenset(edges), frozenset(weighted), tensors, shared)
