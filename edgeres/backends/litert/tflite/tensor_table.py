"""``TensorTable``: the tensors of a ``.tflite`` file by ONNX tensor, in float or as codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.litert.tflite.parameters import activation_grid, real_constant
from edgeres.backends.litert.tflite.program import Operator, Program, QuantizationParameters, Tensor
from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.onnx_graph.operator_counts import tensor_shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto

    from edgeres.backends.litert.tflite.program import Type, Value

_TYPES: dict[str, Type] = {"float32": "FLOAT32", "int32": "INT32", "int8": "INT8"}
OTHER_RUNTIME = "take a runtime that reads ONNX: the same target without ':litert'"
"""Hint where a network has no form in LiteRT."""
_INT8_VERSION = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "QUANTIZE": 1, "RESHAPE": 1}


class TensorTable:
    """A ``.tflite`` file under construction.

    Every ONNX tensor is computed once, in float or on one grid; other forms are converted from that one on first read.
    ``view`` is the index of the graph.
    """

    def __init__(self, model: ModelProto) -> None:
        self.view = GraphIndex.of(model)
        self._shapes = tensor_shapes(model)
        self._outputs = {value.name for value in model.graph.output}
        self._tensors: list[Tensor] = []
        self._operators: list[Operator] = []
        self._indices: dict[str, int] = {}
        self._forms: dict[tuple[str, QuantizationParameters | None], int] = {}

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of an ONNX tensor in ONNX's layout, for a batch of one.

        Raises:
            StageError: It is unknown.
        """
        shape = self._shapes.get(tensor)
        if not shape or min(shape) < 1:
            raise StageError(f"tensor {tensor!r} has no fixed shape", "export the graph for images of one size")
        return shape

    def constant(self, name: str, value: Value, grid: QuantizationParameters | None = None) -> int:
        """A new constant."""
        self._tensors.append(Tensor(name, value.shape, _TYPES[value.dtype.name], grid, value))
        return len(self._tensors) - 1

    def activation(self, name: str, shape: tuple[int, ...], grid: QuantizationParameters | None) -> int:
        """A new activation with a shape in LiteRT's layout."""
        self._tensors.append(Tensor(name, shape, "INT8" if grid else "FLOAT32", grid))
        return len(self._tensors) - 1

    def operate(
        self,
        kind: str,
        inputs: tuple[int, ...],
        output: int,
        table: str = "",
        version: int | None = None,
        **options: float,
    ) -> int:
        """A new operator with an options table; returns its output.

        Its version, unless stated, is the lowest that takes the type of its first input (op_version.cc of the
        converter, tools/versioning).
        """
        integers = self._tensors[inputs[0]].type == "INT8"
        lowest = _INT8_VERSION.get(kind, 2) if integers else 1
        self._operators.append(Operator(kind, version or lowest, inputs, output, table, options))
        return output

    def make(self, tensor: str, grid: QuantizationParameters | None) -> int:
        """Declares the form in which an ONNX tensor is computed."""
        self._indices[tensor] = self.activation(tensor, _laid_out(self.shape(tensor)), grid)
        return self._indices[tensor]

    def adopt(self, tensor: str, other: str) -> None:
        """Maps an ONNX tensor to another one's, for operators without effect."""
        self._indices[tensor] = self._native(other)

    def grid(self, tensor: str) -> QuantizationParameters | None:
        """The grid of an ONNX tensor; None where it is float or a constant."""
        return None if self.view.value(tensor) is not None else self._tensors[self._native(tensor)].grid

    def grid_of(self, index: int) -> QuantizationParameters | None:
        """The grid of a tensor of the file."""
        return self._tensors[index].grid

    def shape_of(self, index: int) -> tuple[int, ...]:
        """The shape of a tensor of the file."""
        return self._tensors[index].shape

    def wanted(self, tensor: str) -> QuantizationParameters | None:
        """The grid of all readers of an ONNX tensor; None where one reads it in float or grids differ."""
        if tensor in self._outputs:
            return None
        readers = self.view.consumers(tensor)
        if not readers or any(node.op_type != "QuantizeLinear" for node, _ in readers):
            return None
        grids = {activation_grid(self.view, node) for node, _ in readers}
        return grids.pop() if len(grids) == 1 else None

    def is_output(self, tensor: str) -> bool:
        """Whether the tensor is an output of the graph."""
        return tensor in self._outputs

    def read(self, tensor: str, grid: QuantizationParameters | None) -> int:
        """An ONNX tensor in float (``grid`` None) or as codes of a grid, converted where it is in another form."""
        if (constant := real_constant(self.view, tensor)) is not None:
            return self._constant(tensor, constant)
        native = self._native(tensor)
        if self._tensors[native].grid == grid:
            return native
        if (tensor, grid) not in self._forms:
            kind, table = ("DEQUANTIZE", "DequantizeOptions") if grid is None else ("QUANTIZE", "QuantizeOptions")
            ending = "float" if grid is None else "codes"
            converted = self.activation(f"{tensor};{ending}", self._tensors[native].shape, grid)
            self._forms[tensor, grid] = self.operate(kind, (native,), converted, table)
        return self._forms[tensor, grid]

    def program(self, image: str, logits: str, shown: Sequence[str]) -> Program:
        """The finished program; ``shown`` names codes, outputs of QuantizeLinear, that become additional outputs."""
        outputs = [self.read(logits, None)]
        for name in shown:
            quantizer = self.view.producer(name, "QuantizeLinear")
            if quantizer is None:
                raise StageError(f"tensor {name!r} holds no codes", "show outputs of QuantizeLinear")
            outputs.append(self.read(quantizer.input[0], activation_grid(self.view, quantizer)))
        names = (image, logits, *shown)
        return Program(tuple(self._tensors), tuple(self._operators), self._indices[image], tuple(outputs), names)

    def _native(self, tensor: str) -> int:
        """The form in which an ONNX tensor is computed; after a Q/DQ pair that is codes on the pair's grid."""
        if tensor not in self._indices:
            pair = self.view.pair(tensor)
            if pair is None:
                raise StageError(f"tensor {tensor!r} is read before it is computed", "export the graph again")
            self._indices[tensor] = self.read(pair[0].input[0], activation_grid(self.view, pair[0]))
        return self._indices[tensor]

    def _constant(self, tensor: str, value: Value) -> int:
        """A constant operand ``[C,1,1]``, ``[1,C,1,1]`` or of one element, which broadcasts over ``[N,H,W,C]``."""
        if (tensor, None) not in self._forms:
            if value.size != max(value.shape, default=1) or (value.size > 1 and value.shape[-2:] != (1, 1)):
                raise StageError(f"constant {tensor!r} of shape {value.shape}", "LiteRT's file takes one per channel")
            self._forms[tensor, None] = self.constant(tensor, np.ascontiguousarray(value.reshape(-1)))
        return self._forms[tensor, None]


def _laid_out(shape: tuple[int, ...]) -> tuple[int, ...]:
    """``[N,C,H,W]`` as ``[N,H,W,C]``; other ranks are unchanged."""
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape
