"""Microbenchmark graphs: pairs of ONNX graphs that hold one layer ``few`` and ``many`` times.

The time of a layer within a network is ``(t_many - t_few) / (many - few)``: the difference removes the overhead of a
call and of the layout changes at both ends, which a network has once. Layers that keep the size are repeated in
sequence; others are repeated in parallel on one input and summed, as the branches of a residual block are.
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
CLASSES = 1000
FEW, MANY = 1, 3
"""Repetitions of a layer in the smaller and in the larger graph."""


@dataclass(frozen=True, slots=True)
class MicrobenchmarkGraph:
    """A layer that is timed by the difference of two graphs, with the shapes of their input ``[1,C,H,W]`` and output.

    ``grow`` adds the layer a number of times to a graph and returns the output's name.
    """

    shape: tuple[int, int, int, int]
    output: tuple[int, ...]
    grow: Callable[[Builder, int], str]

    def models(self, runtime: Runtime, *, integer: bool) -> dict[str, ModelProto]:
        """The graphs named ``few`` and ``many``."""
        return {name: self._model(runtime, times, integer) for name, times in (("few", FEW), ("many", MANY))}

    def _model(self, runtime: Runtime, times: int, integer: bool) -> ModelProto:
        builder = Builder(integer=integer)
        output = self.grow(builder, times)
        image = helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, self.shape)
        output = helper.make_tensor_value_info(output, TensorProto.FLOAT, self.output)
        graph = helper.make_graph(builder.nodes, "chain", [image], [output], builder.initializers)
        opset = helper.make_opsetid("", runtime.opset)
        return helper.make_model(graph, opset_imports=[opset], ir_version=runtime.ir_version)


def pair(c_in: int, c_out: int, kernel: int, side: int, *, residual: bool = False) -> MicrobenchmarkGraph:
    """Two convolutions of stride 1, ``c_in`` to ``c_out`` to ``c_in`` channels, and with ``residual`` an Add."""

    def grow(builder: Builder, times: int) -> str:
        x = builder.write(IMAGE)
        for _ in range(times):
            y = builder.conv(builder.conv(x, c_in, c_out, kernel), c_out, c_in, kernel, relu=not residual)
            x = builder.add([x, y]) if residual else y
        return builder.read(x)

    return MicrobenchmarkGraph((1, c_in, side, side), (1, c_in, side, side), grow)


def strided(c_in: int, c_out: int, kernel: int, side: int) -> MicrobenchmarkGraph:
    """Convolutions of stride 2 to ``side x side`` pixels, in parallel and summed."""

    def grow(builder: Builder, times: int) -> str:
        x = builder.write(IMAGE)
        return builder.read(builder.add([builder.conv(x, c_in, c_out, kernel, 2, relu=False) for _ in range(times)]))

    return MicrobenchmarkGraph((1, c_in, 2 * side, 2 * side), (1, c_out, side, side), grow)


def stem(c_out: int, side: int) -> MicrobenchmarkGraph:
    """7x7 convolutions of stride 2 to ``side x side`` pixels with ReLU and max pool, in parallel and summed."""

    def grow(builder: Builder, times: int) -> str:
        x = builder.write(IMAGE)
        return builder.read(builder.add([builder.pool(builder.conv(x, 3, c_out, 7, 2)) for _ in range(times)]))

    return MicrobenchmarkGraph((1, 3, 2 * side, 2 * side), (1, c_out, side // 2, side // 2), grow)


def head(channels: int) -> MicrobenchmarkGraph:
    """Global average pools with classifiers in float, in parallel and summed."""

    def grow(builder: Builder, times: int) -> str:
        return builder.node("Sum", [builder.classifier(IMAGE, channels) for _ in range(times)])

    return MicrobenchmarkGraph((1, channels, 7, 7), (1, CLASSES), grow)


class Builder:
    """Builds the nodes of a microbenchmark graph.

    With ``integer`` every layer's output carries a Q/DQ pair, as ``edgeres.onnx_graph.write`` places them for ONNX
    Runtime.
    """

    def __init__(self, *, integer: bool) -> None:
        self.integer = integer
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._random = np.random.default_rng(0)

    def conv(self, x: str, c_in: int, c_out: int, kernel: int, stride: int = 1, *, relu: bool = True) -> str:
        """A convolution with bias and, unless ``relu`` is false, ReLU."""
        bias = self._constant(np.zeros(c_out, np.float32))
        window: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        y = self.node("Conv", [self.read(x), self._weight((c_out, c_in, kernel, kernel)), bias], **window)
        return self.write(self.node("Relu", [y]) if relu else y)

    def pool(self, x: str) -> str:
        """The 3x3 max pool of stride 2 after a stem."""
        window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
        return self.write(self.node("MaxPool", [self.read(x)], **window))

    def add(self, tensors: list[str]) -> str:
        """The sum of tensors by successive Add and ReLU."""
        total = tensors[0]
        for tensor in tensors[1:]:
            total = self.write(self.node("Relu", [self.node("Add", [self.read(total), self.read(tensor)])]))
        return total

    def classifier(self, x: str, channels: int) -> str:
        """Global average pool and classifier in float."""
        weight = self._constant(self._random.standard_normal((CLASSES, channels), dtype=np.float32))
        flat = self.node("Flatten", [self.node("GlobalAveragePool", [x])], axis=1)
        return self.node("Gemm", [flat, weight, self._constant(np.zeros(CLASSES, np.float32))], transB=1)

    def write(self, tensor: str) -> str:
        """A tensor, quantized where the graph is in integers."""
        return self.node("QuantizeLinear", [tensor, *self._activation()]) if self.integer else tensor

    def read(self, tensor: str) -> str:
        """A written tensor in float."""
        return self.node("DequantizeLinear", [tensor, *self._activation()]) if self.integer else tensor

    def _activation(self) -> list[str]:
        return [self._constant(np.array(_ACTIVATION_SCALE, np.float32)), self._constant(np.array(0, np.uint8))]

    def _weight(self, shape: tuple[int, ...]) -> str:
        if not self.integer:
            return self._constant((_WEIGHT_SCALE * self._random.standard_normal(shape)).astype(np.float32))
        codes = self._random.integers(-127, 128, shape).astype(np.int8)
        scale = self._constant(np.full(shape[0], _WEIGHT_SCALE / 64, np.float32))
        zero_points = self._constant(np.zeros(shape[0], np.int8))
        return self.node("DequantizeLinear", [self._constant(codes), scale, zero_points], axis=0)

    def _constant(self, value: NDArray[np.generic]) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Adds a node; returns the name of its output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name
