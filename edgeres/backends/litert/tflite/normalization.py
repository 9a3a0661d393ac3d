"""Normalizations in LiteRT, which has none of its own: in float, by element-wise operators and means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.litert.tflite.tensor_table import real_constant
from edgeres.errors import StageError
from edgeres.model.operation import NORM_EPS
from edgeres.onnx_graph.graph_index import attribute, label

if TYPE_CHECKING:
    from onnx import NodeProto

    from edgeres.backends.litert.tflite.tensor_table import TensorTable


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
    scaled = tensors.activation(f"{output};scaled", tensors.tensors[real].shape, None)
    tensors.operate("MUL", (real, factor), scaled, "MulOptions")
    offset = tensors.constant(f"{output}.shift", (shift - mean * gain).astype(np.float32))
    tensors.operate("ADD", (scaled, offset), tensors.make(output, None), "AddOptions")


def instance_norm(tensors: TensorTable, node: NodeProto) -> None:
    """An InstanceNormalization in float: of rows ``[N,C,L]``, or of ``[N,C,H,W]``."""
    data, output = node.input[0], node.output[0]
    gain, shift = (real_constant(tensors.view, name) for name in node.input[1:3])
    if gain is None or shift is None:
        raise StageError(f"{label(node)}: a gain or shift that is computed", "export the network for inference")
    real = tensors.read(data, None)
    shape = tensors.tensors[real].shape
    pixels, channels = ((1, 2), (-1,)) if len(shape) == 4 else ((2,), (-1, 1))
    means = tuple(1 if axis in pixels else size for axis, size in enumerate(shape))
    axes = tensors.constant(f"{output}.axes", np.array(pixels, np.int32))

    def mean(of: int, name: str) -> int:
        small = tensors.activation(f"{output};{name}", means, None)
        return tensors.operate("MEAN", (of, axes), small, "ReducerOptions", keepDims=True)

    def pointwise(kind: str, inputs: tuple[int, ...], name: str, size: tuple[int, ...] = shape) -> int:
        table = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "RSQRT": ""}[kind]
        return tensors.operate(kind, inputs, tensors.activation(f"{output};{name}", size, None), table)

    centred = pointwise("SUB", (real, mean(real, "mean")), "centred")
    variance = mean(pointwise("MUL", (centred, centred), "squared"), "variance")
    epsilon = tensors.constant(f"{output}.epsilon", np.array([attribute(node, "epsilon", NORM_EPS)], np.float32))
    inverse = pointwise("RSQRT", (pointwise("ADD", (variance, epsilon), "raised", means),), "inverse", means)
    even = pointwise("MUL", (centred, inverse), "even")
    scaled = pointwise("MUL", (even, tensors.constant(f"{output}.gain", gain.reshape(channels))), "scaled")
    offset = tensors.constant(f"{output}.shift", shift.reshape(channels))
    tensors.operate("ADD", (scaled, offset), tensors.make(output, None), "AddOptions")
