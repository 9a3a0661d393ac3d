"""The window of a Conv, ConvTranspose or pool, with the defaults of the ONNX operator specification."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from edgeres.onnx_graph.graph_index import attribute

if TYPE_CHECKING:
    from onnx import NodeProto


class WindowAttributes(NamedTuple):
    """What a node says about its window over ``[N,C,H,W]``.

    Attributes:
        kernel: Height and width; of another length where the node is not two-dimensional.
        strides: Vertical and horizontal.
        pads: Rows above, columns left, rows below, columns right.
        dilations: Vertical and horizontal.
        auto_pad: ``NOTSET`` where ``pads`` holds, otherwise ``VALID``, ``SAME_UPPER`` or ``SAME_LOWER``.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    auto_pad: str


def window_attributes(node: NodeProto, weight: tuple[int, ...] = ()) -> WindowAttributes:
    """Reads the attributes of a windowed node.

    Args:
        node: The node.
        weight: Height and width of a convolution's weight, which stand for a ``kernel_shape`` that is left out.
    """
    return WindowAttributes(
        kernel=tuple(attribute(node, "kernel_shape") or weight),
        strides=tuple(attribute(node, "strides") or (1, 1)),
        pads=tuple(attribute(node, "pads") or (0, 0, 0, 0)),
        dilations=tuple(attribute(node, "dilations") or (1, 1)),
        auto_pad=(attribute(node, "auto_pad") or b"NOTSET").decode(),
    )
