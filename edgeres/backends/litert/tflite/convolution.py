"""Translation of convolutions and matrix products to LiteRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.litert.tflite.program import QuantizationParameters
from edgeres.backends.litert.tflite.tensor_table import real_constant, weight_codes, with_room_for_bias
from edgeres.backends.litert.tflite.window import pad, window
from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import attribute, label

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from edgeres.backends.litert.tflite.program import Activation
    from edgeres.backends.litert.tflite.tensor_table import Codes, TensorTable

_GROUPED = 6
"""Version of CONV_2D that supports groups."""
_DILATED = 2
"""Version of DEPTHWISE_CONV_2D that supports dilation, in float."""


def convolution(tensors: TensorTable, node: NodeProto, output: str, activation: Activation) -> None:
    """A Conv, in integers where its data, weight and output are codes, otherwise in float with dequantized values."""
    data = node.input[0]
    codes, source, wanted = weight_codes(tensors.view, node), tensors.grid(data), tensors.wanted(output)
    weight = _weight(tensors, node) if codes is None else codes.values
    groups, channels = int(attribute(node, "group", 1)), tensors.shape(data)[1]
    depthwise = groups == channels and weight.shape[1] == 1
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


def product(tensors: TensorTable, node: NodeProto, output: str, activation: Activation) -> None:
    """A Gemm or MatMul of activations ``[N,K]`` and a constant, in float.

    FULLY_CONNECTED got scales per output channel late; older kernels would use the first scale for all.
    """
    right = real_constant(tensors.view, node.input[1])
    plain = all(attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta")) and not attribute(node, "transA", 0)
    if right is None or right.ndim != 2 or len(tensors.shape(node.input[0])) != 2 or not plain:
        raise StageError(f"{label(node)}: not a product of [N,K] and a constant [K,O]", "export the classifier as Gemm")
    weight = right if attribute(node, "transB", 0) else right.T
    bias = real_constant(tensors.view, node.input[2]) if len(node.input) > 2 and node.input[2] else None
    biases = np.zeros(len(weight), np.float32) if bias is None else np.broadcast_to(bias.reshape(-1), (len(weight),))
    inputs = (
        tensors.read(node.input[0], None),
        tensors.constant(f"{output}.weight", np.ascontiguousarray(weight)),
        tensors.constant(f"{output}.bias", np.ascontiguousarray(biases)),
    )
    logits = tensors.make(output, None)
    tensors.operate("FULLY_CONNECTED", inputs, logits, "FullyConnectedOptions", fusedActivationFunction=activation)


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
