"""Weights and constants of an imported graph: where they are in its file, how they are read and written."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgeres.model.weights import Weights
from edgeres.onnx_graph.edit import free_name, prune
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.onnx_graph.read import infer

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.model.operation import Op

    Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Site:
    """Where an operation is in its file.

    Attributes:
        node: Output of its node; of a product with a bias behind it, that of the product.
        data: Indices of the node's inputs that are the operation's, in its order.
        constants: ``(output of a node, input index)`` of its weight, bias and other constants, by key.
        transposed: Whether the weight is stored as ``[I,O]``.
        output: Which of the node's outputs it computes.
    """

    node: str
    data: tuple[int, ...]
    constants: dict[str, tuple[str, int]]
    transposed: bool = False
    output: int = 0


def loaded(value: NDArray[np.generic], shape: tuple[int, ...], *, transposed: bool) -> Floats:
    """A constant as stored in a file in the shape that an operation has it in."""
    whole = value.astype(np.float32)
    turned = whole.T if transposed else whole
    return np.broadcast_to(turned, shape) if whole.size == 1 and shape else turned.reshape(shape)


def read_weights(ops: Sequence[Op], sites: Mapping[str, Site], model: ModelProto) -> Weights:
    """Weights, biases and other float constants of a graph's operations, from a file with the same nodes."""
    view = GraphIndex.of(model)
    arrays: dict[str, Floats] = {}
    for op in ops:
        for name, shape in op.parameters.items():
            key = name.removeprefix(f"{op.name}.")
            node, index = sites[op.name].constants[key]
            value = view.value(view.producers[node].input[index])
            assert value is not None, "operations have sites for constants alone"
            arrays[name] = loaded(value, shape, transposed=key == "weight" and sites[op.name].transposed)
    return Weights(arrays)


def with_weights(ops: Sequence[Op], sites: Mapping[str, Site], model: ModelProto, weights: Weights) -> ModelProto:
    """A graph with other weights and constants; those that do not change keep their initializers."""
    changed = deepcopy(model)
    changed.graph.ClearField("value_info")
    view = GraphIndex.of(changed)
    taken = {*view.constants, *view.producers}
    for op in ops:
        for name, shape in op.parameters.items():
            key = name.removeprefix(f"{op.name}.")
            node, index = sites[op.name].constants[key]
            reader, transposed = view.producers[node], key == "weight" and sites[op.name].transposed
            present, wanted = view.value(reader.input[index]), weights[name]
            assert present is not None, "operations have sites for constants alone"
            if np.array_equal(loaded(present, shape, transposed=transposed), wanted):
                continue
            reader.input[index] = free_name(name, taken)
            stored = wanted.T if transposed else wanted.reshape(present.shape if present.size > 1 else wanted.shape)
            changed.graph.initializer.append(numpy_helper.from_array(np.array(stored, order="C"), reader.input[index]))
    prune(changed)
    return infer(changed)


def single_node(view: GraphIndex, node: NodeProto, output: str, inputs: Collection[str]) -> ModelProto:
    """A model of one node, whose inputs are float tensors, but for the constants that are not among them."""
    body = helper.make_graph(
        [node],
        "node",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs],
        [helper.make_empty_tensor_value_info(output)],
        [view.constants[name] for name in dict.fromkeys(node.input) if name and name not in inputs],
    )
    return helper.make_model(body, opset_imports=view.model.opset_import, ir_version=view.model.ir_version)
