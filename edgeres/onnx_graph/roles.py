"""Roles of nodes in a graph: the branches of residual adds, the classifier, and convolutions after a global pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from edgeres.onnx_graph.graph_index import QDQ, WEIGHTED, GraphIndex

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edgeres.targets.target import QuantScheme

CLASSIFIER = "fc"
"""Name of the last matrix product in ``QuantScheme.float_layers``, whatever its name in the graph."""

_BEHIND_CLASSIFIER = ("Add", "Softmax", "LogSoftmax", "Flatten", "Reshape", "Squeeze", "Identity")

_OF_A_NORM = ("Abs", "Add", "Clip", "Expand", "Max", "Mul", "Pow", "ReduceL1", "ReduceL2", "ReduceSum", "Shape", "Sqrt")


class ResidualAdd(NamedTuple):
    """An Add of two computed tensors; ``identity`` is the index of the input with fewer weighted layers before it."""

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
    adds = []
    for node in view.of_type("Add"):
        if not any(name in view.constants for name in node.input):
            first, second = (depth.get(view.origin(name), (0, 0)) for name in node.input)
            adds.append(ResidualAdd(node, 0 if first < second else 1))
    return tuple(adds)


def _depths(view: GraphIndex) -> dict[str, tuple[int, int]]:
    """Longest path of each tensor from the inputs, as ``(weighted layers, other layers)``; Q/DQ is not counted."""
    depth: dict[str, tuple[int, int]] = {}
    for node in view.nodes:
        weighted, others = max((depth.get(name, (0, 0)) for name in node.input), default=(0, 0))
        if node.op_type in WEIGHTED:
            weighted += 1
        elif node.op_type not in QDQ:
            others += 1
        depth.update(dict.fromkeys(node.output, (weighted, others)))
    return depth


def classifier(view: GraphIndex) -> NodeProto | None:
    """The weighted node that computes the logits; None where another operator follows it."""
    tensor = view.model.graph.output[0].name
    while (node := view.producer(tensor)) is not None:
        if node.op_type in WEIGHTED:
            return node
        if normalization(view, node):
            tensor = node.input[0]
            continue
        computed = [name for name in node.input if name not in view.constants]
        if node.op_type not in _BEHIND_CLASSIFIER or len(computed) != 1:
            return None
        tensor = computed[0]
    return None


def normalization(view: GraphIndex, node: NodeProto) -> tuple[NodeProto, ...]:
    """A Div of a tensor by its own norm and the nodes that compute that norm; empty for any other node."""
    if node.op_type != "Div":
        return ()
    found, waiting = [node], [node.input[1]]
    while waiting:
        name = waiting.pop()
        if not name or name == node.input[0] or name in view.constants:
            continue
        maker = view.producer(name)
        if maker is None or maker.op_type not in _OF_A_NORM:
            return ()
        found.append(maker)
        waiting += maker.input
    return tuple(found) if len(found) > 1 else ()


def pooled_convolutions(view: GraphIndex) -> tuple[NodeProto, ...]:
    """Convolutions of ``[N,C,1,1]`` maps, as in squeeze and excitation, which are matrix-vector products.

    The model needs inferred shapes.
    """
    single = {
        value.name
        for value in view.model.graph.value_info
        if [dim.dim_value for dim in value.type.tensor_type.shape.dim][2:] == [1, 1]
    }
    return tuple(node for node in view.of_type("Conv") if node.input[0] in single)


def float_nodes(model: ModelProto, scheme: QuantScheme) -> tuple[str, ...]:
    """Names of the nodes that a scheme leaves in float, in execution order.

    These are the classifier where the scheme lists ``fc``, nodes that it lists by name, convolutions after a global
    pool, which gain nothing from integers, and the normalization of an embedding to length 1.
    """
    view = GraphIndex.of(model)
    names = {*scheme.float_layers, *(node.name for node in pooled_convolutions(view))}
    names |= {one.name for node in view.of_type("Div") for one in normalization(view, node)}
    last = classifier(view)
    if last is not None and CLASSIFIER in scheme.float_layers:
        names.add(last.name)
    return tuple(node.name for node in view.nodes if node.name in names)
