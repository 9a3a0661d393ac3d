"""What a mechanical repair is, and the small edits that repairs have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import helper, numpy_helper

from edgeres.onnx_graph.graph_index import GraphIndex, free_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.targets.target import Target


@dataclass(frozen=True, slots=True)
class Repair:
    """A rewrite that makes findings of some rules go away.

    Attributes:
        rules: Identifiers of the rules it serves.
        title: What it does, in a few words.
        apply: Changes a model in place for a target; returns how many places it changed.
        rounding: Share of a tensor's range that another float type may add; 0 where types stay.
    """

    rules: tuple[str, ...]
    title: str
    apply: Callable[[ModelProto, Target], int]
    rounding: float = 0.0


def store(model: ModelProto, name: str, value: NDArray[np.generic]) -> str:
    """Adds an initializer under that name or the first free one like it; returns its name."""
    view = GraphIndex.of(model)
    given = {entry.name for entry in model.graph.input}
    name = free_name(name, {*view.constants, *view.producers, *given})
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, order="C"), name))
    return name


def insert_before(model: ModelProto, node: NodeProto, *new: NodeProto) -> None:
    """Puts nodes right in front of another one."""
    position = next(index for index, entry in enumerate(model.graph.node) if entry is node or entry == node)
    for offset, entry in enumerate(new):
        model.graph.node.insert(position + offset, entry)


def set_attribute(node: NodeProto, name: str, value: object) -> None:
    """Writes an attribute, or removes it where the value is None."""
    kept = [entry for entry in node.attribute if entry.name != name]
    node.ClearField("attribute")
    node.attribute.extend(kept)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))


def bypass(model: ModelProto, tensor: str, node: NodeProto, index: int) -> bool:
    """Lets one read of a dequantized activation take the float tensor instead; False where there is no pair."""
    pair = GraphIndex.of(model).pair(tensor)
    if pair is None:
        return False
    node.input[index] = pair[0].input[0]
    return True
