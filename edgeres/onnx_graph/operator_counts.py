"""What an ONNX graph holds, counted on the graph itself: MACs, parameters, Q/DQ pairs."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from onnx import shape_inference

from edgeres.errors import ModelError
from edgeres.onnx_graph.graph_index import COUNTED

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class QdqCensus:
    """Q/DQ pairs of a graph.

    Attributes:
        activations: QuantizeLinear nodes on activations.
        weights: Weighted nodes (Conv, Gemm, MatMul) that read their weight through DequantizeLinear.
        weighted: Weighted nodes in all.
    """

    activations: int
    weights: int
    weighted: int


def tensor_shapes(model: ModelProto) -> Shapes:
    """Shape of every tensor the graph knows, for a batch of one image.

    Raises:
        ModelError: Shapes cannot be inferred.
    """
    fixed = type(model)()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    try:
        inferred = shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    except shape_inference.InferenceError as failure:
        raise ModelError(
            f"shapes cannot be inferred: {failure}", "export the model again with fixed sizes"
        ) from failure
    shapes: Shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return shapes


def layer_macs(model: ModelProto) -> dict[str, int]:
    """MACs of every Conv, Gemm and MatMul for one image, by output tensor name.

    A Conv costs ``prod(weight shape) * H' * W'``, a matrix product ``rows * inner * columns``.
    """
    shapes = tensor_shapes(model)
    return {node.output[0]: _node_macs(node, shapes) for node in model.graph.node if node.op_type in COUNTED}


def _node_macs(node: NodeProto, shapes: Shapes) -> int:
    out = shapes[node.output[0]]
    if node.op_type == "Conv":
        return prod(shapes[node.input[1]]) * prod(out[2:])
    left = shapes[node.input[0]]
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return prod(out) * left[0 if transposed else -1]


def macs(model: ModelProto) -> int:
    """MACs of the graph for one image."""
    return sum(layer_macs(model).values())


def layer_parameters(model: ModelProto) -> dict[str, int]:
    """Weights and biases of every layer by output tensor name; scales, zero-points and statistics are not learned."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    origins = _dequantized(model.graph)
    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in COUNTED:
            names = node.input[1:]
        elif node.op_type == "BatchNormalization":
            names = node.input[1:3]
        else:
            continue
        held = [origins.get(name, name) for name in names]
        found[node.output[0]] = sum(prod(shapes[name]) for name in held if name in shapes)
    return found


def parameters(model: ModelProto) -> int:
    """Learned numbers of the graph."""
    return sum(layer_parameters(model).values())


def _dequantized(graph: GraphProto) -> dict[str, str]:
    """Output of every DequantizeLinear to the codes it reads, or to the constant that QuantizeLinear makes them of."""
    constants = {tensor.name for tensor in graph.initializer}
    stored = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] in constants
    }
    read = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {output: stored.get(codes, codes) for output, codes in read.items()}


def qdq(model: ModelProto) -> QdqCensus:
    """Counts the Q/DQ pairs of a graph."""
    constants = {tensor.name for tensor in model.graph.initializer}
    origins = _dequantized(model.graph)
    weighted = [node for node in model.graph.node if node.op_type in COUNTED]
    return QdqCensus(
        activations=sum(
            node.op_type == "QuantizeLinear" and node.input[0] not in constants for node in model.graph.node
        ),
        weights=sum(len(node.input) > 1 and node.input[1] in origins for node in weighted),
        weighted=len(weighted),
    )


def quantized_tensors(model: ModelProto) -> tuple[str, ...]:
    """Names of the activations that a QuantizeLinear reads, in order of execution."""
    constants = {tensor.name for tensor in model.graph.initializer}
    read = (node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear")
    return tuple(name for name in read if name not in constants)


def metadata(model: ModelProto) -> dict[str, str]:
    """The key-value strings that travel with a file."""
    return {entry.key: entry.value for entry in model.metadata_props}
