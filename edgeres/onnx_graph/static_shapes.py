"""Shape computations of a graph as constants, where they do not depend on the batch.

Exporters write sizes as nodes (``Shape``, ``Gather``, ``Concat``), because their batch is free. Here each tensor that
follows from shapes alone is computed for two batch sizes: one of equal values is a constant; in a target shape of
Reshape the batch becomes 0 or -1. Two sizes are evidence and no proof: ``edgeres.onnx_graph.fold`` compares the logits.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from edgeres.onnx_graph.edit import prune, store
from edgeres.onnx_graph.execute import probe, trace
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.onnx_graph.read import infer, sort_nodes
from edgeres.onnx_graph.resize import free_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    Values = Mapping[str, NDArray[Any]]

_BATCHES = (2, 3)
_SIZE = ":size"
_SIZES = 3
"""Input of Resize with the sizes of its output."""


def with_static_shapes(model: ModelProto) -> ModelProto:
    """The graph with constants for the shapes that it computes; the model itself where it computes none.

    Its signature is normalised: one image ``[N,3,H,W]`` of a fixed size.

    Raises:
        ModelError: The changed graph is invalid.
    """
    view = GraphIndex.of(model)
    computed = _shape_tensors(view)
    if not computed:
        return model
    changed = deepcopy(model)
    changed.graph.ClearField("value_info")
    measured = dict.fromkeys(node.input[0] for node in view.of_type("Reshape", "Gather", "Resize"))
    names = [name for name in measured if name not in view.constants and name not in computed]
    changed.graph.node.extend(helper.make_node("Shape", [name], [f"{name}{_SIZE}"], f"{name}{_SIZE}") for name in names)
    exposed = [*computed, *(f"{name}{_SIZE}" for name in names)]
    first, second = (trace(changed, probe(model, batch), exposed) for batch in _BATCHES)
    for node in changed.graph.node:
        if node.output[0] not in computed:
            _make_static(changed, node, computed, (first, second))
    prune(changed)
    sort_nodes(changed)
    return infer(changed)


def for_one_image(model: ModelProto) -> ModelProto:
    """The graph with constants for what it computes from shapes, at a batch of one; the model itself where it does not.

    For runtimes whose shapes are fixed. A class token that is expanded to the batch is a constant then.
    """
    view = GraphIndex.of(model)
    computed = _shape_tensors(view)
    if not computed:
        return model
    changed = deepcopy(model)
    changed.graph.ClearField("value_info")
    values = trace(changed, probe(model, 1), list(computed))
    for node in changed.graph.node:
        if node.output[0] not in computed:
            for index, name in enumerate(list(node.input)):
                if name in computed:
                    node.input[index] = store(changed, f"{name}.static", values[name])
    prune(changed)
    return changed


def _shape_tensors(view: GraphIndex) -> dict[str, None]:
    """Tensors that follow from shapes and constants alone, in execution order."""
    known: dict[str, None] = {}
    for node in view.nodes:
        inputs = [name for name in node.input if name and name not in view.constants]
        sized = node.op_type in ("Shape", "Size")
        if sized or (inputs and all(name in known for name in inputs)):
            known.update(dict.fromkeys(filter(None, node.output)))
    return known


def _make_static(model: ModelProto, node: NodeProto, computed: dict[str, None], values: tuple[Values, Values]) -> None:
    """Writes the constant inputs of a node that computes no shape; a Gather of every element in order is a Reshape."""
    for index, name in enumerate(list(node.input)):
        if name not in computed:
            continue
        first, second = (one[name] for one in values)
        if first.shape == second.shape and np.array_equal(first, second):
            node.input[index] = store(model, f"{name}.static", first)
        elif node.op_type == "Reshape" and index == 1 and f"{node.input[0]}{_SIZE}" in values[0]:
            sizes = [one[f"{node.input[0]}{_SIZE}"] for one in values]
            shape = _free_batch(first, second, (int(sizes[0][0]), int(sizes[1][0])))
            if shape is not None:
                node.input[index] = store(model, f"{node.output[0]}.shape", shape)
        elif node.op_type == "Resize" and index == _SIZES and first.shape == (4,):
            before = values[0].get(f"{node.input[0]}{_SIZE}")
            if before is not None and np.array_equal(first[1:], second[1:]):
                free_sizes(model, node, before.tolist(), first.tolist())
        elif node.op_type == "Gather" and all(_in_order(node, one) for one in values):
            node.op_type = "Reshape"
            node.ClearField("attribute")
            node.input[index] = store(model, f"{node.output[0]}.shape", np.array([-1, *first.shape[1:]], np.int64))


def _in_order(node: NodeProto, values: Values) -> bool:
    """Whether a Gather reads a vector from its first to its last element."""
    indices, size = values[node.input[1]], values.get(f"{node.input[0]}{_SIZE}")
    whole = np.arange(indices.size).reshape(indices.shape)
    return size is not None and size.tolist() == [indices.size] and np.array_equal(indices, whole)


def _free_batch(
    first: NDArray[np.generic], second: NDArray[np.generic], batches: tuple[int, int]
) -> NDArray[np.int64] | None:
    """A shape whose one size that follows the batch is 0 (the data's first one) or -1; None where there are more."""
    if first.shape != second.shape or np.sum(first != second) != 1 or 0 in first:
        return None
    axis = int(np.argmax(first != second))
    shape = first.astype(np.int64)
    shape[axis] = 0 if axis == 0 and (first[0], second[0]) == batches else -1
    return shape if np.sum(shape == -1) <= 1 else None
