"""Translation of an ONNX classifier to a program for LiteRT: same layers, same scales, ``[N,H,W,C]``.

An operation runs in integers where its input is codes and all readers of its output read codes of one grid; everything
else runs in float between DEQUANTIZE and QUANTIZE, so no value is rounded that ONNX does not round. A ReLU is fused
into the operator before it. Batch size is 1: LiteRT plans memory for static shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.backends.litert.tflite import elementwise
from edgeres.backends.litert.tflite.convolution import convolution, product
from edgeres.backends.litert.tflite.pooling import average_pool, global_average, maxpool
from edgeres.backends.litert.tflite.tensor_table import OTHER_RUNTIME, TensorTable
from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import label

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnx import ModelProto, NodeProto

    from edgeres.backends.litert.tflite.program import Activation, Program

_FUSING: dict[str, Callable[[TensorTable, NodeProto, str, Activation], None]] = {
    "Conv": convolution,
    "Gemm": product,
    "MatMul": product,
    "Add": elementwise.binary,
    "Mul": elementwise.binary,
}
"""Operators that fuse the ReLU after them, which they get with its output."""

_ALONE: dict[str, Callable[[TensorTable, NodeProto], None]] = {
    "Relu": elementwise.rectifier,
    "Clip": elementwise.rectifier,
    "Sigmoid": elementwise.sigmoid,
    "Softmax": elementwise.softmax,
    "BatchNormalization": elementwise.norm,
    "MaxPool": maxpool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average,
    "ReduceMean": global_average,
    "Flatten": elementwise.reshape,
    "Reshape": elementwise.reshape,
    "Squeeze": elementwise.reshape,
    "Pad": elementwise.zeros_around,
    "Concat": elementwise.concatenate,
    "SpaceToDepth": elementwise.blocks,
    "Identity": elementwise.same,
    "Dropout": elementwise.same,
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
    tensors = TensorTable(model)
    image, logits = model.graph.input[0].name, model.graph.output[0].name
    if len(tensors.shape(image)) != 4 or len(model.graph.input) != 1 or len(model.graph.output) != 1:
        raise StageError("the graph is no classifier of one image [N,C,H,W]", OTHER_RUNTIME)
    tensors.make(image, None)
    done: set[str] = set()
    for node in tensors.view.nodes:
        if node.output[0] in done or node.op_type in _FORMS:
            continue
        if node.op_type in _FUSING:
            output, activation = elementwise.fused(tensors, node)
            _FUSING[node.op_type](tensors, node, output, activation)
            done.add(output)
        elif node.op_type in _ALONE:
            _ALONE[node.op_type](tensors, node)
        else:
            raise StageError(f"{label(node)}: edgeres has no {node.op_type} for LiteRT", OTHER_RUNTIME)
    return tensors.program(image, logits, shown)
