"""``TensorTable``: the tensors of a ``.tflite`` file by ONNX tensor, in float or as codes of LiteRT's integer kernels.

Activations are int8 of one scale with a zero-point; weights int8 of one scale per output channel, zero-point 0, codes
``[-127, 127]``; biases int32 at ``s_in * s_weight`` (ai.google.dev/edge/litert/models/quantization_spec). A uint8 code
less 128 is an int8 code of the same number, so ONNX's unsigned activations are shifted and not rounded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.litert.tflite.program import Operator, Program, QuantizationParameters, Tensor
from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import GraphIndex, label
from edgeres.onnx_graph.operator_counts import tensor_shapes
from edgeres.onnx_graph.stored_weights import stored_weight
from edgeres.quant.qparams import roomy_scales

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.backends.litert.tflite.program import Type, Value

TOP = 127
"""Largest magnitude of a weight's code: kernels for ARM add two products in 16 bits, where -128 twice overflows."""
_TYPES: dict[str, Type] = {"float32": "FLOAT32", "int32": "INT32", "int8": "INT8"}
OTHER_RUNTIME = "take a runtime that reads ONNX: the same target without ':litert'"
"""Hint where a network has no form in LiteRT."""
_INT8_VERSION = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "QUANTIZE": 1, "RESHAPE": 1}


class TensorTable:
    """A ``.tflite`` file under construction.

    Every ONNX tensor is computed once, in float or on one grid; other forms are converted from that one on first read.
    ``view`` is the index of the graph, ``outputs`` its outputs, ``tensors`` are those of the file.
    """

    def __init__(self, model: ModelProto) -> None:
        self.view = GraphIndex.of(model)
        self._shapes = tensor_shapes(model)
        self.outputs = {value.name for value in model.graph.output}
        self.tensors: list[Tensor] = []
        self._operators: list[Operator] = []
        self._indices: dict[str, int] = {}
        self._forms: dict[tuple[str, QuantizationParameters | None], int] = {}

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of an ONNX tensor in ONNX's layout, for a batch of one."""
        shape = self._shapes.get(tensor)
        if not shape or min(shape) < 1:
            raise StageError(f"tensor {tensor!r} has no fixed shape", "export the graph for images of one size")
        return shape

    def constant(self, name: str, value: Value, grid: QuantizationParameters | None = None) -> int:
        """A new constant."""
        self.tensors.append(Tensor(name, value.shape, _TYPES[value.dtype.name], grid, value))
        return len(self.tensors) - 1

    def activation(self, name: str, shape: tuple[int, ...], grid: QuantizationParameters | None) -> int:
        """A new activation with a shape in LiteRT's layout."""
        self.tensors.append(Tensor(name, shape, "INT8" if grid else "FLOAT32", grid))
        return len(self.tensors) - 1

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
        integers = self.tensors[inputs[0]].type == "INT8"
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
        return None if self.view.value(tensor) is not None else self.tensors[self._native(tensor)].grid

    def wanted(self, tensor: str) -> QuantizationParameters | None:
        """The grid of all readers of an ONNX tensor; None where one reads it in float or grids differ."""
        if tensor in self.outputs:
            return None
        readers = self.view.consumers(tensor)
        if not readers or any(node.op_type != "QuantizeLinear" for node, _ in readers):
            return None
        grids = {activation_grid(self.view, node) for node, _ in readers}
        return grids.pop() if len(grids) == 1 else None

    def read(self, tensor: str, grid: QuantizationParameters | None) -> int:
        """An ONNX tensor in float (``grid`` None) or as codes of a grid, converted where it is in another form."""
        if (constant := real_constant(self.view, tensor)) is not None:
            return self._constant(tensor, constant)
        native = self._native(tensor)
        if self.tensors[native].grid == grid:
            return native
        if (tensor, grid) not in self._forms:
            kind, table = ("DEQUANTIZE", "DequantizeOptions") if grid is None else ("QUANTIZE", "QuantizeOptions")
            ending = "float" if grid is None else "codes"
            converted = self.activation(f"{tensor};{ending}", self.tensors[native].shape, grid)
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
        return Program(tuple(self.tensors), tuple(self._operators), self._indices[image], tuple(outputs), names)

    def _native(self, tensor: str) -> int:
        """The form in which an ONNX tensor is computed; after a Q/DQ pair that is codes on the pair's grid."""
        if tensor not in self._indices:
            pair = self.view.pair(tensor)
            if pair is None:
                raise StageError(f"tensor {tensor!r} is read before it is computed", "export the graph again")
            self._indices[tensor] = self.read(pair[0].input[0], activation_grid(self.view, pair[0]))
        return self._indices[tensor]

    def _constant(self, tensor: str, value: Value) -> int:
        """A constant operand, which broadcasts over ``[N,H,W,C]``: one element, one per channel, or ``[1,C,H,W]``."""
        if (tensor, None) not in self._forms and value.ndim == 4 and value.size != value.shape[1]:
            self._forms[tensor, None] = self.constant(tensor, np.ascontiguousarray(np.moveaxis(value, 1, -1)))
        if (tensor, None) not in self._forms:
            if value.size != max(value.shape, default=1) or (value.size > 1 and value.shape[-2:] != (1, 1)):
                raise StageError(f"constant {tensor!r} of shape {value.shape}", "LiteRT's file takes one per channel")
            self._forms[tensor, None] = self.constant(tensor, np.ascontiguousarray(value.reshape(-1)))
        return self._forms[tensor, None]


def _laid_out(shape: tuple[int, ...]) -> tuple[int, ...]:
    """``[N,C,H,W]`` as ``[N,H,W,C]``; other ranks are unchanged."""
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape


def activation_grid(view: GraphIndex, node: NodeProto) -> QuantizationParameters:
    """int8 quantization parameters of an activation's QuantizeLinear or DequantizeLinear."""
    scale, zero = view.value(node.input[1]), view.zero_point(node)
    if scale is None or zero is None or scale.size != 1:
        raise StageError(f"{label(node)}: LiteRT takes one constant scale per activation", "quantize per tensor")
    if zero.dtype not in (np.dtype(np.uint8), np.dtype(np.int8)):
        raise StageError(f"{label(node)}: activations of type {zero.dtype}", "LiteRT takes 8 bits: quantize to uint8")
    shift = 128 if zero.dtype == np.uint8 else 0
    return QuantizationParameters((float(np.float32(scale.item())),), int(zero.item()) - shift)


@dataclass(frozen=True, slots=True)
class Codes:
    """A quantized weight: int32 codes ``[O,...]`` with the zero-point 0, and their scale float32 ``[O]``."""

    values: NDArray[np.int32]
    scale: NDArray[np.float32]

    @property
    def real(self) -> NDArray[np.float32]:
        """The dequantized values."""
        shape = (-1, *[1] * (self.values.ndim - 1))
        return (self.values * self.scale.reshape(shape)).astype(np.float32)


def weight_codes(view: GraphIndex, node: NodeProto) -> Codes | None:
    """The codes of a convolution's weight; None where it is float."""
    dequantizer = view.weight_dequantizer(node.input[1])
    if dequantizer is None:
        return None
    stored, scale = stored_weight(view, dequantizer), view.value(dequantizer.input[1])
    if scale is not None and (scale.ndim > 1 or (stored is not None and stored.axis not in (None, 0))):
        raise StageError(f"{label(node)}: weight scales that do not count output channels", "quantize along axis 0")
    if stored is None:
        raise StageError(
            f"{label(dequantizer)}: a weight that is computed, or whose scales do not match its channels",
            "export weights as constants",
        )
    values = stored.codes
    top = int(np.abs(values).max(initial=0))
    if top > TOP:
        raise StageError(
            f"{label(node)}: weight codes up to {top} on a symmetric grid; LiteRT's kernels take -{TOP} to {TOP}",
            "quantize weights symmetrically, without the lowest code",
        )
    channels = np.broadcast_to(stored.scale.astype(np.float32).reshape(-1), (len(values),))
    return Codes(values, np.array(channels))


def real_constant(view: GraphIndex, tensor: str) -> NDArray[np.float32] | None:
    """A constant in float32, dequantized where needed; None where it is not constant."""
    value = view.value(tensor)
    if value is not None:
        return value.astype(np.float32)
    dequantizer = view.weight_dequantizer(tensor)
    stored = stored_weight(view, dequantizer) if dequantizer is not None else None
    return stored.dequantized.astype(np.float32) if stored is not None else None


def with_room_for_bias(codes: Codes, bias: NDArray[np.float32], step: float) -> tuple[Codes, NDArray[np.int32]]:
    """Codes and the int32 bias ``[O]`` at ``step * scale``, with scales raised where the accumulator could overflow.

    Graphs that edgeres quantized fit already (``edgeres.quant.qparams`` has the bounds); imported ones may not.
    ``step`` is the scale of the input.
    """
    scale = roomy_scales(codes.scale, codes.real, bias, step)
    changed = scale != codes.scale
    if changed.any():
        factor = (codes.scale.astype(np.float64) / scale)[changed].reshape(-1, *[1] * (codes.values.ndim - 1))
        values = codes.values.copy()
        values[changed] = np.rint(values[changed] * factor).astype(np.int32)
        codes = Codes(values, scale)
    return codes, np.rint(bias.astype(np.float64) / (step * scale.astype(np.float64))).astype(np.int32)
