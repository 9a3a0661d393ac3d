"""How TensorRT wants weights and biases of quantized operators to be stored.

Sources: onnx/onnx-tensorrt, the TensorRT developer guide, and TensorRT-Model-Optimizer ``modelopt/onnx/quantization``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.lint.facts import data_shape, type_name, weight_dequantizer, weighted_nodes
from edgeres.lint.rule import Defect, Version, rule
from edgeres.onnx_graph.graph_index import BIASED, GraphIndex, attribute, label
from edgeres.onnx_graph.stored_weights import output_channel_axis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import NodeProto

IMPORTER = "onnx-tensorrt, QuantDequantLinearHelper"
GUIDE = "TensorRT developer guide, Q/DQ layer-placement recommendations"


@rule("W01", "E", "fold what stands between into the codes", GUIDE)
def weight_next_to_dequantizer(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Weights are constant -> DQ -> operator."""
    for node in weighted_nodes(view):
        between, name = "", node.input[1]
        while (maker := view.producer(name, "Transpose", "Reshape", "Identity", "Cast")) is not None:
            between, name = maker.op_type, maker.input[0]
        dequantizer = view.producer(name, "DequantizeLinear")
        if between and dequantizer is not None and view.is_weight_dequantizer(dequantizer):
            yield label(node), f"{between} between the weight's DequantizeLinear and the operator"


@rule("W02", "E", "store float weights behind QuantizeLinear", GUIDE, until=(8, 5))
def float_weights(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Weights are float -> Q -> DQ."""
    for node in weighted_nodes(view):
        dequantizer = weight_dequantizer(view, node)
        if dequantizer is not None and dequantizer.input[0] in view.constants:
            yield label(node), "its weight is stored as codes, which this parser does not take"


@rule("W03", "E", "put the scales on the output channels' axis", GUIDE)
def weight_axis(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Weights are scaled per output channel."""
    for node in weighted_nodes(view):
        dequantizer = weight_dequantizer(view, node)
        scale = view.value(dequantizer.input[1]) if dequantizer is not None else None
        if dequantizer is None or scale is None or scale.ndim != 1 or scale.size <= 1:
            continue
        shape = data_shape(view, dequantizer) or ()
        wanted, axis = output_channel_axis(node, shape), attribute(dequantizer, "axis")
        if axis is not None and axis % max(len(shape), 1) != wanted:
            yield label(dequantizer), f"axis {axis}; the output channels of {node.op_type} are on axis {wanted}"


@rule("W04", "E", "store the bias as a float32 initializer", IMPORTER)
def float_bias(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Biases are float."""
    for node in view.of_type(*BIASED):
        if len(node.input) < 3 or not node.input[2]:
            continue
        dequantizer = view.producer(node.input[2], "DequantizeLinear")
        if dequantizer is not None:
            codes = view.constants.get(dequantizer.input[0])
            kind = type_name(codes.data_type) if codes is not None else "quantized"
            yield label(node), f"{kind} bias behind DequantizeLinear"


@rule("W05", "E", "write the kernel_shape attribute", "onnx-tensorrt, docs/Changelog.md, 10.4", until=(10, 4))
def kernel_shape(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Conv names its kernel_shape."""
    for node in view.of_type("Conv", "ConvTranspose"):
        if node.input[1] not in view.constants and attribute(node, "kernel_shape") is None:
            yield label(node), "no kernel_shape although the weight is computed by DequantizeLinear"


@rule(
    "W06",
    "W",
    "use multiples of 8 with one side of 16 or more",
    "TensorRT-Model-Optimizer, onnx/quantization/graph_utils.py",
)
def channels(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Channel counts have INT8 kernels."""
    for node in view.of_type("Conv"):
        dequantizer = weight_dequantizer(view, node)
        shape = data_shape(view, dequantizer) if dequantizer is not None else None
        if shape is None or len(shape) != 4:
            continue
        groups = attribute(node, "group", 1)
        out, into, kernel = shape[0], shape[1] * groups, shape[2]
        if groups > 1:
            if out % 8 or kernel < 3:
                yield label(node), f"{out} channels in {groups} groups, kernel {kernel}: no fast INT8 kernel"
        elif into > 4 and not (out % 8 == 0 and into % 8 == 0 and max(out, into) >= 16):
            yield label(node), f"{into} -> {out} channels: no fast INT8 kernel"


@rule("W07", "W", "leave it in float at batch 1", "TensorRT-Model-Optimizer, onnx/quantization/graph_utils.py")
def float_classifier(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Matrix-vector products stay in float."""
    for node in view.of_type("Gemm", "MatMul"):
        if weight_dequantizer(view, node) is not None:
            yield label(node), "a quantized matrix product gains nothing at batch 1"


@rule("W08", "W", "fold the batch norm before quantizing, or quantize behind it", GUIDE)
def batch_norm_folded(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """No Q/DQ around an unfolded batch norm."""
    for node in view.of_type("BatchNormalization"):
        pair = view.pair(node.input[0])
        if pair is not None and view.producer(pair[0].input[0], *BIASED) is not None:
            yield label(pair[0]), f"Q/DQ between a convolution and {label(node)!r}"
        for reader, index in view.consumers(node.output[0]):
            if reader.op_type == "QuantizeLinear" and index == 0 and _relu_behind(view, reader):
                yield label(reader), f"Q/DQ between {label(node)!r} and Relu"


def _relu_behind(view: GraphIndex, quantizer: NodeProto) -> bool:
    pairs = [node for node, _ in view.consumers(quantizer.output[0])]
    return any(node.op_type == "Relu" for pair in pairs for node, _ in view.consumers(pair.output[0]))
