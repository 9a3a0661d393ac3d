"""Space-to-depth form of a quantized stem: the same integer sums on blocks of 2x2 pixels, which run faster.

A 7x7 convolution of stride 2 over an image of 3 channels fits no integer kernel well: they process 4 channels at a
time. With each block of 2x2 pixels as 12 channels (ONNX SpaceToDepth) it is a 4x4 convolution of stride 1 whose taps
are the original ones and zeros. Tap ``d`` of a window with padding ``p`` reads pixel ``2 o + d - p``, which is place
``(d - p) mod 2`` of block ``o + floor((d - p) / 2)``.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from onnx import helper, numpy_helper

from edgeres.onnx_graph.edit import insert_before, retain
from edgeres.onnx_graph.graph_index import GraphIndex, WindowAttributes, attribute, optional_input, window_attributes
from edgeres.onnx_graph.operator_counts import image_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    Codes = NDArray[np.integer]

BLOCK = 2
BLOCKED = "the first convolution reads blocks of 2x2 pixels as channels: the same integers in fewer cycles"
"""Note of an engine built from such a graph."""

_KERNEL = 7
"""Kernel side for which it was measured to be faster."""


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
    zeros = view.value(optional_input(weight, 2))
    if zeros is not None and np.any(zeros):
        return None
    return quantizer, conv, weight.input[0]


def _only_reader(view: GraphIndex, tensor: str, kind: str) -> NodeProto | None:
    readers = view.consumers(tensor)
    return readers[0][0] if len(readers) == 1 and readers[0][0].op_type == kind else None


def _fits(conv: NodeProto) -> bool:
    stated = window_attributes(conv)
    square = WindowAttributes((_KERNEL,) * 2, (BLOCK,) * 2, stated.pads[:1] * 4, auto_pad=stated.auto_pad)
    return stated == square and attribute(conv, "group", 1) == 1


def _in_blocks(codes: Codes, padding: int, window: _Blocks) -> Codes:
    """Codes ``[O,C,k,k]`` as ``[O,4 C,b,b]``: place ``(y, x)`` of a block has the channels from ``(2 y + x) C`` on."""
    start = BLOCK * window.before - padding
    sides = (start, BLOCK * window.side - _KERNEL - start)
    taps = np.pad(codes, ((0, 0), (0, 0), sides, sides))
    out, channels, *_ = codes.shape
    blocks = taps.reshape(out, channels, window.side, BLOCK, window.side, BLOCK).transpose(0, 3, 5, 1, 2, 4)
    return blocks.reshape(out, -1, window.side, window.side)
