"""Translation of operations that move values without changing them to LiteRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.litert.tflite.parameters import real_constant
from edgeres.backends.litert.tflite.tensor_table import OTHER_RUNTIME
from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import attribute, label

if TYPE_CHECKING:
    from onnx import NodeProto

    from edgeres.backends.litert.tflite.tensor_table import TensorTable


def same(tensors: TensorTable, node: NodeProto) -> None:
    """An Identity or Dropout, which needs no operator."""
    tensors.adopt(node.output[0], node.input[0])


def reshape(tensors: TensorTable, node: NodeProto) -> None:
    """A change of shape that keeps the order of the values, on codes where its input is codes."""
    data, output = node.input[0], node.output[0]
    given, made = tensors.shape(data), tensors.shape(output)
    grid = tensors.grid(data)
    read = tensors.read(data, grid)
    if len(made) != 2 or made[0] != given[0]:
        raise StageError(f"{label(node)}: {given} as {made}", "edgeres writes changes to [N,features] alone")
    if len(given) == 4 and 1 not in (given[1], given[2] * given[3]):
        order = tensors.constant(f"{output}.order", np.array([0, 3, 1, 2], np.int32))
        turned = tensors.activation(f"{output};turned", given, grid)
        read = tensors.operate("TRANSPOSE", (read, order), turned, table="TransposeOptions")
    shape = tensors.constant(f"{output}.shape", np.array(made, np.int32))
    tensors.operate("RESHAPE", (read, shape), tensors.make(output, grid), table="ReshapeOptions")


def zeros_around(tensors: TensorTable, node: NodeProto) -> None:
    """A Pad with zeros, of pixels or of channels."""
    data, output = node.input[0], node.output[0]
    given = tensors.shape(data)
    ends = real_constant(tensors.view, node.input[1]) if len(node.input) > 1 else None
    value = real_constant(tensors.view, node.input[2]) if len(node.input) > 2 and node.input[2] else None
    zeros = value is None or not np.any(value)
    if (
        ends is None
        or ends.size != 8
        or len(given) != 4
        or not zeros
        or attribute(node, "mode", b"constant") != b"constant"
    ):
        raise StageError(f"{label(node)}: LiteRT's file pads [N,C,H,W] with a constant number of zeros", OTHER_RUNTIME)
    grid = tensors.grid(data)
    pairs = ends.astype(np.int32).reshape(2, 4).T[[0, 2, 3, 1]]
    around = tensors.constant(f"{output}.pads", np.ascontiguousarray(pairs))
    tensors.operate("PAD", (tensors.read(data, grid), around), tensors.make(output, grid), table="PadOptions")


def blocks(tensors: TensorTable, node: NodeProto) -> None:
    """A SpaceToDepth: ``[N,H,W,C]`` as ``[N,H/b,W/b,b b C]``, in the same order of channels as ONNX has."""
    data, output = node.input[0], node.output[0]
    grid = tensors.grid(data)
    options = {"blockSize": int(attribute(node, "blocksize"))}
    read, made = (tensors.read(data, grid),), tensors.make(output, grid)
    tensors.operate("SPACE_TO_DEPTH", read, made, table="SpaceToDepthOptions", options=options)


def concatenate(tensors: TensorTable, node: NodeProto) -> None:
    """A Concat of channels. Codes have one grid; inputs on another are requantized, as in ONNX after the Concat."""
    output = node.output[0]
    if attribute(node, "axis") % len(tensors.shape(output)) != 1 or len(tensors.shape(output)) != 4:
        raise StageError(f"{label(node)}: a Concat of something else than channels", OTHER_RUNTIME)
    wanted = tensors.wanted(output)
    grid = wanted if all(tensors.grid(name) is not None for name in node.input) else None
    inputs = tuple(tensors.read(name, grid) for name in node.input)
    tensors.operate(
        "CONCATENATION", inputs, tensors.make(output, grid), table="ConcatenationOptions", options={"axis": 3}
    )
