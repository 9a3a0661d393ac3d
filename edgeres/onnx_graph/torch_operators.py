"""Operators of ONNX in torch, by name: as calls in a torch graph, or computed at once."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import torch

from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import attribute, input_at, label
from edgeres.onnx_graph.torch_moves import MOVES
from edgeres.onnx_graph.torch_operands import first, integers, numbers, plain, refuse, window
from edgeres.onnx_graph.torch_translator import OTHER_RUNTIME

if TYPE_CHECKING:
    from onnx import NodeProto
    from torch.fx import Node

    from edgeres.onnx_graph.torch_translator import TorchOperator, Translator

aten = torch.ops.aten


def _conv(to: Translator, node: NodeProto) -> Node:
    _, strides, pads, dilations = window(node)
    image, groups = first(to, node), int(attribute(node, "group", 1))
    if pads[:2] != pads[2:]:
        image, pads = to.padded(node, pads), [0] * 4
    weight, bias = to.weight(node, transposed=False), to.bias(node)
    return to.call(aten.conv2d.default, image, weight, bias, strides, pads[:2], dilations, groups)


def _gemm(to: Translator, node: NodeProto) -> Node:
    plain = (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0), attribute(node, "transA", 0)) == (1, 1, 0)
    refuse(node, unless=plain, what="alpha, beta or transA")
    weight = to.weight(node, transposed=not attribute(node, "transB", 0))
    return to.call(aten.linear.default, first(to, node), weight, to.bias(node))


def _maxpool(to: Translator, node: NodeProto) -> Node:
    kernel, strides, pads, dilations = window(node)
    image, ceil = first(to, node), bool(attribute(node, "ceil_mode", 0))
    if pads[:2] != pads[2:]:
        positive = to.view.producer(to.view.origin(node.input[0]), "Relu") is not None  # 0 is never wrongly the maximum
        refuse(node, unless=positive, what=f"pads {pads} of other than the output of a ReLU")
        image, pads = to.padded(node, pads), [0] * 4
    return to.call(aten.max_pool2d.default, image, kernel, strides, pads[:2], dilations, ceil)


def _avgpool(to: Translator, node: NodeProto) -> Node:
    kernel, strides, pads, dilations = window(node)
    refuse(node, unless=pads[:2] == pads[2:] and dilations == [1, 1], what=f"pads {pads}, dilations {dilations}")
    ceil, padded = bool(attribute(node, "ceil_mode", 0)), bool(attribute(node, "count_include_pad", 0))
    return to.call(aten.avg_pool2d.default, first(to, node), kernel, strides, pads[:2], ceil, padded)


def _mean(to: Translator, node: NodeProto) -> Node:
    axes = integers(to, node, 1, "axes") or None
    return to.call(aten.mean.dim, first(to, node), axes, bool(attribute(node, "keepdims", 1)))


def _clip(to: Translator, node: NodeProto) -> Node:
    low, high = (numbers(to, node, index, name) for index, name in ((1, "min"), (2, "max")))
    image = first(to, node)
    if low == [0.0] and high is None:
        return to.call(aten.relu.default, image)
    if low is not None and high is not None:
        return to.call(aten.hardtanh.default, image, low[0], high[0])
    return to.call(aten.clamp.default, image, *(None if bound is None else bound[0] for bound in (low, high)))


def _instance_norm(to: Translator, node: NodeProto) -> Node:
    """Normalization of each channel over its pixels, of ``[N,C,L]`` or ``[N,C,H,W]``."""
    gain, shift = (to.view.value(name) for name in node.input[1:3])
    if gain is None or shift is None:
        raise StageError(f"{label(node)}: a gain or shift that is computed", OTHER_RUNTIME)
    rank = len(to.shape(node.input[0]))
    pixels, place = list(range(2, rank)), (-1, *[1] * (rank - 2))
    data = first(to, node)
    centred = to.call(aten.sub.Tensor, data, to.call(aten.mean.dim, data, pixels, True))
    variance = to.call(aten.mean.dim, to.call(aten.mul.Tensor, centred, centred), pixels, True)
    raised = to.call(aten.add.Tensor, variance, float(attribute(node, "epsilon", 1e-5)))
    even = to.call(aten.mul.Tensor, centred, to.call(aten.rsqrt.default, raised))
    scaled = to.call(aten.mul.Tensor, even, to.constant(gain.reshape(place)))
    return to.call(aten.add.Tensor, scaled, to.constant(shift.reshape(place)))


def _hardsigmoid(to: Translator, node: NodeProto) -> Node:
    slope, offset = float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5))
    line = to.call(aten.add.Tensor, to.call(aten.mul.Tensor, first(to, node), slope), offset)
    return to.call(aten.hardtanh.default, line, 0.0, 1.0)


def _matmul(to: Translator, node: NodeProto) -> Node:
    """A product with a constant weight, or of two activations."""
    if to.view.value(node.input[1]) is None and to.view.weight_dequantizer(node.input[1]) is None:
        return to.call(aten.matmul.default, first(to, node), to.tensor(node.input[1]))
    if len(to.shape(node.input[1])) != 2:
        return to.call(aten.matmul.default, first(to, node), to.tensor(node.input[1]))
    return to.call(aten.linear.default, first(to, node), to.weight(node, transposed=True))


def _layer_norm(to: Translator, node: NodeProto) -> Node:
    shape, axis = to.shape(node.input[0]), int(attribute(node, "axis", -1))
    scale, shift = to.tensor(node.input[1]), to.tensor(node.input[2]) if input_at(node, 2) else None
    sizes = list(shape[axis:])
    return to.call(aten.layer_norm.default, first(to, node), sizes, scale, shift, attribute(node, "epsilon", 1e-5))


def _prelu(to: Translator, node: NodeProto) -> Node:
    """``relu(x) + slope * (x - relu(x))``, in operators that XNNPACK has."""
    data, slopes = first(to, node), to.tensor(node.input[1])
    positive = to.call(aten.relu.default, data)
    negative = to.call(aten.mul.Tensor, to.call(aten.sub.Tensor, data, positive), slopes)
    return to.call(aten.add.Tensor, positive, negative)


def _folded(operator: Any) -> TorchOperator:
    """An operator of two tensors over any number of inputs."""

    def fold(to: Translator, node: NodeProto) -> Node:
        return reduce(lambda left, right: to.call(operator, left, right), (to.tensor(name) for name in node.input))

    return fold


def _reduced(operator: Any) -> TorchOperator:
    """A reduction over axes, all of them where none are stated."""

    def reduction(to: Translator, node: NodeProto) -> Node:
        axes = integers(to, node, 1, "axes") or list(range(len(to.shape(node.input[0]))))
        return to.call(operator, first(to, node), axes, bool(attribute(node, "keepdims", 1)))

    return reduction


def _euclidean(to: Translator, node: NodeProto) -> Node:
    """The root of the sum of squares, in operators that XNNPACK has."""
    axes, data = integers(to, node, 1, "axes") or list(range(len(to.shape(node.input[0])))), first(to, node)
    squares = to.call(aten.mul.Tensor, data, data)
    total = to.call(aten.sum.dim_IntList, squares, axes, bool(attribute(node, "keepdims", 1)))
    return to.call(aten.sqrt.default, total)


def _quantize(to: Translator, node: NodeProto) -> Node:
    operator = torch.ops.quantized_decomposed.quantize_per_tensor.default
    return to.call(operator, first(to, node), *to.affine(node), -128, 127, torch.int8)


OPERATORS: dict[str, TorchOperator] = {
    **MOVES,
    "Abs": plain(aten.abs.default),
    "Add": plain(aten.add.Tensor),
    "AveragePool": _avgpool,
    "BatchNormalization": lambda to, node: plain(
        aten.batch_norm.default, False, 0.0, float(attribute(node, "epsilon", 1e-5)), False
    )(to, node),
    "Clip": _clip,
    "Conv": _conv,
    "Div": plain(aten.div.Tensor),
    "Dropout": first,
    "Elu": lambda to, node: plain(aten.elu.default, float(attribute(node, "alpha", 1.0)))(to, node),
    "Erf": plain(aten.erf.default),
    "Exp": plain(aten.exp.default),
    "Gemm": _gemm,
    "GlobalAveragePool": plain(aten.mean.dim, [-1, -2], True),
    "HardSigmoid": _hardsigmoid,
    "HardSwish": plain(aten.hardswish.default),
    "GlobalMaxPool": plain(aten.amax.default, [-1, -2], True),
    "Identity": first,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda to, node: plain(aten.leaky_relu.default, float(attribute(node, "alpha", 0.01)))(to, node),
    "Log": plain(aten.log.default),
    "MatMul": _matmul,
    "Max": _folded(aten.maximum.default),
    "MaxPool": _maxpool,
    "Min": _folded(aten.minimum.default),
    "Mul": plain(aten.mul.Tensor),
    "Neg": plain(aten.neg.default),
    "PRelu": _prelu,
    "Pow": plain(aten.pow.Tensor_Tensor),
    "QuantizeLinear": _quantize,
    "Reciprocal": plain(aten.reciprocal.default),
    "ReduceL2": _euclidean,
    "ReduceMax": _reduced(aten.amax.default),
    "ReduceMean": _mean,
    "ReduceMin": _reduced(aten.amin.default),
    "ReduceSum": _reduced(aten.sum.dim_IntList),
    "Relu": plain(aten.relu.default),
    "Sigmoid": plain(aten.sigmoid.default),
    "Softmax": lambda to, node: plain(aten.softmax.int, attribute(node, "axis", -1))(to, node),
    "Softplus": plain(aten.softplus.default),
    "Sqrt": plain(aten.sqrt.default),
    "Sub": plain(aten.sub.Tensor),
    "Sum": _folded(aten.add.Tensor),
    "Tanh": plain(aten.tanh.default),
}
