"""``GraphIndex``: producers, readers and constants of an ONNX graph; attributes and labels of its nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

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

QDQ = ("QuantizeLinear", "DequantizeLinear")

COMMUTING = (
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Concat", "Relu",
    "Pad",
)  # fmt: skip
"""Operators that commute with Q/DQ."""

_NIBBLES = (TensorProto.INT4, TensorProto.UINT4)


@dataclass(frozen=True)
class GraphIndex:
    """Edges and constants of a model's main graph; a snapshot that is invalid once the model changes.

    Attributes:
        readers: Every ``(node, input index)`` that reads a tensor, by tensor name.
        constants: Value of initializers and outputs of Constant nodes, by tensor name.
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
        return cls(model, producers, {name: tuple(reads) for name, reads in readers.items()}, constants)

    @property
    def nodes(self) -> tuple[NodeProto, ...]:
        """Nodes in execution order."""
        return tuple(self.model.graph.node)

    def of_type(self, *kinds: str) -> tuple[NodeProto, ...]:
        """Nodes of these operator types, in execution order."""
        return tuple(node for node in self.nodes if node.op_type in kinds)

    def producer(self, tensor: str, *kinds: str) -> NodeProto | None:
        """The node that computes a tensor; None where it is an input, a constant, or of another operator type."""
        node = self.producers.get(tensor)
        return node if node is not None and (not kinds or node.op_type in kinds) else None

    def consumers(self, tensor: str) -> tuple[tuple[NodeProto, int], ...]:
        """Every ``(node, input index)`` that reads a tensor."""
        return self.readers.get(tensor, ())

    def value(self, tensor: str) -> NDArray[np.generic] | None:
        """Value of a constant tensor; None where it is computed."""
        proto = self.constants.get(tensor)
        if proto is None:
            return None
        value = np.asarray(numpy_helper.to_array(proto))
        return value.astype(np.int8) if proto.data_type in _NIBBLES else value  # numpy has no 4-bit type

    def behind_epilogue(self, tensor: str) -> str:
        """A layer's output, or that of the one Relu or Clip that reads it and fuses with it."""
        readers = self.consumers(tensor)
        fused = len(readers) == 1 and readers[0][0].op_type in ("Relu", "Clip")
        return str(readers[0][0].output[0]) if fused else tensor

    def readers_behind_epilogue(self, tensor: str) -> list[str]:
        """Operators that read a layer's output, or that of the one Relu or Clip that reads it and fuses with it."""
        return [reader.op_type for reader, _ in self.consumers(self.behind_epilogue(tensor))]

    def zero_point(self, node: NodeProto) -> NDArray[np.generic] | None:
        """Zero-point of an activation's Q/DQ node; uint8 0 where it has none, None where it is computed."""
        name = input_at(node, 2)
        return self.value(name) if name else np.zeros((), np.uint8)

    def weight_dequantizer(self, tensor: str) -> NodeProto | None:
        """The DequantizeLinear that makes a tensor of a constant: of codes, or of floats behind QuantizeLinear."""
        node = self.producer(tensor, "DequantizeLinear")
        return node if node is not None and self.source(node) in self.constants else None

    def source(self, node: NodeProto) -> str:
        """The tensor that a DequantizeLinear reads, or the QuantizeLinear in front of it."""
        quantizer = self.producer(node.input[0], "QuantizeLinear")
        return str(quantizer.input[0] if quantizer is not None else node.input[0])

    def activation_quantizers(self) -> tuple[NodeProto, ...]:
        """Every QuantizeLinear of an activation, in execution order."""
        return tuple(node for node in self.of_type("QuantizeLinear") if node.input[0] not in self.constants)

    def quantizers_of(self, tensor: str) -> list[NodeProto]:
        """QuantizeLinear nodes that quantize a tensor."""
        return [node for node, index in self.consumers(tensor) if node.op_type == "QuantizeLinear" and index == 0]

    def origin(self, tensor: str) -> str:
        """The float tensor before a Q/DQ pair; the tensor itself where there is none."""
        pair = self.pair(tensor)
        return pair[0].input[0] if pair is not None else tensor

    def pair(self, tensor: str) -> tuple[NodeProto, NodeProto] | None:
        """The ``(QuantizeLinear, DequantizeLinear)`` of an activation that ends in this tensor."""
        dequantizer = self.producer(tensor, "DequantizeLinear")
        quantizer = self.producer(dequantizer.input[0], "QuantizeLinear") if dequantizer is not None else None
        if dequantizer is None or quantizer is None or quantizer.input[0] in self.constants:
            return None
        return quantizer, dequantizer


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Value of a node's attribute as a Python value."""
    stated = next((entry for entry in node.attribute if entry.name == name), None)
    return default if stated is None else helper.get_attribute_value(stated)


def input_at(node: NodeProto, index: int) -> str:
    """The tensor that a node reads there; empty where it has no such input."""
    return node.input[index] if index < len(node.input) else ""


def has_transposed_weight(node: NodeProto) -> bool:
    """Whether the weight of a matrix product is ``[IC,OC]`` rather than ``[OC,IC]``."""
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0))


def output_channel_axis(node: NodeProto, shape: tuple[int, ...]) -> int:
    """Output-channel axis of a weight ``[OC,IC,kh,kw]``, ``[OC,IC]`` or ``[IC,OC]``."""
    if node.op_type == "ConvTranspose":
        return 1
    return max(len(shape) - 1, 0) if has_transposed_weight(node) else 0


class WindowAttributes(NamedTuple):
    """Window of a Conv, ConvTranspose or pool over ``[N,C,H,W]``, vertical before horizontal.

    Attributes:
        kernel: Height and width; of another length where the node is not two-dimensional.
        pads: Rows above, columns left, rows below, columns right.
        auto_pad: ``NOTSET`` where ``pads`` holds, otherwise ``VALID``, ``SAME_UPPER`` or ``SAME_LOWER``.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...] = (1, 1)
    pads: tuple[int, ...] = (0, 0, 0, 0)
    dilations: tuple[int, ...] = (1, 1)
    auto_pad: str = "NOTSET"


def window_attributes(node: NodeProto, weight: tuple[int, ...] = ()) -> WindowAttributes:
    """The window of a node, with the defaults of the ONNX operator specification.

    ``weight`` is the height and width of a convolution's weight, which stand for a ``kernel_shape`` that is left out.
    """
    return WindowAttributes(
        kernel=tuple(attribute(node, "kernel_shape") or weight),
        strides=tuple(attribute(node, "strides") or (1, 1)),
        pads=tuple(attribute(node, "pads") or (0, 0, 0, 0)),
        dilations=tuple(attribute(node, "dilations") or (1, 1)),
        auto_pad=(attribute(node, "auto_pad") or b"NOTSET").decode(),
    )


def label(node: NodeProto) -> str:
    """Name of a node in messages: its own name, otherwise its operator and output."""
    return node.name or f"{node.op_type} -> {node.output[0] if node.output else '?'}"


def opset_of(model: ModelProto) -> int:
    """Version of the default operator set; 0 where the file imports none."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
