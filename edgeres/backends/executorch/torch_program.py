"""``torch_program``: a Q/DQ graph as a torch program for ExecuTorch, with the graph's scales, at a batch size of 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from edgeres.backends.executorch.torch_translator import OTHER_RUNTIME, Translator
from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import GraphIndex, attribute, label
from edgeres.onnx_graph.window import window_attributes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto, NodeProto
    from torch.fx import GraphModule, Node

    from edgeres.backends.executorch.torch_translator import TorchOperator

aten = torch.ops.aten


class TorchProgram(NamedTuple):
    """A graph in torch operators, for ``torch.export``, and the name of the ONNX node of each call, in order."""

    module: GraphModule
    names: tuple[str, ...]


def torch_program(model: ModelProto, shown: Sequence[str] = ()) -> TorchProgram:
    """The computation of a self-contained classifier of one image in torch operators.

    Weights are int8 codes where the layer can run in integers, and dequantized floats where it cannot: its data or its
    output is float, or its weight has zero-points. Codes named by ``shown``, outputs of QuantizeLinear, become outputs
    besides the logits.

    Raises:
        StageError: An unsupported operator, or form of one; the message names the node.
    """
    translator = Translator(GraphIndex.of(model), OPERATORS)
    return TorchProgram(translator.module(shown), tuple(translator.names))


def _plain(operator: Any, *arguments: Any) -> TorchOperator:
    """An operator whose inputs are all tensors, followed by constant arguments."""
    return lambda to, node: to.call(operator, *(to.tensor(name) for name in node.input if name), *arguments)


def _first(to: Translator, node: NodeProto) -> Node:
    """The first input of a node: its image."""
    return to.tensor(node.input[0])


def _numbers(to: Translator, node: NodeProto, index: int, name: str) -> list[float] | None:
    """A list that newer opsets have as a constant input and older ones as an attribute; None where it is absent."""
    if len(node.input) <= index or not node.input[index]:
        stated = attribute(node, name)
        return None if stated is None else [float(value) for value in np.atleast_1d(stated)]
    value = to.view.value(node.input[index])
    if value is None:
        raise StageError(f"{label(node)}: {name} is computed", OTHER_RUNTIME)
    return [float(number) for number in value.reshape(-1)]


def _integers(to: Translator, node: NodeProto, index: int, name: str) -> list[int]:
    """The same list in integers; empty where it is absent."""
    return [int(number) for number in _numbers(to, node, index, name) or ()]


def _refuse(node: NodeProto, *, unless: bool, what: str) -> None:
    if not unless:
        raise StageError(f"{label(node)}: {node.op_type} with {what}", OTHER_RUNTIME)


def _window(node: NodeProto) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel, strides, pads ``[top, left, bottom, right]`` and dilations of a window over ``[N,C,H,W]``."""
    kernel, strides, pads, dilations, auto = window_attributes(node)
    _refuse(node, unless=len(kernel) == 2, what=f"a kernel of {len(kernel)} dimensions")
    _refuse(node, unless=auto in ("NOTSET", "VALID"), what=f"auto_pad {auto}")
    return list(kernel), list(strides), list(pads), list(dilations)


def _conv(to: Translator, node: NodeProto) -> Node:
    _, strides, pads, dilations = _window(node)
    image, groups = _first(to, node), int(attribute(node, "group", 1))
    if pads[:2] != pads[2:]:
        image = to.call(aten.constant_pad_nd.default, image, [pads[1], pads[3], pads[0], pads[2]], 0.0)
        pads = [0] * 4
    weight, bias = to.weight(node, transposed=False), to.bias(node)
    return to.call(aten.conv2d.default, image, weight, bias, strides, pads[:2], dilations, groups)


def _gemm(to: Translator, node: NodeProto) -> Node:
    plain = (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0), attribute(node, "transA", 0)) == (1, 1, 0)
    _refuse(node, unless=plain, what="alpha, beta or transA")
    weight = to.weight(node, transposed=not attribute(node, "transB", 0))
    return to.call(aten.linear.default, _first(to, node), weight, to.bias(node))


def _maxpool(to: Translator, node: NodeProto) -> Node:
    kernel, strides, pads, dilations = _window(node)
    _refuse(node, unless=pads[:2] == pads[2:], what=f"pads {pads}")
    ceil = bool(attribute(node, "ceil_mode", 0))
    return to.call(aten.max_pool2d.default, _first(to, node), kernel, strides, pads[:2], dilations, ceil)


def _avgpool(to: Translator, node: NodeProto) -> Node:
    kernel, strides, pads, dilations = _window(node)
    _refuse(node, unless=pads[:2] == pads[2:] and dilations == [1, 1], what=f"pads {pads}, dilations {dilations}")
    ceil, padded = bool(attribute(node, "ceil_mode", 0)), bool(attribute(node, "count_include_pad", 0))
    return to.call(aten.avg_pool2d.default, _first(to, node), kernel, strides, pads[:2], ceil, padded)


def _mean(to: Translator, node: NodeProto) -> Node:
    axes = _integers(to, node, 1, "axes") or None
    return to.call(aten.mean.dim, _first(to, node), axes, bool(attribute(node, "keepdims", 1)))


def _clip(to: Translator, node: NodeProto) -> Node:
    low, high = (_numbers(to, node, index, name) for index, name in ((1, "min"), (2, "max")))
    image = _first(to, node)
    if low == [0.0] and high is None:
        return to.call(aten.relu.default, image)
    if low is not None and high is not None:
        return to.call(aten.hardtanh.default, image, low[0], high[0])
    return to.call(aten.clamp.default, image, *(None if bound is None else bound[0] for bound in (low, high)))


def _flatten(to: Translator, node: NodeProto) -> Node:
    _refuse(node, unless=attribute(node, "axis", 1) == 1, what="an axis other than 1")
    return to.call(aten.flatten.using_ints, _first(to, node), 1)


def _reshape(to: Translator, node: NodeProto) -> Node:
    shape = _integers(to, node, 1, "shape")
    _refuse(node, unless=bool(shape) and 0 not in shape[1:], what=f"shape {shape}")
    return to.call(aten.reshape.default, _first(to, node), [shape[0] or 1, *shape[1:]])


def _squeeze(to: Translator, node: NodeProto) -> Node:
    axes = _integers(to, node, 1, "axes")
    _refuse(node, unless=bool(axes), what="no axes")
    return to.call(aten.squeeze.dims, _first(to, node), axes)


def _concat(to: Translator, node: NodeProto) -> Node:
    return to.call(aten.cat.default, [to.tensor(name) for name in node.input if name], attribute(node, "axis"))


def _space_to_depth(to: Translator, node: NodeProto) -> Node:
    """``[N,C,H,W]`` as ``[N,b b C,H/b,W/b]``; torch's pixel_unshuffle has the channels outermost, ONNX innermost."""
    block = int(attribute(node, "blocksize"))
    rows = to.call(aten.unflatten.int, _first(to, node), 3, [-1, block])
    cut = to.call(aten.unflatten.int, rows, 2, [-1, block])
    inside = to.call(aten.permute.default, cut, [0, 3, 5, 1, 2, 4])
    return to.call(aten.flatten.using_ints, inside, 1, 3)


def _pad(to: Translator, node: NodeProto) -> Node:
    mode, pads = (attribute(node, "mode") or b"constant").decode(), _integers(to, node, 1, "pads")
    _refuse(node, unless=mode == "constant" and min(pads, default=-1) >= 0 and len(node.input) < 4, what=f"pads {pads}")
    value = (_numbers(to, node, 2, "value") or [0.0])[0]
    rank = len(pads) // 2
    ordered = [amount for axis in reversed(range(rank)) for amount in (pads[axis], pads[axis + rank])]
    while ordered[-2:] == [0, 0]:  # torch counts from the last axis: leading ones may be omitted
        del ordered[-2:]
    return to.call(aten.constant_pad_nd.default, _first(to, node), ordered, value)


def _hardsigmoid(to: Translator, node: NodeProto) -> Node:
    slope, offset = float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5))
    line = to.call(aten.add.Tensor, to.call(aten.mul.Tensor, _first(to, node), slope), offset)
    return to.call(aten.hardtanh.default, line, 0.0, 1.0)


def _quantize(to: Translator, node: NodeProto) -> Node:
    operator = torch.ops.quantized_decomposed.quantize_per_tensor.default
    return to.call(operator, _first(to, node), *to.affine(node), -128, 127, torch.int8)


OPERATORS: dict[str, TorchOperator] = {
    "Add": _plain(aten.add.Tensor),
    "AveragePool": _avgpool,
    "BatchNormalization": lambda to, node: _plain(
        aten.batch_norm.default, False, 0.0, float(attribute(node, "epsilon", 1e-5)), False
    )(to, node),
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _plain(aten.div.Tensor),
    "Dropout": _first,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _plain(aten.mean.dim, [-1, -2], True),
    "HardSigmoid": _hardsigmoid,
    "HardSwish": _plain(aten.hardswish.default),
    "Identity": _first,
    "LeakyRelu": lambda to, node: _plain(aten.leaky_relu.default, float(attribute(node, "alpha", 0.01)))(to, node),
    "MatMul": lambda to, node: to.call(aten.linear.default, _first(to, node), to.weight(node, transposed=True)),
    "MaxPool": _maxpool,
    "Mul": _plain(aten.mul.Tensor),
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "ReduceMean": _mean,
    "Relu": _plain(aten.relu.default),
    "Reshape": _reshape,
    "Sigmoid": _plain(aten.sigmoid.default),
    "Softmax": lambda to, node: _plain(aten.softmax.int, attribute(node, "axis", -1))(to, node),
    "SpaceToDepth": _space_to_depth,
    "Squeeze": _squeeze,
    "Sub": _plain(aten.sub.Tensor),
    "Tanh": _plain(aten.tanh.default),
    "Transpose": lambda to, node: to.call(aten.permute.default, _first(to, node), list(attribute(node, "perm") or ())),
}
