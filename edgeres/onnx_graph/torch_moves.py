"""Operators that change shapes and move values, in torch: every shape is that of a batch of one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from edgeres.onnx_graph.graph_index import attribute, input_at
from edgeres.onnx_graph.torch_operands import first, integers, numbers, refuse

if TYPE_CHECKING:
    from onnx import NodeProto
    from torch.fx import Node

    from edgeres.onnx_graph.torch_translator import TorchOperator, Translator

aten = torch.ops.aten

_MIRRORS = {"reflect": aten.reflection_pad2d.default, "edge": aten.replication_pad2d.default}
"""Operators that pad by the pixels at the border, by the mode of ONNX's Pad."""

_LAST = np.iinfo(np.int32).max
"""End of a Slice that reads to the last element."""


def _flatten(to: Translator, node: NodeProto) -> Node:
    if attribute(node, "axis", 1) == 1:
        return to.call(aten.flatten.using_ints, first(to, node), 1)
    return _reshape(to, node)


def _reshape(to: Translator, node: NodeProto) -> Node:
    return to.call(aten.reshape.default, first(to, node), list(to.shape(node.output[0])))


def _squeeze(to: Translator, node: NodeProto) -> Node:
    axes = integers(to, node, 1, "axes")
    return to.call(aten.squeeze.dims, first(to, node), axes) if axes else _reshape(to, node)


def _expand(to: Translator, node: NodeProto) -> Node:
    return to.call(aten.expand.default, first(to, node), list(to.shape(node.output[0])))


def _transpose(to: Translator, node: NodeProto) -> Node:
    rank = len(to.shape(node.input[0]))
    order = list(attribute(node, "perm") or range(rank)[::-1])
    return to.call(aten.permute.default, first(to, node), order)


def _concat(to: Translator, node: NodeProto) -> Node:
    return to.call(aten.cat.default, [to.tensor(name) for name in node.input if name], attribute(node, "axis"))


def _slice(to: Translator, node: NodeProto) -> Node:
    starts, ends = integers(to, node, 1, "starts"), integers(to, node, 2, "ends")
    axes = integers(to, node, 3, "axes") or list(range(len(starts)))
    steps = integers(to, node, 4, "steps") or [1] * len(starts)
    refuse(node, unless=min(steps, default=1) > 0, what=f"steps {steps}")
    result = first(to, node)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        result = to.call(aten.slice.Tensor, result, axis, start, min(end, _LAST), step)
    return result


def _split(to: Translator, node: NodeProto) -> list[Node]:
    """One slice for each part, so that each is a tensor of its own."""
    axis, data, start = int(attribute(node, "axis", 0)), first(to, node), 0
    parts: list[Node] = []
    for name in node.output:
        end = start + to.shape(name)[axis]
        parts.append(to.call(aten.slice.Tensor, data, axis, start, end, 1))
        start = end
    return parts


def _gather(to: Translator, node: NodeProto) -> Node:
    value, axis = to.view.value(node.input[1]), int(attribute(node, "axis", 0))
    refuse(node, unless=value is not None, what="computed indices")
    size = to.shape(node.input[0])[axis]
    indices = np.asarray(value).astype(np.int64) % size
    if indices.ndim == 0:
        return to.call(aten.select.int, first(to, node), axis, int(indices))
    chosen = to.call(aten.index_select.default, first(to, node), axis, to.constant(indices.reshape(-1)))
    return to.call(aten.reshape.default, chosen, list(to.shape(node.output[0]))) if indices.ndim > 1 else chosen


def _space_to_depth(to: Translator, node: NodeProto) -> Node:
    """``[N,C,H,W]`` as ``[N,b b C,H/b,W/b]``; torch's pixel_unshuffle has the channels outermost, ONNX innermost."""
    block = int(attribute(node, "blocksize"))
    rows = to.call(aten.unflatten.int, first(to, node), 3, [-1, block])
    cut = to.call(aten.unflatten.int, rows, 2, [-1, block])
    inside = to.call(aten.permute.default, cut, [0, 3, 5, 1, 2, 4])
    return to.call(aten.flatten.using_ints, inside, 1, 3)


def _pad(to: Translator, node: NodeProto) -> Node:
    mode, pads = (attribute(node, "mode") or b"constant").decode(), integers(to, node, 1, "pads")
    known = mode in ("constant", *_MIRRORS) and min(pads, default=-1) >= 0 and not input_at(node, 3)
    refuse(node, unless=known, what=f"pads {pads} of mode {mode}")
    if mode in _MIRRORS:
        refuse(node, unless=len(pads) == 8 and not any(pads[:2] + pads[4:6]), what=f"pads {pads} of mode {mode}")
        return to.call(_MIRRORS[mode], first(to, node), [pads[3], pads[7], pads[2], pads[6]])
    value = (numbers(to, node, 2, "value") or [0.0])[0]
    rank = len(pads) // 2
    ordered = [amount for axis in reversed(range(rank)) for amount in (pads[axis], pads[axis + rank])]
    while ordered[-2:] == [0, 0]:  # torch counts from the last axis: leading ones may be omitted
        del ordered[-2:]
    return to.call(aten.constant_pad_nd.default, first(to, node), ordered, value)


def _resize(to: Translator, node: NodeProto) -> Node:
    """Nearest neighbours, or linear between pixel centres, of ``[N,C,H,W]``."""
    before, after = to.shape(node.input[0]), to.shape(node.output[0])
    mode = (attribute(node, "mode") or b"nearest").decode()
    where = (attribute(node, "coordinate_transformation_mode") or b"half_pixel").decode()
    floor = (attribute(node, "nearest_mode") or b"round_prefer_floor").decode() == "floor"
    plain = len(before) == 4 and before[:2] == after[:2] and not attribute(node, "antialias", 0)
    whole = all(large % small == 0 for small, large in zip(before[2:], after[2:], strict=True))
    if plain and mode == "nearest" and ((floor and where == "asymmetric") or whole):
        return to.call(aten.upsample_nearest2d.default, first(to, node), list(after[2:]))
    linear = plain and mode == "linear" and where in ("half_pixel", "pytorch_half_pixel", "align_corners")
    refuse(node, unless=linear, what=f"mode {mode}, {where}")
    return to.call(aten.upsample_bilinear2d.default, first(to, node), list(after[2:]), where == "align_corners")


MOVES: dict[str, TorchOperator] = {
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
"""Operators by ONNX's name."""
