"""Lowering of a Q/DQ graph to the form of a runtime: float weights, FP16 casts, and the space-to-depth form of a stem.

Quantized parts stay in float32, scales included: a runtime fuses their Q/DQ pairs, and float16 would reduce the
precision of scales. Float convolutions and matrix products get a Cast before them, float16 constants, and a Cast after
them. That is valid in opset 13 and newer, with weak typing as well as with strong.

A 7x7 convolution of stride 2 over an image of 3 channels fits no integer kernel well: they process 4 channels at a
time. With each block of 2x2 pixels as 12 channels (ONNX SpaceToDepth) it is a 4x4 convolution of stride 1 whose taps
are the original ones and zeros, with the same integer sums. Tap ``d`` of a window with padding ``p`` reads pixel
``2 o + d - p``, which is place ``(d - p) mod 2`` of block ``o + floor((d - p) / 2)``.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgeres.onnx_graph.edit import insert_before, replace_nodes, retain
from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex, attribute, input_at, label, window_attributes
from edgeres.onnx_graph.operator_counts import image_of
from edgeres.onnx_graph.stored_weights import dequantized_weight

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.targets.runtime import Runtime

    Codes = NDArray[np.integer]

ROUNDING = 2.0**-8
"""Error of FP16 sums as a share of a tensor's range: 11 bits of mantissa, less 3 for sums of a few thousand."""

_CARRIED = ("GlobalAveragePool", "AveragePool", "Flatten", "Reshape", "Squeeze", "ReduceMean", "Relu", "Identity")
_FLOAT16_MAX = float(np.finfo(np.float16).max)

BLOCK = 2
BLOCKED = "the first convolution reads blocks of 2x2 pixels as channels: the same integers in fewer cycles"
"""Note of an engine built from such a graph."""

_KERNEL = 7
"""Kernel side for which it was measured to be faster."""


def for_runtime(model: ModelProto, runtime: Runtime) -> ModelProto:
    """A copy of a graph in the runtime's form and of the same values; the model itself where it has that form already.

    ``runtime.float_weights`` requires weights before QuantizeLinear, ``runtime.strongly_typed`` FP16 where the graph
    computes in float.
    """
    if not (runtime.float_weights or runtime.strongly_typed):
        return model
    changed = deepcopy(model)
    changed.graph.ClearField("value_info")
    if runtime.float_weights:
        float_weights(changed)
    if runtime.strongly_typed:
        to_half(changed)
    return changed


def float_weights(model: ModelProto) -> int:
    """Converts weights stored as codes to float weights before QuantizeLinear, in place; returns their number.

    No value changes: a code times its scale, rounded to float32, is nearer to that code than to any other. Parsers of
    TensorRT before 8.5 support no other form (TensorRT developer guide; NVIDIA/TensorRT issue 3385).
    """
    view, count = GraphIndex.of(model), 0
    for node in view.of_type(*WEIGHTED):
        dequantizer = view.producer(node.input[1], "DequantizeLinear")
        if dequantizer is None or dequantizer.input[0] not in view.constants:
            continue
        values = dequantized_weight(view, dequantizer)
        if values is None:
            continue
        stored, codes = f"{dequantizer.output[0]}:float", f"{dequantizer.output[0]}:codes"
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), stored))
        quantizer = helper.make_node("QuantizeLinear", [stored, *dequantizer.input[1:]], [codes], name=codes)
        quantizer.attribute.extend(dequantizer.attribute)
        insert_before(model, dequantizer, quantizer)
        dequantizer.input[0] = codes
        count += 1
    read = {name for node in model.graph.node for name in node.input}
    retain(model.graph.initializer, lambda tensor: tensor.name in read)
    return count


def to_half(model: ModelProto) -> int:
    """Casts the float parts of a graph to FP16 in place; returns the number of convolutions and matrix products there.

    Weights beyond FP16's range are left in float32.
    """
    view = GraphIndex.of(model)
    roots = [node for node in view.of_type(*WEIGHTED) if _is_float(view, node)]
    half, outputs = {label(node) for node in roots}, {value.name for value in model.graph.output}
    for node in reversed(view.nodes):
        readers = {label(reader) for reader, _ in view.consumers(node.output[0])}
        if node.op_type in _CARRIED and readers and readers <= half and node.output[0] not in outputs:
            half.add(label(node))
    if roots:
        _cast(model, view, half)
    return len(roots)


def _is_float(view: GraphIndex, node: NodeProto) -> bool:
    """Whether a weighted node has a float32 weight within FP16's range and data that is not cast already."""
    constants = [view.value(name) for name in node.input[1:] if name]
    fits = all(
        value is not None and value.dtype == np.float32 and float(np.abs(value).max(initial=0)) < _FLOAT16_MAX
        for value in constants
    )
    return bool(constants) and fits


def _cast(model: ModelProto, view: GraphIndex, half: set[str]) -> None:
    """Rewrites the nodes labelled in ``half`` to float16, with casts at their borders."""
    outputs = {value.name for value in model.graph.output}
    computed = {name for node in view.nodes if label(node) in half for name in node.output}
    entered: set[str] = set()
    nodes: list[NodeProto] = []
    for node in view.nodes:
        if label(node) not in half:
            nodes.append(node)
            continue
        for index, name in enumerate(node.input):
            constant = view.constants.get(name)
            if constant is not None and constant.data_type == TensorProto.FLOAT:
                node.input[index] = _half_constant(model, view, name)
            elif constant is None and name and name not in computed:
                node.input[index] = f"{name}:half"
                if name not in entered:
                    entered.add(name)
                    nodes.append(_convert(name, node.input[index], TensorProto.FLOAT16))
        nodes.append(node)
        for index, name in enumerate(list(node.output)):
            readers = view.consumers(name)
            if name in outputs or any(label(reader) not in half for reader, _ in readers):
                inner = f"{name}:half"
                for reader, place in readers:
                    if label(reader) in half:
                        reader.input[place] = inner
                node.output[index] = inner
                nodes.append(_convert(inner, name, TensorProto.FLOAT))
    replace_nodes(model, nodes)


def _half_constant(model: ModelProto, view: GraphIndex, name: str) -> str:
    half = f"{name}:half"
    if half not in {tensor.name for tensor in model.graph.initializer}:
        value = np.asarray(view.value(name)).astype(np.float16)
        model.graph.initializer.append(numpy_helper.from_array(value, half))
    return half


def _convert(name: str, into: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [name], [into], name=f"{into}:cast", to=kind)


def in_host_form(model: ModelProto) -> tuple[ModelProto, tuple[str, ...]]:
    """A graph for engines on this host, with its stem in space-to-depth form if possible, and a note on it."""
    blocked = blocked_stem(model)
    return (model, ()) if blocked is None else (blocked, (BLOCKED,))


class _Blocks(NamedTuple):
    """Blocks of padding before the image, blocks along a side of the window, and blocks of padding after the image."""

    before: int
    side: int
    after: int

    @classmethod
    def of(cls, padding: int) -> _Blocks:
        """The padding keeps the output size ``(n + 2 p - k) // 2 + 1`` of a window ``k`` for ``n`` pixels."""
        before = -(-padding // BLOCK)
        side = (_KERNEL - 1 - padding) // BLOCK + before + 1
        return cls(before, side, (2 * padding - _KERNEL) // BLOCK + side - before)


def blocked_stem(model: ModelProto) -> ModelProto | None:
    """A copy of a quantized graph whose first convolution reads blocks; None where it has another form.

    That form is one quantizer between the image and a 7x7 convolution of stride 2.
    """
    copy = deepcopy(model)
    view = GraphIndex.of(copy)
    image, (_, *sides) = image_of(copy)
    stem = _stem(view, image)
    if stem is None or any(side % BLOCK or not side for side in sides):
        return None
    quantizer, conv, codes = stem
    padding = window_attributes(conv).pads[0]
    window = _Blocks.of(padding)
    blocked = _in_blocks(numpy_helper.to_array(view.constants[codes]), padding, window)
    view.constants[codes].CopyFrom(numpy_helper.from_array(blocked, codes))
    retain(conv.attribute, lambda entry: entry.name not in ("kernel_shape", "strides", "pads", "auto_pad"))
    pads = [window.before] * 2 + [window.after] * 2
    attributes = {"kernel_shape": [window.side] * 2, "pads": pads, "strides": [1, 1]}
    conv.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    blocks = helper.make_node("SpaceToDepth", [image], [f"{image}.blocks"], f"{image}.blocks", blocksize=BLOCK)
    quantizer.input[0] = blocks.output[0]
    insert_before(copy, quantizer, blocks)
    copy.graph.ClearField("value_info")
    return copy


def _stem(view: GraphIndex, image: str) -> tuple[NodeProto, NodeProto, str] | None:
    """The image's quantizer, the convolution after it, and the name of its weight codes."""
    quantizer = _only_reader(view, image, "QuantizeLinear")
    opened = _only_reader(view, quantizer.output[0], "DequantizeLinear") if quantizer else None
    conv = _only_reader(view, opened.output[0], "Conv") if opened else None
    if quantizer is None or conv is None or not _fits(conv):
        return None
    weight = view.producer(conv.input[1], "DequantizeLinear")
    if weight is None or weight.input[0] not in view.constants or len(view.readers[weight.input[0]]) > 1:
        return None
    zeros = view.value(input_at(weight, 2))
    if zeros is not None and np.any(zeros):
        return None
    return quantizer, conv, weight.input[0]


def _only_reader(view: GraphIndex, tensor: str, kind: str) -> NodeProto | None:
    readers = view.consumers(tensor)
    return readers[0][0] if len(readers) == 1 and readers[0][0].op_type == kind else None


def _fits(conv: NodeProto) -> bool:
    stated = window_attributes(conv)
    wanted = stated._replace(kernel=(_KERNEL,) * 2, strides=(BLOCK,) * 2, pads=stated.pads[:1] * 4, dilations=(1, 1))
    return stated == wanted and attribute(conv, "group", 1) == 1


def _in_blocks(codes: Codes, padding: int, window: _Blocks) -> Codes:
    """Codes ``[O,C,k,k]`` as ``[O,4 C,b,b]``: place ``(y, x)`` of a block has the channels from ``(2 y + x) C`` on."""
    start = BLOCK * window.before - padding
    sides = (start, BLOCK * window.side - _KERNEL - start)
    taps = np.pad(codes, ((0, 0), (0, 0), sides, sides))
    out, channels, *_ = codes.shape
    blocks = taps.reshape(out, channels, window.side, BLOCK, window.side, BLOCK).transpose(0, 3, 5, 1, 2, 4)
    return blocks.reshape(out, -1, window.side, window.side)
