"""``GraphIndex``: an ONNX graph with its edges spelt out, for everything that reads or rewrites one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that multiply by a weight, which is their input 1."""

COUNTED = ("Conv", "Gemm", "MatMul")
"""Those of them whose MACs and integer kernels are counted: ResNets have no transposed convolution."""

BIASED = ("Conv", "ConvTranspose", "Gemm")
"""Those of them with a bias, which is their input 2."""

_NIBBLES = (TensorProto.INT4, TensorProto.UINT4)


@dataclass(frozen=True)
class GraphIndex:
    """Edges and constants of a model's main graph; a snapshot, stale once the model changes.

    Attributes:
        model: The model looked at.
        producers: Tensor name to the node that makes it.
        readers: Tensor name to every ``(node, input index)`` that reads it.
        constants: Tensor name to its value: initializers and outputs of Constant nodes.
    """

    model: ModelProto
    producers: dict[str, NodeProto]
    readers: dict[str, tuple[tuple[NodeProto, int], ...]]
    constants: dict[str, TensorProto]

    @classmethod
    def of(cls, model: ModelProto) -> GraphIndex:
        """Indexes a model."""
        readers: dict[str, list[tuple[NodeProto, int]]] = {}
        producers: dict[str, NodeProto] = {}
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                readers.setdefault(name, []).append((node, index))
            producers.update(dict.fromkeys(node.output, node))
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                constants[node.output[0]] = node.attribute[0].t
        return cls(model, producers, {name: tuple(found) for name, found in readers.items()}, constants)

    @property
    def nodes(self) -> tuple[NodeProto, ...]:
        """Nodes in execution order."""
        return tuple(self.model.graph.node)

    def of_type(self, *kinds: str) -> tuple[NodeProto, ...]:
        """Nodes of these operator types, in execution order."""
        return tuple(node for node in self.nodes if node.op_type in kinds)

    def producer(self, tensor: str, *kinds: str) -> NodeProto | None:
        """The node that makes a tensor, None where it is an input, a constant, or made by another operator type."""
        node = self.producers.get(tensor)
        return node if node is not None and (not kinds or node.op_type in kinds) else None

    def consumers(self, tensor: str) -> tuple[tuple[NodeProto, int], ...]:
        """Every ``(node, input index)`` that reads a tensor."""
        return self.readers.get(tensor, ())

    def value(self, tensor: str) -> NDArray[np.generic] | None:
        """Value of a constant tensor, None where it is computed."""
        proto = self.constants.get(tensor)
        if proto is None:
            return None
        value = np.asarray(numpy_helper.to_array(proto))
        return value.astype(np.int8) if proto.data_type in _NIBBLES else value  # numpy has no type of 4 bits

    def is_weight_dequantizer(self, node: NodeProto) -> bool:
        """Whether a DequantizeLinear yields a constant: int8 codes, or a float constant behind QuantizeLinear."""
        if node.op_type != "DequantizeLinear":
            return False
        quantizer = self.producer(node.input[0], "QuantizeLinear")
        return (quantizer.input[0] if quantizer is not None else node.input[0]) in self.constants

    def origin(self, tensor: str) -> str:
        """The float tensor behind a Q/DQ pair; the tensor itself where there is none."""
        pair = self.pair(tensor)
        return pair[0].input[0] if pair is not None else tensor

    def pair(self, tensor: str) -> tuple[NodeProto, NodeProto] | None:
        """The ``(QuantizeLinear, DequantizeLinear)`` of an activation that ends in this tensor."""
        dequantizer = self.producer(tensor, "DequantizeLinear")
        if dequantizer is None:
            return None
        quantizer = self.producer(dequantizer.input[0], "QuantizeLinear")
        if quantizer is None or quantizer.input[0] in self.constants:
            return None
        return quantizer, dequantizer


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Value of a node's attribute as a Python value."""
    found = next((entry for entry in node.attribute if entry.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def label(node: NodeProto) -> str:
    """How to name a node in a message: its own name, otherwise its operator and output."""
    return node.name or f"{node.op_type} -> {node.output[0] if node.output else '?'}"


def free_name(name: str, taken: set[str]) -> str:
    """That name, or the first numbered one nobody has; taken from now on."""
    free = next(
        candidate for candidate in (name, *(f"{name}.{n}" for n in range(len(taken) + 1))) if candidate not in taken
    )
    taken.add(free)
    return free


def opset_of(model: ModelProto) -> int:
    """Version of the default operator set, 0 where the file imports none."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
