"""Translation of convolutions and matrix products to LiteRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.litert.tflite.parameters import real_constant, weight_codes, with_room_for_bias
from edgeres.backends.litert.tflite.program import QuantizationParameters
from edgeres.backends.litert.tflite.window import window
from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import attribute, label

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from edgeres.backends.litert.tflite.parameters import Codes
    from edgeres.backends.litert.tflite.program import Activation
    from edgeres.backends.litert.tflite.tensor_table import TensorTable
    from edgeres.backends.litert.tflite.window import Pads

_GROUPED = 6
"""Version of CONV_2D that supports groups."""
_DILATED = 2
"""Version of DEPTHWISE_CONV_2D that supports dilation, in float."""


def convolution(tensors: TensorTable, node: NodeProto, output: str, activation: Activation) -> None:
    """A Conv, in integers where its data, weight and output are codes, otherwise in float with the dequantized values.

    Raises:
        StageError: LiteRT has no such convolution.
    """
    data = node.input[0]
    codes, given, wanted = weight_codes(tensors.view, node), tensors.grid(data), tensors.wanted(output)
    weight = _weight(tensors, node) if codes is None else codes.values
    groups, channels = int(attribute(node, "group", 1)), tensors.shape(data)[1]
    depthwise = groups == channels and weight.shape[1] == 1
    bias = _bias(tensors, node, len(weight))
    if codes is not None and given is not None and wanted is not None:
        grid: QuantizationParameters | None = wanted
        constants = _integer(tensors, output, with_room_for_bias(codes, bias, given.scale[0]), given, depthwise)
    else:
        grid = given = None
        real = weight if codes is None else codes.real
        constants = (
            tensors.constant(f"{output}.weight", _laid_out(real, depthwise=depthwise)),
            tensors.constant(f"{output}.bias", bias),
        )
    seen = window(node, tensors.shape(data), tensors.shape(node.output[0]), weight.shape[2:])
    read = tensors.read(data, given)
    if seen.explicit is not None:
        read = pad(tensors, read, seen.explicit, f"{node.name or output};padded")
    options: dict[str, int | float] = {
        "padding": seen.padding,
        "strideH": seen.stride[0],
        "strideW": seen.stride[1],
        "dilationHFactor": seen.dilation[0],
        "dilationWFactor": seen.dilation[1],
        "fusedActivationFunction": activation,
    }
    inputs, made = (read, *constants), tensors.make(output, grid)
    if depthwise:
        options["depthMultiplier"] = len(weight) // channels
        version = _DILATED if grid is None and max(seen.dilation) > 1 else None
        tensors.operate(
            "DEPTHWISE_CONV_2D", inputs, made, table="DepthwiseConv2DOptions", options=options, version=version
        )
    else:
        version = _GROUPED if groups > 1 else None
        tensors.operate("CONV_2D", inputs, made, table="Conv2DOptions", options=options, version=version)


def _integer(
    tensors: TensorTable,
    output: str,
    fitted: tuple[Codes, NDArray[np.int32]],
    given: QuantizationParameters,
    depthwise: bool,
) -> tuple[int, int]:
    """Weight and bias as codes; the bias's scale is the product of the input's and the weight's."""
    codes, bias = fitted
    weight = _laid_out(codes.values.astype(np.int8), depthwise=depthwise)
    scale, steps = codes.scale, (given.scale[0] * codes.scale.astype(np.float64)).astype(np.float32)
    return (
        tensors.constant(
            f"{output}.weight", weight, QuantizationParameters(tuple(scale.tolist()), axis=3 if depthwise else 0)
        ),
        tensors.constant(f"{output}.bias", bias, QuantizationParameters(tuple(steps.tolist()))),
    )


def pad(tensors: TensorTable, read: int, pads: Pads, name: str, lowest: float | None = None) -> int:
    """A padded tensor ``[1,H,W,C]``, with 0 or with the lowest number.

    Args:
        tensors: The file.
        read: Index of the tensor.
        pads: Pixels above, left, below, right.
        name: Name of the padded tensor.
        lowest: Padding of a float tensor instead of 0; codes are padded with their lowest code then.
    """
    top, left, bottom, right = pads
    count, height, width, channels = tensors.shape_of(read)
    grid = tensors.grid_of(read)
    around = tensors.constant(f"{name}.pads", np.array([(0, 0), (top, bottom), (left, right), (0, 0)], np.int32))
    made = tensors.activation(name, (count, height + top + bottom, width + left + right, channels), grid)
    if lowest is None:
        return tensors.operate("PAD", (read, around), made, table="PadOptions")
    value = np.array([-128], np.int8) if grid else np.array([lowest], np.float32)
    filling = tensors.constant(f"{name}.value", value, grid)
    return tensors.operate("PADV2", (read, around, filling), made, table="PadV2Options")


def product(tensors: TensorTable, node: NodeProto, output: str, activation: Activation) -> None:
    """A Gemm or MatMul of activations ``[N,K]`` and a constant, in float.

    FULLY_CONNECTED got scales per output channel late; older kernels would use the first scale for all.

    Raises:
        StageError: It transposes its data, scales it, or multiplies two activations.
    """
    right = real_constant(tensors.view, node.input[1])
    data = tensors.shape(node.input[0])
    plain = all(attribute(node, name, default) == default for name, default in (("alpha", 1.0), ("beta", 1.0)))
    if right is None or right.ndim != 2 or len(data) != 2 or not plain or attribute(node, "transA", 0):
        raise StageError(f"{label(node)}: not a product of [N,K] and a constant [K,O]", "export the classifier as Gemm")
    weight = right if attribute(node, "transB", 0) else right.T
    bias = real_constant(tensors.view, node.input[2]) if len(node.input) > 2 and node.input[2] else None
    biases = np.zeros(len(weight), np.float32) if bias is None else np.broadcast_to(bias.reshape(-1), (len(weight),))
    inputs = (
        tensors.read(node.input[0], None),
        tensors.constant(f"{output}.weight", np.ascontiguousarray(weight)),
        tensors.constant(f"{output}.bias", np.ascontiguousarray(biases)),
    )
    options: dict[str, int | float] = {"fusedActivationFunction": activation}
    tensors.operate(
        "FULLY_CONNECTED", inputs, tensors.make(output, None), table="FullyConnectedOptions", options=options
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
