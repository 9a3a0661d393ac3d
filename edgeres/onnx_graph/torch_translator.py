"""``Translator``: an ONNX graph as a torch graph, node by node, with the graph's scales.

XNNPACK computes in int8 only: per-tensor affine activations, symmetric weights with a scale per output channel, int32
biases of scale ``s_input * s_weight`` (executorch/backends/xnnpack/quantizer). A uint8 code with zero-point ``z`` and
the int8 code 128 below it with zero-point ``z - 128`` represent the same number, so uint8 graphs are converted without
a change of any value.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.ao.quantization.fx import _decomposed  # noqa: F401  # makes ops.quantized_decomposed
from torch.fx import Graph, GraphModule, Node

from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex, input_at, label
from edgeres.onnx_graph.operator_counts import tensor_shapes
from edgeres.onnx_graph.stored_weights import dequantized_weight, stored_weight

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import NodeProto

    TorchOperator = Callable[["Translator", NodeProto], Node | list[Node]]

OTHER_RUNTIME = "choose a target with another runtime"

SHIFT = 128
"""From uint8 codes to int8 codes."""


class Translator:
    """Reads tensors, weights and scales of an ONNX graph, and appends torch operators to a torch graph."""

    def __init__(self, view: GraphIndex, operators: Mapping[str, TorchOperator]) -> None:
        self.view = view
        self.operators = operators
        self.graph = Graph()
        self.root = torch.nn.Module()
        self.nodes: dict[str, Node] = {}
        self.names: list[str] = []
        self._current = ""
        self.integer = frozenset(node.output[0] for node in view.of_type(*WEIGHTED) if _runs_in_integers(view, node))

    def module(self, shown: Sequence[str]) -> GraphModule:
        """Translates every node."""
        model = self.view.model
        for image in model.graph.input:
            if image.name not in self.view.constants:
                self.nodes[image.name] = self.graph.placeholder(image.name)
        for node in self.view.nodes:
            if node.op_type not in ("DequantizeLinear", "Constant"):
                results = self.translated(node)
                self.nodes.update(zip(node.output, results if isinstance(results, list) else [results], strict=False))
        logits = self.tensor(model.graph.output[0].name)
        self.graph.output((logits, *(self.nodes[name] for name in shown)) if shown else logits)
        return GraphModule(self.root, self.graph).eval()

    def translated(self, node: NodeProto) -> Node | list[Node]:
        """The torch node that computes a node's output, or one for each of its outputs."""
        if node.op_type not in self.operators or node.domain not in ("", "ai.onnx"):
            raise StageError(f"{label(node)}: edgeres has no {node.op_type} for ExecuTorch", OTHER_RUNTIME)
        self._current = label(node)
        return self.operators[node.op_type](self, node)

    def call(self, operator: Any, *arguments: Any) -> Node:
        """Appends a torch operator."""
        self.names.append(self._current)
        return self.graph.call_function(operator, arguments)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor for a batch of one.

        Raises:
            StageError: It has no fixed shape.
        """
        shape = self._shapes.get(tensor)
        if shape is None or min(shape, default=1) < 1:
            raise StageError(f"tensor {tensor!r} has no fixed shape", "export the graph for images of one size")
        return shape

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return tensor_shapes(self.view.model)

    def constant(self, value: NDArray[np.generic]) -> Node:
        """Stores a constant and reads it."""
        name = f"constant{sum(1 for _ in self.root.buffers())}"
        self.root.register_buffer(name, torch.from_numpy(np.array(value)))
        return self.graph.get_attr(name)

    def tensor(self, name: str) -> Node:
        """The input of a node; each reader gets a DequantizeLinear of its own, as XNNPACK's patterns require."""
        if name in self.nodes:
            return self.nodes[name]
        value = self.view.value(name)
        if value is not None:
            return self.constant(value)
        node = self.view.producers[name]
        if self.view.weight_dequantizer(name) is not None:
            return self.constant(_floats(self.view, node))
        scale, zero = self.affine(node)
        codes = self.tensor(node.input[0])
        operator = torch.ops.quantized_decomposed.dequantize_per_tensor.default
        return self.call(operator, codes, scale, zero, -128, 127, torch.int8)

    def affine(self, node: NodeProto) -> tuple[float, int]:
        """Scale and int8 zero-point of an activation's quantizer."""
        scale, zero = self.view.value(node.input[1]), self.view.zero_point(node)
        if scale is None or zero is None or scale.size != 1:
            raise StageError(f"{label(node)}: the scale is not one constant", "quantize activations per tensor")
        return float(scale.reshape(())), int(zero.reshape(-1)[0]) - (SHIFT if zero.dtype == np.uint8 else 0)

    def padded(self, node: NodeProto, pads: Sequence[int]) -> Node:
        """The image that a node reads with zeros ``[top, left, bottom, right]`` around it, on the grid that it is on.

        XNNPACK pads codes between a DequantizeLinear and a QuantizeLinear of one scale.
        """
        top, left, bottom, right = pads
        image = self.tensor(node.input[0])
        image = self.call(torch.ops.aten.constant_pad_nd.default, image, [left, right, top, bottom], 0.0)
        pair = self.view.pair(node.input[0])
        if pair is None:
            return image
        grid = (*self.affine(pair[1]), -128, 127, torch.int8)
        codes = self.call(torch.ops.quantized_decomposed.quantize_per_tensor.default, image, *grid)
        return self.call(torch.ops.quantized_decomposed.dequantize_per_tensor.default, codes, *grid)

    def weight(self, node: NodeProto, *, transposed: bool) -> Node:
        """The weight ``[OC,...]`` of a node, as codes with a dequantizer where the node runs in integers."""
        if node.output[0] not in self.integer:
            value = self.view.value(node.input[1])
            dequantizer = self.view.producer(node.input[1], "DequantizeLinear")
            floats = value if value is not None or dequantizer is None else _floats(self.view, dequantizer)
            if floats is None:
                raise StageError(f"{label(node)}: its weight is computed", OTHER_RUNTIME)
            return self.constant(floats.T if transposed else floats)
        stored = stored_weight(self.view, self.view.producers[node.input[1]])
        assert stored is not None, "asked only of layers that run in integers"
        codes = stored.codes.astype(np.int8)
        codes = codes.T if transposed else codes
        channels = np.broadcast_to(stored.scale.astype(np.float32).reshape(-1), len(codes))
        operator = torch.ops.quantized_decomposed.dequantize_per_channel.default
        zeros = np.zeros(len(codes), np.int64)
        return self.call(
            operator, self.constant(codes), self.constant(channels), self.constant(zeros), 0, -127, 127, torch.int8
        )

    def bias(self, node: NodeProto) -> Node | None:
        """The float bias ``[OC]`` of a node; XNNPACK's lowering quantizes it to int32 codes."""
        return self.tensor(node.input[2]) if input_at(node, 2) else None


def _runs_in_integers(view: GraphIndex, node: NodeProto) -> bool:
    """Whether data, weight and output of a weighted node are integers, with symmetric weights."""
    dequantizer = view.weight_dequantizer(node.input[1])
    if node.op_type == "ConvTranspose" or view.pair(node.input[0]) is None or dequantizer is None:
        return False
    if dequantized_weight(view, dequantizer) is None:
        return False
    zero = view.zero_point(dequantizer)
    if zero is None or zero.dtype != np.int8 or np.any(zero):
        return False
    return view.readers_behind_epilogue(node.output[0]) == ["QuantizeLinear"]


def _floats(view: GraphIndex, dequantizer: NodeProto) -> NDArray[np.float32]:
    values = dequantized_weight(view, dequantizer)
    if values is None:
        raise StageError(f"{label(dequantizer)}: codes or scales are computed", "store weights as constants")
    return values.astype(np.float32)
