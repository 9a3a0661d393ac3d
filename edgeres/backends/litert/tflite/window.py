"""Convolutions and pools in LiteRT: ONNX's explicit pads are ``SAME``, ``VALID`` or a separate PAD operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.litert.tflite.program import SAME, VALID, QuantizationParameters
from edgeres.backends.litert.tflite.tensor_table import real_constant, weight_codes, with_room_for_bias
from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import WindowAttributes, attribute, label, window_attributes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from edgeres.backends.litert.tflite.program import Activation
    from edgeres.backends.litert.tflite.tensor_table import Codes, TensorTable

Pads = tuple[int, int, int, int]
"""Pixels above, left, below and right."""
_LOWEST = float(np.finfo(np.float32).min)

_GROUPED = 6
"""Version of CONV_2D that supports groups."""
_DILATED = 2
"""Version of DEPTHWISE_CONV_2D that supports dilation, in float."""


@dataclass(frozen=True, slots=True)
class Window:
    """Window of a convolution or pool: height and width of kernel, stride and dilation.

    Attributes:
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


def window(tensors: TensorTable, node: NodeProto, kernel: tuple[int, ...]) -> Window:
    """Reads the window of a convolution or pool with a kernel of that height and width."""
    source, target = tensors.shape(node.input[0]), tensors.shape(node.output[0])
    if len(source) != 4 or len(kernel) != 2:
        raise StageError(f"{label(node)}: {len(kernel)}-dimensional kernel", "edgeres writes networks of 2-d images")
    stated = window_attributes(node)
    stride, dilation = stated.strides, stated.dilations
    missing = [
        (target[2 + axis] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1 - source[2 + axis]
        for axis in (0, 1)
    ]
    (top, bottom, more_rows), (left, right, more_columns) = (_sides(stated, axis, missing[axis]) for axis in (0, 1))
    same = all(
        target[2 + axis] == -(-source[2 + axis] // stride[axis]) and before == max(missing[axis], 0) // 2
        for axis, before in enumerate((top, left))
    )
    pads = (top, left, bottom, right)
    return Window(
        kernel=(kernel[0], kernel[1]),
        stride=(stride[0], stride[1]),
        dilation=(dilation[0], dilation[1]),
        pads=pads,
        padding=SAME if same and any(pads) else VALID,
        surplus=more_rows or more_columns,
    )


def _sides(stated: WindowAttributes, axis: int, missing: int) -> tuple[int, int, bool]:
    """Effective padding before and after an axis on which windows cover ``missing`` pixels more than there are.

    The third value says whether ``ceil_mode`` adds to the node's pads. Padding at the end that no window reaches is
    left out: ``SAME`` has none there either.
    """
    match stated.auto_pad:
        case "SAME_UPPER":
            before, whole = max(missing, 0) // 2, missing
        case "SAME_LOWER":
            before, whole = -(-max(missing, 0) // 2), missing
        case "VALID":
            before, whole = 0, 0
        case _:
            before, whole = stated.pads[axis], stated.pads[axis] + stated.pads[2 + axis]
    return before, max(missing - before, 0), missing > whole


def pad(tensors: TensorTable, read: int, pads: Pads, name: str, lowest: float | None = None) -> int:
    """A padded tensor ``[1,H,W,C]`` of that name, with 0 around it.

    ``lowest`` takes the place of 0 around a float tensor; codes are padded with their lowest code then.
    """
    top, left, bottom, right = pads
    (count, height, width, channels), grid = tensors.tensors[read].shape, tensors.tensors[read].grid
    around = tensors.constant(f"{name}.pads", np.array([(0, 0), (top, bottom), (left, right), (0, 0)], np.int32))
    output = tensors.activation(name, (count, height + top + bottom, width + left + right, channels), grid)
    if lowest is None:
        return tensors.operate("PAD", (read, around), output, "PadOptions")
    value = np.array([-128], np.int8) if grid else np.array([lowest], np.float32)
    filling = tensors.constant(f"{name}.value", value, grid)
    return tensors.operate("PADV2", (read, around, filling), output, "PadV2Options")


def convolution(tensors: TensorTable, node: NodeProto, output: str, activation: Activation) -> None:
    """A Conv, in integers where its data, weight and output are codes, otherwise in float with dequantized values."""
    data = node.input[0]
    codes, source, wanted = weight_codes(tensors.view, node), tensors.grid(data), tensors.wanted(output)
    weight = _weight(tensors, node) if codes is None else codes.values
    groups, channels = int(attribute(node, "group", 1)), tensors.shape(data)[1]
    depthwise = groups == channels > 1 and weight.shape[1] == 1
    bias = _bias(tensors, node, len(weight))
    if codes is not None and source is not None and wanted is not None:
        fitted = with_room_for_bias(codes, bias, source.scale[0])
        constants = _integers(tensors, output, fitted, source.scale[0], depthwise=depthwise)
    else:
        source = wanted = None
        real = weight if codes is None else codes.real
        constants = (
            tensors.constant(f"{output}.weight", _laid_out(real, depthwise=depthwise)),
            tensors.constant(f"{output}.bias", bias),
        )
    seen = window(tensors, node, weight.shape[2:])
    read = tensors.read(data, source)
    if seen.explicit is not None:
        read = pad(tensors, read, seen.explicit, f"{node.name or output};padded")
    options: dict[str, int] = {
        "padding": seen.padding,
        "strideH": seen.stride[0],
        "strideW": seen.stride[1],
        "dilationHFactor": seen.dilation[0],
        "dilationWFactor": seen.dilation[1],
        "fusedActivationFunction": activation,
    }
    kind, table, version = "CONV_2D", "Conv2DOptions", _GROUPED if groups > 1 else None
    if depthwise:
        kind, table = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions"
        version = _DILATED if wanted is None and max(seen.dilation) > 1 else None
        options["depthMultiplier"] = len(weight) // channels
    tensors.operate(kind, (read, *constants), tensors.make(output, wanted), table, version, **options)


def _integers(
    tensors: TensorTable, output: str, fitted: tuple[Codes, NDArray[np.int32]], step: float, *, depthwise: bool
) -> tuple[int, int]:
    """Weight and bias as codes; the bias's scale is the product of the input's, ``step``, and the weight's."""
    codes, bias = fitted
    weight = _laid_out(codes.values.astype(np.int8), depthwise=depthwise)
    steps = (step * codes.scale.astype(np.float64)).astype(np.float32)
    grid = QuantizationParameters(tuple(codes.scale.tolist()), axis=3 if depthwise else 0)
    return (
        tensors.constant(f"{output}.weight", weight, grid),
        tensors.constant(f"{output}.bias", bias, QuantizationParameters(tuple(steps.tolist()))),
    )


def _weight(tensors: TensorTable, node: NodeProto) -> NDArray[np.float32]:
    value = real_constant(tensors.view, node.input[1])
    if value is None:
        raise StageError(f"{label(node)}: its weight is computed", "export weights as constants")
    return value


def _bias(tensors: TensorTable, node: NodeProto, channels: int) -> NDArray[np.float32]:
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(channels, np.float32)
    value = real_constant(tensors.view, node.input[2])
    if value is None or value.size != channels:
        raise StageError(f"{label(node)}: its bias is computed", "export biases as constants")
    return np.ascontiguousarray(value.reshape(-1))


def _laid_out(weight: NDArray[np.generic], *, depthwise: bool) -> NDArray[np.generic]:
    """A weight ``[O,I,H,W]`` as ``[O,H,W,I]``, or as ``[1,H,W,O]`` for a depthwise convolution."""
    return np.ascontiguousarray(weight.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1)))


def maxpool(tensors: TensorTable, node: NodeProto) -> None:
    """A MaxPool, on codes where its input is codes: the largest code is the code of the largest number."""
    data, output = node.input[0], node.output[0]
    seen = _seen(tensors, node)
    grid = tensors.grid(data)
    read = tensors.read(data, grid)
    if seen.explicit is not None:
        # After a ReLU no pixel is below 0, so 0 is never the maximum by mistake; XNNPACK supports PAD, not PADV2.
        maker = tensors.view.producer(tensors.view.origin(data))
        positive = (grid is not None and grid.zero_point == -128) or (maker is not None and maker.op_type == "Relu")
        read = pad(tensors, read, seen.explicit, f"{output};padded", None if positive else _LOWEST)
    options = _options(seen, seen.padding)
    tensors.operate("MAX_POOL_2D", (read,), tensors.make(output, grid), "Pool2DOptions", **options)


def average_pool(tensors: TensorTable, node: NodeProto) -> None:
    """An AveragePool. On codes LiteRT keeps the input's grid, so another grid after it rounds a second time."""
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
    options = _options(seen, VALID if counted else seen.padding)
    tensors.operate("AVERAGE_POOL_2D", (read,), tensors.make(output, grid), "Pool2DOptions", **options)


def global_average(tensors: TensorTable, node: NodeProto) -> None:
    """A GlobalAveragePool or a ReduceMean over height and width, on codes where both sides are codes."""
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
    """The window of a pool."""
    kernel = tuple(attribute(node, "kernel_shape"))
    seen = window(tensors, node, kernel)
    if seen.dilation != (1, 1):
        raise StageError(f"{label(node)}: a pool with dilation", "LiteRT has none")
    if any(pixels >= side for pixels, side in zip(seen.pads, kernel * 2, strict=True)):
        raise StageError(f"{label(node)}: a pool over padding alone", "export it without ceil_mode")
    return seen


def _options(seen: Window, padding: int) -> dict[str, int]:
    (high, wide), (down, along) = seen.kernel, seen.stride
    return {"padding": padding, "strideH": down, "strideW": along, "filterHeight": high, "filterWidth": wide}
