"""Translation of element-wise operations to LiteRT: rectifiers, sums, products, gates, norms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.litert.tflite.parameters import real_constant
from edgeres.backends.litert.tflite.tensor_table import OTHER_RUNTIME
from edgeres.errors import StageError
from edgeres.model.graph import NORM_EPS
from edgeres.onnx_graph.graph_index import attribute, label

if TYPE_CHECKING:
    from onnx import NodeProto

    from edgeres.backends.litert.tflite.program import Activation
    from edgeres.backends.litert.tflite.tensor_table import TensorTable

NONE: Activation = 0
RELU: Activation = 1
RELU6: Activation = 3
_BINARY = {"Add": "ADD", "Mul": "MUL"}
_MUL_ENLARGES = 3
"""Version of MUL on codes whose product of input scales may be at least the output's."""


def fused(tensors: TensorTable, node: NodeProto) -> tuple[str, Activation]:
    """Output of a ReLU that is the only reader of a node, and the kind of ReLU."""
    output = node.output[0]
    readers = tensors.view.consumers(output)
    if len(readers) == 1 and not tensors.is_output(output):
        kind = _rectifies(tensors, readers[0][0])
        if kind != NONE:
            return readers[0][0].output[0], kind
    return output, NONE


def _rectifies(tensors: TensorTable, node: NodeProto) -> Activation:
    """Rectifier of a node (below 0, above 6), as far as LiteRT has one."""
    if node.op_type == "Relu":
        return RELU
    if node.op_type != "Clip":
        return NONE
    bounds = [
        None if len(node.input) <= place or not node.input[place] else real_constant(tensors.view, node.input[place])
        for place in (1, 2)
    ]
    low, high = (None if bound is None else float(bound.item()) for bound in bounds)
    if low != 0.0:
        return NONE
    return RELU if high is None else RELU6 if high == 6.0 else NONE


def rectifier(tensors: TensorTable, node: NodeProto) -> None:
    """A ReLU as an operator of its own."""
    kind = _rectifies(tensors, node)
    if kind == NONE:
        raise StageError(f"{label(node)}: LiteRT clips to [0, inf] and [0, 6] alone", OTHER_RUNTIME)
    data, output = node.input[0], node.output[0]
    grid = tensors.wanted(output) if tensors.grid(data) is not None else None
    read = tensors.read(data, tensors.grid(data) if grid is not None else None)
    tensors.operate("RELU" if kind == RELU else "RELU6", (read,), tensors.make(output, grid))


def binary(tensors: TensorTable, node: NodeProto, output: str, activation: Activation) -> None:
    """An Add or Mul, on codes where both inputs and the output are codes."""
    grids, wanted = [tensors.grid(name) for name in node.input], tensors.wanted(output)
    first, second = grids
    integers = first is not None and second is not None and wanted is not None
    inputs = tuple(tensors.read(name, grid if integers else None) for name, grid in zip(node.input, grids, strict=True))
    made = tensors.make(output, wanted if integers else None)
    kind, version = _BINARY[node.op_type], None
    if kind == "MUL" and first is not None and second is not None and wanted is not None:
        version = _MUL_ENLARGES if first.scale[0] * second.scale[0] >= wanted.scale[0] else None
    options: dict[str, int | float] = {"fusedActivationFunction": activation}
    tensors.operate(kind, inputs, made, table=f"{node.op_type}Options", options=options, version=version)


def sigmoid(tensors: TensorTable, node: NodeProto) -> None:
    """A Sigmoid, in float."""
    tensors.operate("LOGISTIC", (tensors.read(node.input[0], None),), tensors.make(node.output[0], None))


def softmax(tensors: TensorTable, node: NodeProto) -> None:
    """A Softmax over classes, in float.

    Raises:
        StageError: It is over another axis.
    """
    if attribute(node, "axis", -1) not in (-1, len(tensors.shape(node.input[0])) - 1):
        raise StageError(f"{label(node)}: a softmax over another axis than the last", OTHER_RUNTIME)
    read, made = tensors.read(node.input[0], None), tensors.make(node.output[0], None)
    tensors.operate("SOFTMAX", (read,), made, table="SoftmaxOptions", options={"beta": 1.0})


def norm(tensors: TensorTable, node: NodeProto) -> None:
    """A BatchNormalization that is not folded, as ``x * gain + shift`` in float."""
    values = [real_constant(tensors.view, name) for name in node.input[1:]]
    if any(value is None for value in values):
        raise StageError(f"{label(node)}: statistics that are computed", "export the network for inference")
    scale, shift, mean, variance = (np.asarray(value, np.float64) for value in values)
    gain = scale / np.sqrt(variance + attribute(node, "epsilon", NORM_EPS))
    data, output = node.input[0], node.output[0]
    real = tensors.read(data, None)
    factor = tensors.constant(f"{output}.gain", gain.astype(np.float32))
    scaled = tensors.activation(f"{output};scaled", tensors.shape_of(real), None)
    tensors.operate("MUL", (real, factor), scaled, table="MulOptions")
    offset = tensors.constant(f"{output}.shift", (shift - mean * gain).astype(np.float32))
    tensors.operate("ADD", (scaled, offset), tensors.make(output, None), table="AddOptions")
