"""Rules for Q/DQ placement in TensorRT, which affect speed and not correctness.

Sources: the TensorRT developer guide ("Q/DQ layer-placement recommendations"), NVIDIA/TensorRT release/8.6
``tools/tensorflow-quantization/docs/source/add_custom_qdq_cases.md`` (ResNetV1 case), and TensorRT-Model-Optimizer
``modelopt/onnx/quantization/graph_utils.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from edgeres.lint.facts import weight_dequantizer, weighted_nodes
from edgeres.lint.rule import Defect, Version, rule
from edgeres.onnx_graph.graph_index import GraphIndex, label
from edgeres.onnx_graph.roles import residual_adds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import NodeProto

GUIDE = "TensorRT developer guide, Q/DQ layer-placement recommendations"
RESIDUAL = "NVIDIA/TensorRT release/8.6, tools/tensorflow-quantization, ResNetV1 Q/DQ case"
_COMMUTING = ("MaxPool", "Reshape", "Transpose", "Flatten", "Slice", "Concat", "Squeeze", "Unsqueeze", "Relu", "Pad")
MOVING = ("MaxPool", "Flatten", "Reshape", "Transpose", "Slice")
FLOAT_IN_FLOAT_OUT = ("AveragePool", "GlobalAveragePool", "ReduceMean", "Mul", "Clip", "Sigmoid")


def dequantized(view: GraphIndex, tensor: str) -> bool:
    """Whether a tensor is an activation after Q/DQ, possibly through operators that commute with Q/DQ."""
    while view.pair(tensor) is None:
        maker = view.producer(tensor, *_COMMUTING)
        if maker is None:
            return False
        if maker.op_type == "Concat":
            return _one_scale_for_all(view, maker) and all(dequantized(view, name) for name in maker.input)
        tensor = maker.input[0]
    return True


def _one_scale_for_all(view: GraphIndex, concat: NodeProto) -> bool:
    """Whether Q/DQ commutes with a Concat: all its inputs share one scale, where their pairs are directly before it."""
    pairs = [view.pair(name) for name in concat.input]
    scales = [view.value(pair[0].input[1]) for pair in pairs if pair is not None]
    known = [scale for scale in scales if scale is not None]
    return len(known) == len(scales) and all(np.array_equal(known[0], scale) for scale in known)


@rule("P01", "W", "quantize data and weight, or neither", GUIDE)
def all_inputs(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Weighted operators have all inputs quantized."""
    for node in weighted_nodes(view):
        if node.input[1] not in view.constants and weight_dequantizer(view, node) is None:
            continue  # a product of two activations
        data, weight = dequantized(view, node.input[0]), weight_dequantizer(view, node) is not None
        if data != weight:
            yield label(node), f"only its {'data is' if data else 'weight is'} quantized, so it runs in float"


@rule("P03", "W", "keep the pair of the identity, drop the other", RESIDUAL)
def identity_only(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Residual adds have Q/DQ on the identity alone."""
    if not view.of_type("QuantizeLinear"):
        return
    for add in residual_adds(view):
        identity = dequantized(view, add.identity_tensor)
        residual = view.pair(add.residual_tensor) is not None
        if identity and residual:
            yield label(add.node), "Q/DQ on both inputs: the add becomes a kernel of its own"
        elif not identity and not residual and _behind_integer_conv(view, add.residual_tensor):
            yield label(add.node), "no Q/DQ on the identity: the convolution before the add writes float"


def _behind_integer_conv(view: GraphIndex, tensor: str) -> bool:
    maker = view.producer(tensor, "Conv")
    return maker is not None and weight_dequantizer(view, maker) is not None


@rule("P05", "W", "move the pair to the identity", RESIDUAL)
def shorter_branch(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """The quantized input of an add is the shorter branch."""
    for add in residual_adds(view):
        if view.pair(add.residual_tensor) is not None and not dequantized(view, add.identity_tensor):
            yield label(add.node), "Q/DQ on the residual branch instead of the identity"


@rule("P04", "W", "read one quantizer from every consumer", RESIDUAL)
def one_scale(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """A tensor has one scale."""
    for tensor in dict.fromkeys(node.input[0] for node in view.of_type("QuantizeLinear")):
        nodes = [node for node, index in view.consumers(tensor) if node.op_type == "QuantizeLinear" and index == 0]
        scales = [view.value(node.input[1]) for node in nodes]
        known = [scale for scale in scales if scale is not None]
        if any(not np.array_equal(known[0], scale) for scale in known[1:]):
            yield label(nodes[1]), f"{tensor!r} is quantized {len(nodes)} times with different scales"


@rule("P06", "W", "remove the second pair", RESIDUAL)
def one_quantizer(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """A tensor is quantized once."""
    for node in view.of_type("QuantizeLinear"):
        if view.pair(node.input[0]) is not None:
            yield label(node), f"{node.input[0]!r} went through Q/DQ already"


@rule("P07", "I", "keep one of the two pairs", GUIDE)
def one_side_of_moves(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Operators that move values carry one pair."""
    for node in view.of_type("QuantizeLinear"):
        maker = view.producer(node.input[0], *MOVING)
        if maker is not None and view.pair(maker.input[0]) is not None:
            yield label(node), f"Q/DQ on both sides of {maker.op_type}, which commutes with it"


@rule("P02", "W", "move the pair behind the activation", GUIDE)
def before_epilogue(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """No Q/DQ between a convolution and its epilogue."""
    for node in weighted_nodes(view):
        for reader, _index in view.consumers(node.output[0]):
            if reader.op_type != "QuantizeLinear":
                continue
            following = _behind_pair(view, reader)
            if any(entry.op_type == "Relu" for entry in following):
                yield label(reader), f"Q/DQ between {label(node)!r} and Relu, which it fuses with"


def _behind_pair(view: GraphIndex, quantizer: NodeProto) -> tuple[NodeProto, ...]:
    """Readers of the DequantizeLinear outputs of a QuantizeLinear."""
    pairs = [node for node, _ in view.consumers(quantizer.output[0]) if node.op_type == "DequantizeLinear"]
    return tuple(node for pair in pairs for node, _ in view.consumers(pair.output[0]))


@rule("P08", "W", "remove the pair in front of it", GUIDE)
def integers_in_and_out(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Pools and pointwise operators are integer on both sides or on none."""
    for node in view.of_type(*FLOAT_IN_FLOAT_OUT):
        if not any(view.pair(name) is not None for name in node.input):
            continue
        readers = view.consumers(node.output[0])
        if not any(reader.op_type == "QuantizeLinear" for reader, _index in readers):
            yield label(node), f"{node.op_type} reads INT8 and writes float"


@rule("P09", "W", "keep inputs and outputs in float", "NVIDIA/TensorRT issue 2998")
def float_bindings(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Inputs are float."""
    for value in view.model.graph.input:
        if value.name not in view.constants and value.type.tensor_type.elem_type in (
            TensorProto.INT8,
            TensorProto.UINT8,
        ):
            yield value.name, "an 8-bit network input fails in places"


@rule("P10", "W", "remove the pair at the output", "TensorRT-Model-Optimizer, onnx/quantization")
def float_outputs(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Outputs are float."""
    for value in view.model.graph.output:
        if view.producer(value.name, "DequantizeLinear", "QuantizeLinear") is not None:
            yield value.name, "the network's output is quantized"
