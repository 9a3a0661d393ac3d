"""Windows of convolutions and pools of an ONNX graph in the vocabulary of ``Op``: a stride, and one of two paddings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from edgeres.model.operation import Op
from edgeres.onnx_graph.graph_index import label, window_attributes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnx import NodeProto

Pads = tuple[int, int, int, int]
NONE: Pads = (0, 0, 0, 0)


class Unknown(Exception):
    """A node that no residual network has; the message names it."""


class LayerWindow(NamedTuple):
    """A square window; ``paddings`` are those of ``Op.same`` that it may have, both where they are equal."""

    stride: int
    dilation: int
    paddings: tuple[bool, ...]


def layer_window(
    node: NodeProto, kernel: int, sides: Sequence[int], target: Sequence[int], around: Pads
) -> LayerWindow:
    """The window of a convolution or maximum of ``kernel x kernel`` pixels, from an image of ``sides`` to ``target``.

    ``around`` are the pixels that a Pad adds before it. Padding at the end that no window reaches does not count.

    Raises:
        Unknown: It is not square, or padded in another way than ``Op`` is.
    """
    stated = window_attributes(node, (kernel, kernel))
    (stride, *strides), (dilation, *dilations) = set(stated.strides), set(stated.dilations)
    if strides or dilations or set(stated.kernel) != {kernel} or len(stated.kernel) != 2:
        raise Unknown(f"{label(node)}: a window that is not square")
    even = Op("conv", "", (), 0, 0, kernel=kernel, stride=stride, dilation=dilation)
    same = replace(even, same=True)
    match stated.auto_pad:
        case "SAME_UPPER":
            pads = same.pads(tuple(sides))
        case "SAME_LOWER":
            above, left, below, right = same.pads(tuple(sides))
            pads = below, right, above, left
        case "VALID":
            pads = NONE
        case _:
            above, left, below, right = stated.pads or NONE
            pads = above, left, below, right
    first = pads[0] + around[0], pads[1] + around[1]
    able = (even, same) if stride > 1 and kernel > 1 else (even,)
    paddings = tuple(one.same for one in able if one.pads(tuple(sides))[:2] == first)
    if kernel % 2 == 0 or not paddings or tuple(map(even.side, sides)) != tuple(target):
        whole = [one + more for one, more in zip(pads, around, strict=True)]
        raise Unknown(f"{label(node)}: a window of {kernel}x{kernel} pixels, stride {stride}, padded by {whole}")
    return LayerWindow(stride, dilation, paddings)


def padded_alike(ops: Iterable[Op], either: frozenset[str]) -> list[Op]:
    """The operations with one padding for all convolutions, and one for all pools, as far as they have it.

    ``either`` are the names of operations that both paddings suit.
    """
    ops = list(ops)
    kinds = {op.kind for op in ops if op.same}
    return [replace(op, same=op.kind in kinds) if op.name in either else op for op in ops]
