"""The stem of a quantized network over blocks of 2x2 pixels: the same sums of the same integers, faster.

A 7x7 convolution of stride 2 over an image of 3 channels fits no integer kernel well: they take 4 channels at a time.
With each block of 2x2 pixels as 12 channels of one (ONNX SpaceToDepth) it is a 4x4 convolution of stride 1 whose taps
are the old ones and zeros. Tap ``d`` of a window with padding ``p`` reads pixel ``2 o + d - p``, which is place
``(d - p) mod 2`` of block ``o + floor((d - p) / 2)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import helper, numpy_helper

from edgeres.onnx_graph.graph_index import GraphIndex, attribute
from edgeres.onnx_graph.layers import image_of
from edgeres.onnx_graph.window import window_attributes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    Codes = NDArray[np.integer]

BLOCK = 2
BLOCKED = "the first convolution reads blocks of 2x2 pixels as channels: the same integers in fewer cycles"
"""What an engine says that was made from such a graph."""

_KERNEL = 7
"""The window this was measured to pay for."""


def in_host_form(model: ModelProto) -> tuple[ModelProto, tuple[str, ...]]:
    """A graph as engines for this host are made from it, its stem in blocks if it can be, and what they say of that."""
    blocked = blocked_stem(model)
    return (model, ()) if blocked is None else (blocked, (BLOCKED,))


@dataclass(frozen=True, slots=True)
class _Window:
    """A square window of stride 2 over an image of even sides.

    Attributes:
        kernel: Its side.
        padding: On every side.
    """

    kernel: int
    padding: int

    @property
    def before(self) -> int:
        """Blocks of padding in front."""
        return -(-self.padding // BLOCK)

    @property
    def blocks(self) -> int:
        """Side of the window in blocks."""
        return (self.kernel - 1 - self.padding) // BLOCK + self.before + 1

    @property
    def after(self) -> int:
        """Blocks of padding behind: as many outputs as before, ``(n + 2 p - k) // 2 + 1`` of ``n`` pixels."""
        return (2 * self.padding - self.kernel) // BLOCK + self.blocks - self.before


def blocked_stem(model: ModelProto) -> ModelProto | None:
    """A copy of a quantized graph whose first convolution reads blocks; None where it is not of that form.

    Args:
        model: A graph whose image goes through one quantizer into a 7x7 convolution of stride 2.
    """
    view = GraphIndex.of(model)
    image, (_, *sides) = image_of(model)
    found = _stem(view, image)
    if found is None or any(side % BLOCK or not side for side in sides):
        return None
    quantizer, conv, codes_name = found
    codes = numpy_helper.to_array(view.constants[codes_name])
    window = _Window(_KERNEL, window_attributes(conv).pads[0])
    copy = type(model)()
    copy.CopyFrom(model)
    graph = copy.graph
    stored = next(tensor for tensor in graph.initializer if tensor.name == codes_name)
    stored.CopyFrom(numpy_helper.from_array(_in_blocks(codes, window), codes_name))
    _rewire(next(node for node in graph.node if node.name == conv.name), window)
    first = next(node for node in graph.node if node.output[0] == quantizer.output[0])
    blocks = helper.make_node("SpaceToDepth", [image], [f"{image}.blocks"], f"{image}.blocks", blocksize=BLOCK)
    graph.node.insert(list(graph.node).index(first), blocks)
    first.input[0] = blocks.output[0]
    del graph.value_info[:]
    return copy


def _stem(view: GraphIndex, image: str) -> tuple[NodeProto, NodeProto, str] | None:
    """The image's quantizer, the convolution behind it, and the name of its weight codes."""
    quantizer = _only_reader(view, image, "QuantizeLinear")
    opened = _only_reader(view, quantizer.output[0], "DequantizeLinear") if quantizer else None
    conv = _only_reader(view, opened.output[0], "Conv") if opened else None
    if quantizer is None or conv is None or not _fits(conv):
        return None
    weight = view.producers.get(conv.input[1])
    if weight is None or weight.op_type != "DequantizeLinear" or len(view.readers[weight.input[0]]) > 1:
        return None
    zeros = view.constants.get(weight.input[2]) if len(weight.input) > 2 else None
    if weight.input[0] not in view.constants or (zeros is not None and numpy_helper.to_array(zeros).any()):
        return None
    return quantizer, conv, weight.input[0]


def _only_reader(view: GraphIndex, tensor: str, kind: str) -> NodeProto | None:
    readers = view.readers.get(tensor, ())
    return readers[0][0] if len(readers) == 1 and readers[0][0].op_type == kind else None


def _fits(conv: NodeProto) -> bool:
    stated = window_attributes(conv)
    return (
        stated.kernel == (_KERNEL, _KERNEL)
        and stated.strides == (BLOCK, BLOCK)
        and stated.dilations == (1, 1)
        and attribute(conv, "group", 1) == 1
        and len(set(stated.pads)) == 1
        and bool(conv.name)
    )


def _in_blocks(codes: Codes, window: _Window) -> Codes:
    """Codes ``[O,C,k,k]`` as ``[O,4 C,b,b]``: place ``(y, x)`` of a block has the channels from ``(2 y + x) C`` on."""
    out, channels, *_ = codes.shape
    made = np.zeros((out, BLOCK * BLOCK * channels, window.blocks, window.blocks), codes.dtype)
    for row in range(window.kernel):
        down, y = divmod(row - window.padding, BLOCK)
        for column in range(window.kernel):
            along, x = divmod(column - window.padding, BLOCK)
            start = (BLOCK * y + x) * channels
            place = made[:, start : start + channels, down + window.before, along + window.before]
            place[...] = codes[:, :, row, column]
    return made


def _rewire(conv: NodeProto, window: _Window) -> None:
    kept = [item for item in conv.attribute if item.name not in ("kernel_shape", "strides", "pads", "auto_pad")]
    del conv.attribute[:]
    conv.attribute.extend(kept)
    shape = {
        "kernel_shape": [window.blocks] * 2,
        "pads": [window.before] * 2 + [window.after] * 2,
        "strides": [1, 1],
    }
    conv.attribute.extend(helper.make_attribute(name, value) for name, value in shape.items())
