"""Translation of an ONNX classifier to a program for LiteRT: same layers, same scales, ``[N,H,W,C]``.

An operation runs in integers where its input is codes and all readers of its output read codes of one grid; everything
else runs in float between DEQUANTIZE and QUANTIZE, so no value is rounded that ONNX does not round. A ReLU is fused
into the operator before it. Batch size is 1: LiteRT plans memory for static shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.litert.tflite.normalization import instance_norm, norm
from edgeres.backends.litert.tflite.pointwise import (
    clip,
    extremum,
    hard_sigmoid,
    parts,
    piece,
    sigmoid,
    softmax,
    square_root,
)
from edgeres.backends.litert.tflite.reduction import expansion, reduction
from edgeres.backends.litert.tflite.resize import resize
from edgeres.backends.litert.tflite.tensor_table import OTHER_RUNTIME, TensorTable, real_constant
from edgeres.backends.litert.tflite.window import average_pool, convolution, global_average, maxpool
from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import attribute, input_at, label
from edgeres.onnx_graph.static_shapes import for_one_image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnx import ModelProto, NodeProto

    from edgeres.backends.litert.tflite.program import Activation, Program

NONE: Activation = 0
RELU: Activation = 1
RELU6: Activation = 3
_ON_CODES = ("Add", "Mul")
"""Operators of two tensors that have integer kernels here."""
_MUL_ENLARGES = 3
"""Version of MUL on codes whose product of input scales may be at least the output's."""


_MIRRORS = {b"reflect": 0, b"edge": 1}
"""Modes of MIRROR_PAD: REFLECT leaves the border out, SYMMETRIC has it twice."""


def fused(tensors: TensorTable, node: NodeProto) -> tuple[str, Activation]:
    """Output of a ReLU that is the only reader of a node, and the kind of ReLU."""
    output = node.output[0]
    readers = tensors.view.consumers(output)
    if len(readers) == 1 and output not in tensors.outputs:
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


def product(tensors: TensorTable, node: NodeProto, output: str, activation: Activation) -> None:
    """A Gemm or MatMul of activations ``[N,K]`` and a constant, in float.

    FULLY_CONNECTED got scales per output channel late; older kernels would use the first scale for all.
    """
    right = real_constant(tensors.view, node.input[1])
    plain = all(attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta")) and not attribute(node, "transA", 0)
    if right is None or right.ndim != 2 or len(tensors.shape(node.input[0])) != 2 or not plain:
        raise StageError(f"{label(node)}: not a product of [N,K] and a constant [K,O]", "export the classifier as Gemm")
    weight = right if attribute(node, "transB", 0) else right.T
    bias = np.zeros(1, np.float32) if not input_at(node, 2) else real_constant(tensors.view, node.input[2])
    if bias is None or bias.size not in (1, len(weight)):
        raise StageError(f"{label(node)}: its bias is computed", "export biases as constants")
    biases = np.broadcast_to(bias.reshape(-1), (len(weight),))
    inputs = (
        tensors.read(node.input[0], None),
        tensors.constant(f"{output}.weight", np.ascontiguousarray(weight)),
        tensors.constant(f"{output}.bias", np.ascontiguousarray(biases)),
    )
    logits = tensors.make(output, None)
    tensors.operate("FULLY_CONNECTED", inputs, logits, "FullyConnectedOptions", fusedActivationFunction=activation)


def rectifier(tensors: TensorTable, node: NodeProto) -> None:
    """A ReLU as an operator of its own, or a Clip to other bounds."""
    kind = _rectifies(tensors, node)
    if kind == NONE:
        clip(tensors, node)
        return
    data, output = node.input[0], node.output[0]
    grid = tensors.wanted(output) if tensors.grid(data) is not None else None
    read = tensors.read(data, tensors.grid(data) if grid is not None else None)
    tensors.operate("RELU" if kind == RELU else "RELU6", (read,), tensors.make(output, grid))


def binary(tensors: TensorTable, node: NodeProto, output: str, activation: Activation) -> None:
    """An Add or Mul, on codes where both inputs and the output are codes; a Sub or Div in float."""
    first, second = grids = [tensors.grid(name) for name in node.input]
    wanted, version = tensors.wanted(output), None
    if first is None or second is None or wanted is None or node.op_type not in _ON_CODES:
        grids, wanted = [None, None], None
    elif node.op_type == "Mul" and first.scale[0] * second.scale[0] >= wanted.scale[0]:
        version = _MUL_ENLARGES
    inputs = tuple(tensors.read(name, grid) for name, grid in zip(node.input, grids, strict=True))
    result, table = tensors.make(output, wanted), f"{node.op_type}Options"
    tensors.operate(node.op_type.upper(), inputs, result, table, version, fusedActivationFunction=activation)


def prelu(tensors: TensorTable, node: NodeProto) -> None:
    """A PRelu with one slope per channel, in float."""
    slopes, shape = real_constant(tensors.view, node.input[1]), tensors.shape(node.input[0])
    if slopes is None or slopes.size not in (1, shape[1]) or len(shape) != 4:
        raise StageError(f"{label(node)}: slopes that are computed or not one per channel", OTHER_RUNTIME)
    whole = np.ascontiguousarray(np.broadcast_to(slopes.reshape(1, 1, -1), (1, 1, shape[1])))
    alpha = tensors.constant(f"{node.output[0]}.slopes", whole)
    tensors.operate("PRELU", (tensors.read(node.input[0], None), alpha), tensors.make(node.output[0], None))


def same(tensors: TensorTable, node: NodeProto) -> None:
    """An Identity or Dropout, which needs no operator."""
    tensors.adopt(node.output[0], node.input[0])


def reshape(tensors: TensorTable, node: NodeProto) -> None:
    """A change of shape that keeps the order of the values, on codes where its input is codes."""
    data, output = node.input[0], node.output[0]
    source, target = tensors.shape(data), tensors.shape(output)
    grid = tensors.grid(data)
    read = tensors.read(data, grid)
    if target[0] != source[0] or {len(source), len(target)} - {2, 3, 4}:
        raise StageError(f"{label(node)}: {source} as {target}", "edgeres writes changes of shape of each image alone")
    if _has_order(source):
        read = _transposed(tensors, read, (0, 3, 1, 2), f"{output};turned")
    if not _has_order(target):
        result = tensors.make(output, grid)
        shape = tensors.constant(f"{output}.shape", np.array(tensors.tensors[result].shape, np.int32))
        tensors.operate("RESHAPE", (read, shape), result, "ReshapeOptions")
        return
    shape = tensors.constant(f"{output}.shape", np.array(target, np.int32))
    plain = tensors.activation(f"{output};plain", target, grid)
    tensors.operate("RESHAPE", (read, shape), plain, "ReshapeOptions")
    order = tensors.constant(f"{output}.order", np.array([0, 2, 3, 1], np.int32))
    tensors.operate("TRANSPOSE", (plain, order), tensors.make(output, grid), "TransposeOptions")


def _has_order(shape: tuple[int, ...]) -> bool:
    """Whether values of ``[N,C,H,W]`` lie in another order when channels are last."""
    return len(shape) == 4 and 1 not in (shape[1], shape[2] * shape[3])


def _transposed(tensors: TensorTable, read: int, axes: tuple[int, ...], name: str) -> int:
    order = tensors.constant(f"{name}.order", np.array(axes, np.int32))
    tensor = tensors.tensors[read]
    turned = tensors.activation(name, tuple(tensor.shape[axis] for axis in axes), tensor.grid)
    return tensors.operate("TRANSPOSE", (read, order), turned, "TransposeOptions")


def zeros_around(tensors: TensorTable, node: NodeProto) -> None:
    """A Pad with zeros, of pixels or of channels, or with the pixels at the border."""
    data, output = node.input[0], node.output[0]
    ends = real_constant(tensors.view, node.input[1]) if len(node.input) > 1 else None
    value = real_constant(tensors.view, node.input[2]) if len(node.input) > 2 and node.input[2] else None
    zeros, mode = value is None or not np.any(value), attribute(node, "mode", b"constant")
    # An edge of one pixel is that of the image mirrored at its border, the border included.
    known = mode in (b"constant", b"reflect") or (mode == b"edge" and ends is not None and ends.max() <= 1)
    if ends is None or ends.size != 8 or len(tensors.shape(data)) != 4 or not zeros or not known:
        raise StageError(f"{label(node)}: LiteRT's file pads [N,C,H,W] by zeros or by its mirror image", OTHER_RUNTIME)
    grid = tensors.grid(data)
    pairs = ends.astype(np.int32).reshape(2, 4).T[[0, 2, 3, 1]]
    around = tensors.constant(f"{output}.pads", np.ascontiguousarray(pairs))
    if mode != b"constant":
        inputs, kind = (tensors.read(data, grid), around), _MIRRORS[mode]
        tensors.operate("MIRROR_PAD", inputs, tensors.make(output, grid), "MirrorPadOptions", mode=kind)
        return
    tensors.operate("PAD", (tensors.read(data, grid), around), tensors.make(output, grid), "PadOptions")


def blocks(tensors: TensorTable, node: NodeProto) -> None:
    """A SpaceToDepth: ``[N,H,W,C]`` as ``[N,H/b,W/b,b b C]``, in the same order of channels as ONNX has."""
    data, output, size = node.input[0], node.output[0], int(attribute(node, "blocksize"))
    grid = tensors.grid(data)
    read = tensors.read(data, grid)
    tensors.operate("SPACE_TO_DEPTH", (read,), tensors.make(output, grid), "SpaceToDepthOptions", blockSize=size)


def concatenate(tensors: TensorTable, node: NodeProto) -> None:
    """A Concat of channels or pixels. Codes have one grid; others are requantized, as in ONNX after the Concat."""
    output = node.output[0]
    axis = {1: 3, 2: 1, 3: 2}.get(attribute(node, "axis") % len(tensors.shape(output)))
    if axis is None or len(tensors.shape(output)) != 4:
        raise StageError(f"{label(node)}: a Concat of something else than channels or pixels", OTHER_RUNTIME)
    wanted = tensors.wanted(output)
    grid = wanted if all(tensors.grid(name) is not None for name in node.input) else None
    inputs = tuple(tensors.read(name, grid) for name in node.input)
    tensors.operate("CONCATENATION", inputs, tensors.make(output, grid), "ConcatenationOptions", axis=axis)


_FUSING: dict[str, Callable[[TensorTable, NodeProto, str, Activation], None]] = {
    "Conv": convolution,
    "Gemm": product,
    "MatMul": product,
    "Add": binary,
    "Mul": binary,
    "Sub": binary,
    "Div": binary,
}
"""Operators that fuse the ReLU after them, which they get with its output."""

_ALONE: dict[str, Callable[[TensorTable, NodeProto], None]] = {
    "Relu": rectifier,
    "Clip": rectifier,
    "PRelu": prelu,
    "Sigmoid": sigmoid,
    "HardSigmoid": hard_sigmoid,
    "Slice": piece,
    "Split": parts,
    "Softmax": softmax,
    "BatchNormalization": norm,
    "InstanceNormalization": instance_norm,
    "MaxPool": maxpool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average,
    "ReduceMean": global_average,
    **dict.fromkeys(("ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"), reduction),
    **dict.fromkeys(("Max", "Min"), extremum),
    "Sqrt": square_root,
    "Expand": expansion,
    "Flatten": reshape,
    "Reshape": reshape,
    "Squeeze": reshape,
    "Pad": zeros_around,
    "Concat": concatenate,
    "Resize": resize,
    "SpaceToDepth": blocks,
    "Identity": same,
    "Dropout": same,
}
_FORMS = ("QuantizeLinear", "DequantizeLinear", "Constant")
"""Operators without a LiteRT operator: their outputs are forms of other tensors, converted on read."""


def translate(model: ModelProto, shown: Sequence[str] = ()) -> Program:
    """The program of a graph, in float or with Q/DQ, with one image input ``[N,C,H,W]`` and one output ``[N,classes]``.

    ``shown`` names codes, outputs of QuantizeLinear, that become additional outputs.

    Raises:
        StageError: LiteRT does not support one of its operations; the message names it.
        ModelError: Shapes cannot be inferred.
    """
    tensors = TensorTable(for_one_image(model))
    image, logits = model.graph.input[0].name, model.graph.output[0].name
    if len(tensors.shape(image)) != 4 or len(model.graph.input) != 1 or len(model.graph.output) != 1:
        raise StageError("the graph is no classifier of one image [N,C,H,W]", OTHER_RUNTIME)
    tensors.make(image, None)
    done: set[str] = set()
    for node in tensors.view.nodes:
        if node.output[0] in done or node.op_type in _FORMS:
            continue
        if node.op_type in _FUSING:
            output, activation = fused(tensors, node)
            _FUSING[node.op_type](tensors, node, output, activation)
            done.add(output)
        elif node.op_type in _ALONE:
            _ALONE[node.op_type](tensors, node)
        else:
            raise StageError(f"{label(node)}: edgeres has no {node.op_type} for LiteRT", OTHER_RUNTIME)
    return tensors.program(image, logits, shown)
