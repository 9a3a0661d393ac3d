"""``Repair``: a mechanical rewrite of a graph, and edits that repairs share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from onnx import helper, numpy_helper

from edgeres.onnx_graph.graph_index import GraphIndex, free_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.targets.target import Target

    Rewrite = Callable[[ModelProto, Target], int]


class Phase(IntEnum):
    """Order of repairs: those of a phase enable those of the next."""

    SPELLING = 0
    WEIGHTS = 1
    CODES = 2
    PLACEMENT = 3
    STORAGE = 4
    PRECISION = 5
    VERSIONS = 6


@dataclass(frozen=True, slots=True)
class Repair:
    """A rewrite that removes findings of some rules.

    ``apply`` changes a model in place for a target and returns the number of changed places. ``rounding`` is the error
    of another float type as a share of a tensor's range; 0 where types are unchanged.
    """

    phase: Phase
    rules: tuple[str, ...]
    title: str
    apply: Rewrite
    rounding: float = 0.0


def repair(phase: Phase, title: str, *rules: str, rounding: float = 0.0) -> Callable[[Rewrite], Repair]:
    """Decorator that makes a ``Repair`` of a function."""
    return lambda apply: Repair(phase, rules, title, apply, rounding)


def store(model: ModelProto, name: str, value: NDArray[np.generic]) -> str:
    """Adds an initializer under that name or the first free one like it; returns its name."""
    view = GraphIndex.of(model)
    inputs = {entry.name for entry in model.graph.input}
    name = free_name(name, {*view.constants, *view.producers, *inputs})
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, order="C"), name))
    return name


def insert_before(model: ModelProto, node: NodeProto, *new: NodeProto) -> None:
    """Inserts nodes directly before another one."""
    position = next(index for index, entry in enumerate(model.graph.node) if entry is node or entry == node)
    for offset, entry in enumerate(new):
        model.graph.node.insert(position + offset, entry)


def set_attribute(node: NodeProto, name: str, value: object) -> None:
    """Writes an attribute, or removes it where the value is None."""
    others = [entry for entry in node.attribute if entry.name != name]
    node.ClearField("attribute")
    node.attribute.extend(others)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))


def bypass(model: ModelProto, node: NodeProto, index: int) -> bool:
    """Connects a read of a dequantized activation to the float tensor; False where there is no pair."""
    pair = GraphIndex.of(model).pair(node.input[index])
    if pair is None:
        return False
    node.input[index] = pair[0].input[0]
    return True
