"""Edits of an ONNX graph in place: initializers, attributes, and nodes."""

from __future__ import annotations

from itertools import chain, count
from typing import TYPE_CHECKING

import numpy as np
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto


def store(model: ModelProto, name: str, value: NDArray[np.generic]) -> str:
    """Adds an initializer under that name or the first free one like it; returns its name."""
    name = free_name(name, names(model))
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, order="C"), name))
    return name


def names(model: ModelProto) -> set[str]:
    """Names of every tensor of a graph."""
    graph = model.graph
    outputs = (output for node in graph.node for output in node.output)
    return {*outputs, *(entry.name for entry in (*graph.initializer, *graph.input))}


def free_name(name: str, taken: set[str]) -> str:
    """The name, or the first numbered variant that is not taken; it is added to ``taken``."""
    free = next(variant for variant in chain([name], (f"{name}.{n}" for n in count())) if variant not in taken)
    taken.add(free)
    return free


def set_attribute(node: NodeProto, name: str, value: object) -> None:
    """Writes an attribute, or removes it where the value is None."""
    retain(node.attribute, lambda entry: entry.name != name)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))


def insert_before(model: ModelProto, node: NodeProto, *new: NodeProto) -> None:
    """Inserts nodes directly before another one."""
    position = next(index for index, entry in enumerate(model.graph.node) if entry is node or entry == node)
    for offset, entry in enumerate(new):
        model.graph.node.insert(position + offset, entry)


def replace_nodes(model: ModelProto, nodes: Iterable[NodeProto]) -> None:
    """Sets the nodes of a graph, which may be its own in another order."""
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    model.graph.ClearField("node")
    model.graph.node.extend(copies)


def retain(field: Any, wanted: Callable[[Any], bool]) -> None:
    """Deletes every other entry of a repeated protobuf field, in place."""
    for index in reversed(range(len(field))):
        if not wanted(field[index]):
            del field[index]


def prune(model: ModelProto) -> None:
    """Removes unused nodes and initializers; initializers are sorted by name.

    ``onnx_ir``'s RemoveUnusedNodesPass also drops empty optional inputs and adds a value_info for each initializer.
    """
    graph, needed = model.graph, {value.name for value in model.graph.output}
    for index in reversed(range(len(graph.node))):
        if needed.isdisjoint(graph.node[index].output):
            del graph.node[index]
        else:
            needed.update(graph.node[index].input)
    retain(graph.initializer, lambda tensor: tensor.name in needed)
    graph.initializer.sort(key=lambda tensor: tensor.name)
