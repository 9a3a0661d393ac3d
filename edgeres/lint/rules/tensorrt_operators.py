"""Rules for the operators of a Q/DQ graph in TensorRT: storage of weights and biases, and placement of Q/DQ.

Placement affects speed and not correctness. Sources: onnx/onnx-tensorrt, the TensorRT developer guide ("Q/DQ
layer-placement recommendations"), NVIDIA/TensorRT release/8.6
``tools/tensorflow-quantization/docs/source/add_custom_qdq_cases.md`` (ResNetV1 case), and TensorRT-Model-Optimizer
``modelopt/onnx/quantization/graph_utils.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from edgeres.lint import facts
from edgeres.lint.facts import dequantized, quantized_weights
from edgeres.lint.rule import LENIENT, TENSORRT, Defect, Version, rule
from edgeres.lint.rules.tensorrt_nodes import IMPORTER
from edgeres.onnx_graph.graph_index import BIASED, WEIGHTED, GraphIndex, attribute, input_at, label, output_channel_axis
from edgeres.onnx_graph.roles import residual_adds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import NodeProto

GUIDE = "TensorRT developer guide, Q/DQ layer-placement recommendations"
RESIDUAL = "NVIDIA/TensorRT release/8.6, tools/tensorflow-quantization, ResNetV1 Q/DQ case"
QUANTIZER = "TensorRT-Model-Optimizer, onnx/quantization/graph_utils.py"


@rule(TENSORRT, "W01", "E", "apply the operators between to the codes", GUIDE, until=(10, 0))
def weight_next_to_dequantizer(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Weights are constant -> DQ -> operator."""
    for node in view.of_type(*WEIGHTED):
        between, name = "", node.input[1]
        while (maker := view.producer(name, "Transpose", "Reshape", "Identity", "Cast")) is not None:
            between, name = maker.op_type, maker.input[0]
        if between and view.weight_dequantizer(name) is not None:
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
        shape = facts.data_shape(view, dequantizer) or ()
        wanted, axis = output_channel_axis(node, shape), attribute(dequantizer, "axis")
        if axis is not None and axis % max(len(shape), 1) != wanted:
            yield label(dequantizer), f"axis {axis}; the output channels of {node.op_type} are on axis {wanted}"


@rule(TENSORRT, "W04", "E", "store the bias as a float32 initializer", IMPORTER)
def float_bias(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Biases are float."""
    for node in view.of_type(*BIASED):
        dequantizer = view.producer(input_at(node, 2), "DequantizeLinear")
        if dequantizer is not None:
            codes = view.constants.get(dequantizer.input[0])
            kind = facts.type_name(codes.data_type) if codes is not None else "quantized"
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
        shape = facts.data_shape(view, dequantizer)
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
        for quantizer in view.quantizers_of(node.output[0]):
            if _relu_behind(view, quantizer):
                yield label(quantizer), f"Q/DQ between {label(node)!r} and Relu"


@rule(TENSORRT, "P01", "W", "quantize data and weight, or neither", GUIDE)
def all_inputs(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Weighted operators have all inputs quantized."""
    for node in view.of_type(*WEIGHTED):
        if node.input[1] not in view.constants and view.weight_dequantizer(node.input[1]) is None:
            continue  # a product of two activations
        data, weight = dequantized(view, node.input[0]), view.weight_dequantizer(node.input[1]) is not None
        if data != weight:
            yield label(node), f"only its {'data is' if data else 'weight is'} quantized, so it runs in float"


@rule(TENSORRT, "P02", "W", "move the pair behind the activation", GUIDE)
def before_epilogue(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """No Q/DQ between a convolution and its epilogue."""
    for node in view.of_type(*WEIGHTED):
        for quantizer in view.quantizers_of(node.output[0]):
            if _relu_behind(view, quantizer):
                yield label(quantizer), f"Q/DQ between {label(node)!r} and Relu, which it fuses with"


def _relu_behind(view: GraphIndex, quantizer: NodeProto) -> bool:
    """Whether a Relu reads the Q/DQ pair of a QuantizeLinear."""
    pairs = [node for node, _ in view.consumers(quantizer.output[0]) if node.op_type == "DequantizeLinear"]
    return any(node.op_type == "Relu" for pair in pairs for node, _ in view.consumers(pair.output[0]))


@rule(TENSORRT, "P03", "W", "keep the pair of the identity, drop the other", RESIDUAL)
def identity_only(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Residual adds have Q/DQ on the identity alone."""
    if not view.of_type("QuantizeLinear"):
        return
    integer = {node.output[0] for node, _dequantizer in quantized_weights(view, "Conv")}
    for add in residual_adds(view):
        identity, residual = dequantized(view, add.identity_tensor), view.pair(add.residual_tensor) is not None
        if identity and residual:
            yield label(add.node), "Q/DQ on both inputs: the add becomes a kernel of its own"
        elif not identity and not residual and add.residual_tensor in integer:
            yield label(add.node), "no Q/DQ on the identity: the convolution before the add writes float"


@rule(TENSORRT, "P04", "W", "read one quantizer from every consumer", RESIDUAL)
def one_scale(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """A tensor has one scale."""
    for tensor in dict.fromkeys(node.input[0] for node in view.of_type("QuantizeLinear")):
        nodes = view.quantizers_of(tensor)
        scales = [scale for node in nodes if (scale := view.value(node.input[1])) is not None]
        if any(not np.array_equal(scales[0], scale) for scale in scales[1:]):
            yield label(nodes[1]), f"{tensor!r} is quantized {len(nodes)} times with different scales"


@rule(TENSORRT, "P05", "W", "move the pair to the identity", RESIDUAL)
def shorter_branch(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """The quantized input of an add is the shorter branch."""
    for add in residual_adds(view):
        if view.pair(add.residual_tensor) is not None and not dequantized(view, add.identity_tensor):
            yield label(add.node), "Q/DQ on the residual branch instead of the identity"


@rule(TENSORRT, "P06", "W", "remove the second pair", RESIDUAL)
def one_quantizer(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """A tensor is quantized once."""
    for node in view.of_type("QuantizeLinear"):
        if view.pair(node.input[0]) is not None:
            yield label(node), f"{node.input[0]!r} went through Q/DQ already"


@rule(TENSORRT, "P07", "I", "keep one of the two pairs", GUIDE)
def one_side_of_moves(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Operators that move values carry one pair."""
    for node in view.of_type("QuantizeLinear"):
        maker = view.producer(node.input[0], *facts.MOVING)
        if maker is not None and view.pair(maker.input[0]) is not None:
            yield label(node), f"Q/DQ on both sides of {maker.op_type}, which commutes with it"


@rule(TENSORRT, "P08", "W", "remove the pair in front of it", GUIDE)
def integers_in_and_out(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Pools and pointwise operators are integer on both sides or on none."""
    for node in view.of_type(*facts.FLOAT_IN_FLOAT_OUT):
        readers = view.consumers(node.output[0])
        if any(view.pair(name) is not None for name in node.input) and not any(
            reader.op_type == "QuantizeLinear" for reader, _ in readers
        ):
            yield label(node), f"{node.op_type} reads INT8 and writes float"


@rule(TENSORRT, "P09", "W", "keep inputs and outputs in float", "NVIDIA/TensorRT issue 2998")
def float_bindings(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Inputs are float."""
    eight_bits = (TensorProto.INT8, TensorProto.UINT8)
    for value in view.model.graph.input:
        if value.name not in view.constants and value.type.tensor_type.elem_type in eight_bits:
            yield value.name, "some versions reject an 8-bit network input"


@rule(TENSORRT, "P10", "W", "remove the pair at the output", "TensorRT-Model-Optimizer, onnx/quantization")
def float_outputs(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Outputs are float."""
    for value in view.model.graph.output:
        if view.producer(value.name, "DequantizeLinear", "QuantizeLinear") is not None:
            yield value.name, "the network's output is quantized"
