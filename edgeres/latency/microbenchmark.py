"""Graphs that hold one layer several times, so that the difference of two of them is that layer's time in a network.

A convolution alone would be timed with what no network has around each of its layers: a call, and the change of layout
at both ends. Of a graph with the layer ``n`` times and one with it ``m`` times, the difference has neither. Layers that
keep the size stand behind each other; others stand side by side on one input and are summed, as branches of a residual
block are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.targets.runtime import Runtime

IMAGE = "image"
_ACTIVATION_SCALE, _WEIGHT_SCALE = 0.05, 0.01
_CLASSES = 1000
_SEED = 0


@dataclass(frozen=True, slots=True)
class MicrobenchmarkGraph:
    """A layer to be timed by difference.

    Attributes:
        shape: Of the input, ``[1,C,H,W]``.
        output: Shape of the output.
        grow: Adds the layer so many times to a graph.
        few: How often in the smaller graph.
        many: How often in the larger one.
    """

    shape: tuple[int, int, int, int]
    output: tuple[int, ...]
    grow: Callable[[Builder, int], str]
    few: int = 1
    many: int = 3

    def models(self, runtime: Runtime, *, integer: bool) -> tuple[ModelProto, ModelProto]:
        """The smaller and the larger graph."""
        few, many = (self._model(runtime, times, integer) for times in (self.few, self.many))
        return few, many

    def image(self) -> NDArray[np.float32]:
        """An input."""
        return np.random.default_rng(_SEED).standard_normal(self.shape, dtype=np.float32)

    def _model(self, runtime: Runtime, times: int, integer: bool) -> ModelProto:
        builder = Builder(integer=integer)
        made = self.grow(builder, times)
        image = helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, self.shape)
        output = helper.make_tensor_value_info(made, TensorProto.FLOAT, self.output)
        graph = helper.make_graph(builder.nodes, "chain", [image], [output], builder.initializers)
        opset = helper.make_opsetid("", runtime.opset)
        return helper.make_model(graph, opset_imports=[opset], ir_version=runtime.ir_version)


def pair(c_in: int, c_out: int, kernel: int, side: int, *, residual: bool = False) -> MicrobenchmarkGraph:
    """A convolution and its way back, ``c_in`` to ``c_out`` to ``c_in``, of stride 1.

    Args:
        c_in: Channels at both ends.
        c_out: Channels between.
        kernel: Side of both windows.
        side: Side of the image.
        residual: Whether the input is added to the output.
    """

    def grow(builder: Builder, times: int) -> str:
        x = builder.start()
        for _ in range(times):
            y = builder.conv(builder.conv(x, c_in, c_out, kernel), c_out, c_in, kernel, relu=not residual)
            x = builder.add([x, y]) if residual else y
        return builder.end(x)

    return MicrobenchmarkGraph((1, c_in, side, side), (1, c_in, side, side), grow)


def strided(c_in: int, c_out: int, kernel: int, side: int) -> MicrobenchmarkGraph:
    """Convolutions of stride 2 to ``side x side`` pixels, side by side and summed."""

    def grow(builder: Builder, times: int) -> str:
        x = builder.start()
        return builder.end(builder.add([builder.conv(x, c_in, c_out, kernel, 2, relu=False) for _ in range(times)]))

    return MicrobenchmarkGraph((1, c_in, 2 * side, 2 * side), (1, c_out, side, side), grow)


def stem(c_out: int, side: int) -> MicrobenchmarkGraph:
    """The 7x7 of stride 2 to ``side x side`` pixels with its ReLU and pool, side by side and summed."""

    def grow(builder: Builder, times: int) -> str:
        x = builder.start()
        return builder.end(builder.add([builder.pool(builder.conv(x, 3, c_out, 7, 2)) for _ in range(times)]))

    return MicrobenchmarkGraph((1, 3, 2 * side, 2 * side), (1, c_out, side // 2, side // 2), grow)


def head(channels: int) -> MicrobenchmarkGraph:
    """Global pool and classifier in float, side by side and summed."""

    def grow(builder: Builder, times: int) -> str:
        return builder.sum([builder.classifier(IMAGE, channels) for _ in range(times)])

    return MicrobenchmarkGraph((1, channels, 7, 7), (1, _CLASSES), grow)


class Builder:
    """Nodes of a chain; every tensor that a layer makes carries Q/DQ where the chain is in integers.

    Args:
        integer: Whether layers read dequantized tensors, as ``onnxfile.write`` places them for ONNX Runtime.
    """

    def __init__(self, *, integer: bool) -> None:
        self.integer = integer
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._random = np.random.default_rng(_SEED)

    def start(self) -> str:
        """The input, ready to be read."""
        return self._made(IMAGE)

    def end(self, tensor: str) -> str:
        """A tensor as a float output."""
        return self._read(tensor)

    def conv(self, x: str, c_in: int, c_out: int, kernel: int, stride: int = 1, *, relu: bool = True) -> str:
        """A convolution with its bias, and its ReLU."""
        bias = self._constant(np.zeros(c_out, np.float32))
        window: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        y = self._node("Conv", [self._read(x), self._weight((c_out, c_in, kernel, kernel)), bias], **window)
        return self._made(self._node("Relu", [y]) if relu else y)

    def pool(self, x: str) -> str:
        """The pool behind a stem."""
        window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
        return self._made(self._node("MaxPool", [self._read(x)], **window))

    def add(self, tensors: list[str]) -> str:
        """The sum of tensors, one add and ReLU after the other."""
        total = tensors[0]
        for tensor in tensors[1:]:
            total = self._made(self._node("Relu", [self._node("Add", [self._read(total), self._read(tensor)])]))
        return total

    def sum(self, tensors: list[str]) -> str:
        """The sum of float tensors."""
        return self._node("Sum", tensors)

    def classifier(self, x: str, channels: int) -> str:
        """Logits in float."""
        weight = self._constant(self._random.standard_normal((_CLASSES, channels), dtype=np.float32))
        flat = self._node("Flatten", [self._node("GlobalAveragePool", [x])], axis=1)
        return self._node("Gemm", [flat, weight, self._constant(np.zeros(_CLASSES, np.float32))], transB=1)

    def _made(self, tensor: str) -> str:
        """A tensor as others find it: its codes, in integers."""
        return self._node("QuantizeLinear", [tensor, *self._activation()]) if self.integer else tensor

    def _read(self, tensor: str) -> str:
        return self._node("DequantizeLinear", [tensor, *self._activation()]) if self.integer else tensor

    def _activation(self) -> list[str]:
        return [self._constant(np.array(_ACTIVATION_SCALE, np.float32)), self._constant(np.array(0, np.uint8))]

    def _weight(self, shape: tuple[int, ...]) -> str:
        if not self.integer:
            return self._constant((_WEIGHT_SCALE * self._random.standard_normal(shape)).astype(np.float32))
        codes = self._random.integers(-127, 128, shape).astype(np.int8)
        scale = self._constant(np.full(shape[0], _WEIGHT_SCALE / 64, np.float32))
        zero_points = self._constant(np.zeros(shape[0], np.int8))
        return self._node("DequantizeLinear", [self._constant(codes), scale, zero_points], axis=0)

    def _constant(self, value: NDArray[np.generic]) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def _node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name
