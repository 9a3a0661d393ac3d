"""Roles of nodes in an imported graph: the classifier, and convolutions after a global pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edgeres.targets.target import QuantScheme

CLASSIFIER = "fc"
"""Name of the last matrix product in ``QuantScheme.float_layers``, whatever its name in the graph."""

_BEHIND_CLASSIFIER = ("Add", "Softmax", "LogSoftmax", "Flatten", "Reshape", "Squeeze", "Identity")


def classifier(view: GraphIndex) -> NodeProto | None:
    """The weighted node that computes the logits; None where another operator follows it."""
    tensor = view.model.graph.output[0].name
    while (node := view.producer(tensor)) is not None:
        if node.op_type in WEIGHTED:
            return node
        computed = [name for name in node.input if name not in view.constants]
        if node.op_type not in _BEHIND_CLASSIFIER or len(computed) != 1:
            return None
        tensor = computed[0]
    return None


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
    """Names of the nodes that a scheme leaves in float.

    These are the classifier where the scheme lists ``fc``, nodes that it lists by name, and convolutions after a global
    pool, which gain nothing from integers.
    """
    view = GraphIndex.of(model)
    names = {node.name for node in pooled_convolutions(view)}
    names |= {node.name for node in view.nodes if node.name in scheme.float_layers}
    last = classifier(view)
    if last is not None and CLASSIFIER in scheme.float_layers:
        names.add(last.name)
    return tuple(node.name for node in view.nodes if node.name in names)
