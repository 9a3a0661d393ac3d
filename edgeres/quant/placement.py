"""Q/DQ placement of a network for a target's scheme.

Residual adds follow the target: TensorRT fuses ``conv -> add -> relu`` into one INT8 kernel when the identity alone
carries Q/DQ (TensorRT developer guide, "Q/DQ layer-placement recommendations"); ONNX Runtime and OpenVINO fuse
quantized adds whose inputs are both quantized.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeres.model.graph import Graph

if TYPE_CHECKING:
    from edgeres.targets.target import QuantScheme

_RANGE_PRESERVING = ("maxpool", "subsample", "zeropad", "pad")
"""Operations whose output lies within the range of their input, so that both may share one scale."""

_AVERAGING = ("gap", "avgpool", "blur")
_UNFUSED = ("silu", "prelu")
"""Activations that integer kernels of CPUs do not fuse: the convolution before them has to end in integers itself."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Q/DQ pairs of a network.

    ``edges`` are ``(operation, input index)`` pairs that read dequantized values, ``weighted`` operations whose weights
    are integers, ``tensors`` those that carry a quantizer, in execution order; ``shared`` maps a quantized tensor to
    the earlier one whose scale it shares. ``joint`` are those of them with values of their own, such as the inputs of
    a concatenation; the others have values that their scale represents already.
    """

    edges: frozenset[tuple[str, int]]
    weighted: frozenset[str]
    tensors: tuple[str, ...]
    shared: dict[str, str]
    joint: frozenset[str] = frozenset()

    @property
    def owners(self) -> tuple[str, ...]:
        """Tensors with a scale of their own."""
        return tuple(tensor for tensor in self.tensors if tensor not in self.shared)

    @property
    def observed(self) -> tuple[str, ...]:
        """Tensors that calibration has to observe."""
        return tuple(tensor for tensor in self.tensors if tensor not in self.shared or tensor in self.joint)

    @property
    def on_grid(self) -> frozenset[str]:
        """Tensors computed from integers of their own scale: rounding them again changes nothing."""
        return frozenset(tensor for tensor in self.shared if tensor not in self.joint and (tensor, 0) in self.edges)

    def carriers(self, owner: str) -> tuple[str, ...]:
        """The observed tensors that have a scale in common, its owner first."""
        return (owner, *(tensor for tensor in self.tensors if tensor in self.joint and self.shared[tensor] == owner))

    def without(self, layers: tuple[str, ...], graph: Graph) -> Placement:
        """The placement with some layers in float: only their own reads change."""
        edges = self.edges - {(layer, 0) for layer in layers}
        if edges == self.edges:
            return self
        by_name = {op.name: op for op in graph.ops}
        read = {by_name[name].inputs[index] for name, index in edges}
        tensors = tuple(tensor for tensor in self.tensors if tensor in read)
        joint, owners, shared = set[str](), dict[str, str](), dict[str, str]()
        for tensor in tensors:
            former = self.shared.get(tensor, tensor)
            owner = owners.setdefault(former, tensor)
            if owner != tensor:
                shared[tensor] = owner
                if tensor in self.joint or (former == tensor):
                    joint.add(tensor)
        return Placement(edges, self.weighted - set(layers), tensors, shared, frozenset(joint))


IN_FLOAT = Placement(frozenset(), frozenset(), (), {})


@dataclass(frozen=True, eq=False)
class PlacedGraph(Graph):
    """A graph that has its own Q/DQ placement for one scheme, with every layer of the scheme in integers."""

    placement: Placement = IN_FLOAT

    __eq__, __hash__ = object.__eq__, object.__hash__

    def place(self, float_layers: tuple[str, ...]) -> Placement:
        """The placement with some layers in float."""
        return self.placement.without(float_layers, self)


def place(graph: Graph, scheme: QuantScheme, float_layers: tuple[str, ...] = ()) -> Placement:
    """Places the Q/DQ pairs of a network by a target's scheme.

    ``float_layers`` are weighted operations that stay in float beside those of the scheme. An imported graph has its
    placement already.
    """
    if isinstance(graph, PlacedGraph):
        return graph.place(float_layers)
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
        elif scheme.pools and op.kind in (*_RANGE_PRESERVING, *_AVERAGING, *_UNFUSED, "flatten", "mul"):
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
