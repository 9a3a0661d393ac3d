"""Padding of windows: ONNX's explicit pads as LiteRT's ``SAME``, ``VALID`` or a separate PAD operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from edgeres.backends.litert.tflite.program import SAME, VALID
from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import WindowAttributes, label, window_attributes

if TYPE_CHECKING:
    from onnx import NodeProto

Pads = tuple[int, int, int, int]
"""Pixels above, left, below and right."""


@dataclass(frozen=True, slots=True)
class Window:
    """Window of a convolution or pool.

    Attributes:
        kernel: Height and width.
        stride: Vertical and horizontal.
        dilation: Vertical and horizontal.
        pads: Padding of the image.
        padding: ``SAME`` where that pads equally, otherwise ``VALID``.
        surplus: Whether ``ceil_mode`` adds pixels to the node's pads, which ``pads`` includes.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: Pads
    padding: int
    surplus: bool

    @property
    def explicit(self) -> Pads | None:
        """Pads of a separate operator; None where it is not needed."""
        return None if self.padding == SAME or not any(self.pads) else self.pads


def window(node: NodeProto, given: tuple[int, ...], made: tuple[int, ...], kernel: tuple[int, ...]) -> Window:
    """Reads the window of a convolution or pool.

    Args:
        node: The ONNX node.
        given: Shape ``[N,C,H,W]`` of its input.
        made: Shape ``[N,C,H',W']`` of its output.
        kernel: Height and width of the kernel.

    Raises:
        StageError: It is not two-dimensional.
    """
    if len(given) != 4 or len(kernel) != 2:
        raise StageError(f"{label(node)}: {len(kernel)}-dimensional kernel", "edgeres writes networks of 2-d images")
    stated = window_attributes(node)
    stride, dilation = stated.strides, stated.dilations
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
    covered = [(made[2 + axis] - 1) * stride[axis] + reach[axis] for axis in (0, 1)]
    sides = [_side(stated, axis, covered[axis] - given[2 + axis]) for axis in (0, 1)]
    same = all(
        made[2 + axis] == -(-given[2 + axis] // stride[axis])
        and sides[axis].before == max(covered[axis] - given[2 + axis], 0) // 2
        for axis in (0, 1)
    )
    pads = (sides[0].before, sides[1].before, sides[0].behind, sides[1].behind)
    return Window(
        kernel=(kernel[0], kernel[1]),
        stride=(stride[0], stride[1]),
        dilation=(dilation[0], dilation[1]),
        pads=pads,
        padding=SAME if same and any(pads) else VALID,
        surplus=sides[0].surplus or sides[1].surplus,
    )


class _Side(NamedTuple):
    """Padding before and after an axis, and whether ``ceil_mode`` adds to the node's pads."""

    before: int
    behind: int
    surplus: bool


def _side(stated: WindowAttributes, axis: int, missing: int) -> _Side:
    """Effective padding of an axis on which windows cover ``missing`` pixels more than there are.

    Padding at the end that no window reaches is left out: ``SAME`` has none there either.
    """
    match stated.auto_pad:
        case "SAME_UPPER":
            before, said = max(missing, 0) // 2, missing
        case "SAME_LOWER":
            before, said = -(-max(missing, 0) // 2), missing
        case "VALID":
            before, said = 0, 0
        case _:
            before, said = stated.pads[axis], stated.pads[axis] + stated.pads[2 + axis]
    return _Side(before, max(missing - before, 0), missing > said)
