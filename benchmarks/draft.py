"""A graph under edit, for tests and benchmarks that break one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto


class Draft:
    """A copy of a graph under edit; nodes go by their names, tensors by theirs."""

    def __init__(self, model: ModelProto) -> None:
        self.model = type(model)()
        self.model.CopyFrom(model)
        self.model.graph.ClearField("value_info")

    def node(self, name: str) -> NodeProto:
        """The node of that name."""
        found: NodeProto = next(node for node in self.model.graph.node if node.name == name)
        return found

    def value(self, name: str) -> NDArray[Any]:
        """Value of an initializer."""
        return np.asarray(numpy_helper.to_array(next(t for t in self.model.graph.initializer if t.name == name)))

    def put(self, name: str, value: NDArray[np.generic]) -> str:
        """Adds or replaces an initializer."""
        kept = [tensor for tensor in self.model.graph.initializer if tensor.name != name]
        copies = [type(tensor).FromString(tensor.SerializeToString()) for tensor in kept]
        self.model.graph.ClearField("initializer")
        self.model.graph.initializer.extend([*copies, numpy_helper.from_array(np.array(value, order="C"), name)])
        return name

    def before(self, name: str, *nodes: NodeProto) -> None:
        """Inserts nodes in front of the named one."""
        position = [node.name for node in self.model.graph.node].index(name)
        for offset, node in enumerate(nodes):
            self.model.graph.node.insert(position + offset, node)

    def drop(self, *names: str) -> None:
        """Removes nodes."""
        for name in names:
            self.model.graph.node.remove(self.node(name))

    @staticmethod
    def pair(tensor: str, prefix: str, scale: str, zero: str) -> tuple[NodeProto, NodeProto]:
        """A new Q/DQ pair ``prefix.q``, ``prefix.dq`` of a tensor."""
        return (
            helper.make_node("QuantizeLinear", [tensor, scale, zero], [f"{prefix}.q"], name=f"{prefix}.q"),
            helper.make_node("DequantizeLinear", [f"{prefix}.q", scale, zero], [f"{prefix}.dq"], name=f"{prefix}.dq"),
        )

    def attribute(self, node: str, name: str, value: Any) -> None:
        """Writes an attribute of a node; None removes it."""
        entry = self.node(node)
        kept = [found for found in entry.attribute if found.name != name]
        entry.ClearField("attribute")
        entry.attribute.extend(kept)
        if value is not None:
            entry.attribute.append(helper.make_attribute(name, value))
