"""Translation of pools, over windows and whole images, to LiteRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.litert.tflite.program import VALID
from edgeres.backends.litert.tflite.window import pad, window
from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import attribute, label

if TYPE_CHECKING:
    from onnx import NodeProto

    from edgeres.backends.litert.tflite.tensor_table import TensorTable
    from edgeres.backends.litert.tflite.window import Window

_LOWEST = float(np.finfo(np.float32).min)


def maxpool(tensors: TensorTable, node: NodeProto) -> None:
    """A MaxPool, on codes where its input is codes: the largest code is the code of the largest number.

    Raises:
        StageError: Its window is dilated, or covers no pixel somewhere.
    """
    data, output = node.input[0], node.output[0]
    seen = _seen(tensors, node)
    grid = tensors.grid(data)
    read = tensors.read(data, grid)
    if seen.explicit is not None:
        # After a ReLU no pixel is below 0, so 0 is never the maximum by mistake; XNNPACK supports PAD, not PADV2.
        maker = tensors.view.producer(tensors.view.origin(data))
        positive = (grid is not None and grid.zero_point == -128) or (maker is not None and maker.op_type == "Relu")
        read = pad(tensors, read, seen.explicit, f"{output};padded", None if positive else _LOWEST)
    _pool(tensors, "MAX_POOL_2D", read, tensors.make(output, grid), seen, seen.padding)


def average_pool(tensors: TensorTable, node: NodeProto) -> None:
    """An AveragePool. On codes LiteRT keeps the input's grid, so another grid after it rounds a second time.

    Raises:
        StageError: LiteRT does not count padding that way.
    """
    data, output = node.input[0], node.output[0]
    seen = _seen(tensors, node)
    counted = bool(attribute(node, "count_include_pad", 0)) and any(seen.pads)
    if (counted and seen.surplus) or (seen.explicit is not None and not counted):
        raise StageError(
            f"{label(node)}: an average over padding {seen.pads} that LiteRT does not count alike",
            "pool without padding, with count_include_pad, or with TensorFlow's SAME padding",
        )
    grid = tensors.grid(data) if tensors.wanted(output) is not None else None
    read = tensors.read(data, grid)
    if counted:
        read = pad(tensors, read, seen.pads, f"{output};padded")
    padding = VALID if counted else seen.padding
    _pool(tensors, "AVERAGE_POOL_2D", read, tensors.make(output, grid), seen, padding)


def global_average(tensors: TensorTable, node: NodeProto) -> None:
    """A GlobalAveragePool or a ReduceMean over height and width, on codes where both sides are codes.

    Raises:
        StageError: It averages over other axes.
    """
    data, output = node.input[0], node.output[0]
    source, target = tensors.shape(data), tensors.shape(output)
    kept = (*source[:2], 1, 1)
    if len(source) != 4 or target not in (kept, kept[:2]):
        raise StageError(f"{label(node)}: a mean of {source} to {target}", "edgeres writes means over height and width")
    grid = tensors.wanted(output) if tensors.grid(data) is not None else None
    read = tensors.read(data, tensors.grid(data) if grid is not None else None)
    axes = tensors.constant(f"{output}.axes", np.array([1, 2], np.int32))
    tensors.operate("MEAN", (read, axes), tensors.make(output, grid), "ReducerOptions", keepDims=target == kept)


def _seen(tensors: TensorTable, node: NodeProto) -> Window:
    """The window of a pool.

    Raises:
        StageError: It is dilated, or lies outside the image somewhere: ONNX and its runtimes disagree on those.
    """
    kernel = tuple(attribute(node, "kernel_shape"))
    seen = window(tensors, node, kernel)
    if seen.dilation != (1, 1):
        raise StageError(f"{label(node)}: a pool with dilation", "LiteRT has none")
    if any(pixels >= side for pixels, side in zip(seen.pads, kernel * 2, strict=True)):
        raise StageError(f"{label(node)}: a pool over padding alone", "export it without ceil_mode")
    return seen


def _pool(tensors: TensorTable, kind: str, read: int, output: int, seen: Window, padding: int) -> None:
    (high, wide), (down, along) = seen.kernel, seen.stride
    options = {"padding": padding, "strideH": down, "strideW": along, "filterHeight": high, "filterWidth": wide}
    tensors.operate(kind, (read,), output, "Pool2DOptions", **options)
