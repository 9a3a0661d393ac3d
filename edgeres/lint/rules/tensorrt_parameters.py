"""Rules for the storage of weights and biases of quantized operators in TensorRT.

Sources: onnx/onnx-tensorrt, the TensorRT developer guide, and TensorRT-Model-Optimizer ``modelopt/onnx/quantization``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.lint.facts import data_shape, quantized_weights, quantizers_of, type_name, weighted_nodes
from edgeres.lint.families import TENSORRT
from edgeres.lint.rule import LENIENT, Defect, Version, rule
from edgeres.lint.rules.tensorrt_nodes import IMPORTER
from edgeres.lint.rules.tensorrt_placement import GUIDE, relu_behind
from edgeres.onnx_graph.graph_index import BIASED, GraphIndex, attribute, label
from edgeres.onnx_graph.stored_weights import output_channel_axis

if TYPE_CHECKING:
    from collections.abc import Iterator

QUANTIZER = "TensorRT-Model-Optimizer, onnx/quantization/graph_utils.py"


@rule(TENSORRT, "W01", "E", "fold what stands between into the codes", GUIDE, until=(10, 0))
def weight_next_to_dequantizer(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Weights are constant -> DQ -> operator."""
    for node in weighted_nodes(view):
        between, name = "", node.input[1]
        while (maker := view.producer(name, "Transpose", "Reshape", "Identity", "Cast")) is not None:
            between, name = maker.op_type, maker.input[0]
        dequantizer = view.producer(name, "DequantizeLinear")
        if between and dequantizer is not None and view.is_weight_dequantizer(dequantizer):
            yield label(node), f"{between} between the weight's DequantizeLinear and the operator"


@rule(TENSORRT, "W02", "E", "store float weights behind QuantizeLinear", GUIDE, until=(8, 5))
def float_weights(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Weights are float -> Q -> DQ."""
    for node, dequantizer in quantized_weights(view):
        if dequantizer.input[0] in view.constants:
            yield label(node), "its weight is stored as codes, which this parser does not take"


@rule(TENSORRT, "W03", "E", "put the scales on the output channels' axis", GUIDE, warns_from=LENIENT)
def weight_axis(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Weights are scaled per output channel."""
    for node, dequantizer in quantized_weights(view):
        scale = view.value(dequantizer.input[1])
        if scale is None or scale.ndim != 1 or scale.size <= 1:
            continue
        shape = data_shape(view, dequantizer) or ()
        wanted, axis = output_channel_axis(node, shape), attribute(dequantizer, "axis")
        if axis is not None and axis % max(len(shape), 1) != wanted:
            yield label(dequantizer), f"axis {axis}; the output channels of {node.op_type} are on axis {wanted}"


@rule(TENSORRT, "W04", "E", "store the bias as a float32 initializer", IMPORTER)
def float_bias(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Biases are float."""
    for node in view.of_type(*BIASED):
        dequantizer = view.producer(node.input[2], "DequantizeLinear") if len(node.input) > 2 else None
        if dequantizer is not None:
            codes = view.constants.get(dequantizer.input[0])
            kind = type_name(codes.data_type) if codes is not None else "quantized"
            yield label(node), f"{kind} bias behind DequantizeLinear"


@rule(TENSORRT, "W05", "E", "write the kernel_shape attribute", "onnx-tensorrt, docs/Changelog.md, 10.4", until=(10, 4))
def kernel_shape(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Conv names its kernel_shape."""
    for node in view.of_type("Conv", "ConvTranspose"):
        if node.input[1] not in view.constants and attribute(node, "kernel_shape") is None:
            yield label(node), "no kernel_shape although the weight is computed by DequantizeLinear"


@rule(TENSORRT, "W06", "W", "use multiples of 8 with one side of 16 or more", QUANTIZER)
def channels(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Channel counts have INT8 kernels."""
    for node, dequantizer in quantized_weights(view, "Conv"):
        shape = data_shape(view, dequantizer)
        if shape is None or len(shape) != 4:
            continue
        groups = attribute(node, "group", 1)
        out, into, kernel = shape[0], shape[1] * groups, shape[2]
        if groups > 1:
            if out % 8 or kernel < 3:
                yield label(node), f"{out} channels in {groups} groups, kernel {kernel}: no fast INT8 kernel"
        elif into > 4 and not (out % 8 == 0 and into % 8 == 0 and max(out, into) >= 16):
            yield label(node), f"{into} -> {out} channels: no fast INT8 kernel"


@rule(TENSORRT, "W07", "W", "leave it in float at batch 1", QUANTIZER)
def float_classifier(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Matrix-vector products stay in float."""
    for node, _dequantizer in quantized_weights(view, "Gemm", "MatMul"):
        yield label(node), "a quantized matrix product gains nothing at batch 1"


@rule(TENSORRT, "W08", "W", "fold the batch norm before quantizing, or quantize behind it", GUIDE)
def batch_norm_folded(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """No Q/DQ around an unfolded batch norm."""
    for node in view.of_type("BatchNormalization"):
        pair = view.pair(node.input[0])
        if pair is not None and view.producer(pair[0].input[0], *BIASED) is not None:
            yield label(pair[0]), f"Q/DQ between a convolution and {label(node)!r}"
        for quantizer in quantizers_of(view, node.output[0]):
            if relu_behind(view, quantizer):
                yield label(quantizer), f"Q/DQ between {label(node)!r} and Relu"
