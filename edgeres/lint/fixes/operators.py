"""Repairs of operators: weights and biases, and Q/DQ placement: pairs are removed, moved, or reused.

No repair invents a scale of an activation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import helper

from edgeres.lint import facts
from edgeres.lint.facts import dequantized
from edgeres.lint.rule import Phase, repair
from edgeres.onnx_graph import lowering, rewrite
from edgeres.onnx_graph.edit import insert_before, set_attribute, store
from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex, attribute, output_channel_axis
from edgeres.onnx_graph.roles import residual_adds
from edgeres.onnx_graph.stored_weights import cut_off, dequantized_weight, make_room, stored_weight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import ModelProto, NodeProto

    from edgeres.onnx_graph.stored_weights import StoredWeight
    from edgeres.targets.target import Target

_SEVEN_BITS = 63
"""Largest weight code for which a sum of two products cannot saturate 16 bits: ``2 * 255 * 63 < 2**15``."""


@repair(Phase.WEIGHTS, "biases in float32", "W04", "O05", "O06")
def float_biases(model: ModelProto, target: Target) -> int:
    """Converts biases to float; those saturated at the ends of int32 are unchanged, since their values are lost."""
    return rewrite.float_biases(model, spared=cut_off(GraphIndex.of(model)))


@repair(Phase.WEIGHTS, "kernel_shape written out", "W05")
def kernel_shapes(model: ModelProto, target: Target) -> int:
    """Writes the kernel_shape of convolutions whose weight is dequantized."""
    count = 0
    for node, _dequantizer, stored in _stored_weights(model, "Conv", "ConvTranspose"):
        if attribute(node, "kernel_shape") is None:
            set_attribute(node, "kernel_shape", list(stored.values.shape[2:]))
            count += 1
    return count


@repair(Phase.WEIGHTS, "moves applied to the codes", "W01")
def fold_moves(model: ModelProto, target: Target) -> int:
    """Applies a Transpose or Identity between a weight's DequantizeLinear and its reader to the codes."""
    count = 0
    for node in GraphIndex.of(model).of_type(*WEIGHTED):
        view = GraphIndex.of(model)
        move = view.producer(node.input[1], "Transpose", "Identity")
        dequantizer = view.producer(move.input[0], "DequantizeLinear") if move is not None else None
        codes = view.value(dequantizer.input[0]) if dequantizer is not None else None
        if move is None or dequantizer is None or codes is None:
            continue
        order = list(range(codes.ndim))
        if move.op_type == "Transpose":
            order = list(attribute(move, "perm") or reversed(order))
        name = f"{move.output[0]}.dequantized"
        moved = store(model, f"{dequantizer.input[0]}.moved", np.transpose(codes, order))
        again = helper.make_node("DequantizeLinear", [moved, *dequantizer.input[1:]], [name], name=name)
        scale = view.value(dequantizer.input[1])
        if scale is not None and scale.size > 1:
            set_attribute(again, "axis", order.index(attribute(dequantizer, "axis", 1) % codes.ndim))
        insert_before(model, node, again)
        node.input[1] = name
        count += 1
    return count


@repair(Phase.WEIGHTS, "symmetric int8 weights", "Q01", "Q02", "V01")
def signed_weights(model: ModelProto, target: Target) -> int:
    """Converts uint8 or asymmetric weights to symmetric int8: exactly for a zero-point of 128, else rounded again."""
    count = 0
    for node, dequantizer, stored in _stored_weights(model):
        codes, zeros = stored.values, stored.zero_point
        if stored.in_float or (codes.dtype == np.int8 and not np.any(zeros)):
            continue
        if codes.dtype == np.uint8 and np.all(zeros == 128) and int(codes.min()) >= 1:
            name, scale = dequantizer.input[:2]
            zero = store(model, f"{name}.zero_point", np.zeros(zeros.shape, np.int8))
            shifted = (codes.astype(np.int16) - 128).astype(np.int8)
            dequantizer.input[:] = [store(model, f"{name}.int8", shifted), scale, zero]
        else:
            _round_again(model, node, dequantizer, 127)
        count += 1
    return count


@repair(Phase.WEIGHTS, "weights scaled per output channel", "W03")
def per_output_channel(model: ModelProto, target: Target) -> int:
    """Rounds weights scaled along another axis again, with one scale per output channel."""
    count = 0
    for node, dequantizer, stored in _stored_weights(model):
        if stored.axis is not None and stored.axis != output_channel_axis(node, stored.values.shape):
            _round_again(model, node, dequantizer, 127)
            count += 1
    return count


@repair(Phase.WEIGHTS, "weight scales raised until int32 holds the bias", "O05")
def room_for_bias(model: ModelProto, target: Target) -> int:
    """Raises weight scales until int32 holds every accumulator."""
    return len(make_room(model))


@repair(Phase.STORAGE, "weights within 7 bits", "O03")
def seven_bits(model: ModelProto, target: Target) -> int:
    """Rounds weights with larger codes again."""
    count = 0
    for node, dequantizer, stored in _stored_weights(model):
        if not stored.in_float and np.abs(stored.values.astype(np.int16)).max() > _SEVEN_BITS + 1:
            _round_again(model, node, dequantizer, _SEVEN_BITS)
            count += 1
    return count


@repair(Phase.STORAGE, "float weights in front of QuantizeLinear", "W02")
def float_weights(model: ModelProto, target: Target) -> int:
    """Stores the values of codes as float32."""
    return lowering.float_weights(model)


def _stored_weights(model: ModelProto, *kinds: str) -> Iterator[tuple[NodeProto, NodeProto, StoredWeight]]:
    """Weighted nodes with the DequantizeLinear and the constants of their weight, while the model changes."""
    for node, dequantizer in list(facts.quantized_weights(GraphIndex.of(model), *kinds)):
        stored = stored_weight(GraphIndex.of(model), dequantizer)
        if stored is not None:
            yield node, dequantizer, stored


def _round_again(model: ModelProto, node: NodeProto, dequantizer: NodeProto, top: int) -> None:
    """Writes a weight's codes again, symmetric int8 within ``[-top, top]``, one scale per output channel."""
    values = dequantized_weight(GraphIndex.of(model), dequantizer)
    assert values is not None
    axis = output_channel_axis(node, values.shape)
    others = tuple(place for place in range(values.ndim) if place != axis)
    peak = np.maximum(np.abs(values).max(axis=others, keepdims=True), np.finfo(np.float32).tiny * top)
    scale = (peak / top).astype(np.float32)
    codes = np.clip(np.rint(values / scale), -top, top).astype(np.int8)
    prefix = dequantizer.output[0]
    dequantizer.input[:] = [
        store(model, f"{prefix}.codes", codes),
        store(model, f"{prefix}.scale", scale.reshape(-1)),
        store(model, f"{prefix}.zero_point", np.zeros(scale.size, np.int8)),
    ]
    set_attribute(dequantizer, "axis", axis)


@repair(Phase.PLACEMENT, "pairs moved behind Relu", "P02")
def behind_relu(model: ModelProto, target: Target) -> int:
    """Replaces ``Relu(DQ(Q(x)))`` by the equal ``DQ(Q(Relu(x)))``: rounding is monotonic and keeps 0."""
    count, outputs = 0, {entry.name for entry in model.graph.output}
    for relu in GraphIndex.of(model).of_type("Relu"):
        view = GraphIndex.of(model)
        pair, output = view.pair(relu.input[0]), relu.output[0]
        if pair is None or view.producer(pair[0].input[0], *WEIGHTED) is None or output in outputs:
            continue
        tensor, *parameters = pair[0].input
        value, codes = f"{output}:float", f"{output}:codes"
        new = (
            helper.make_node("Relu", [tensor], [value], name=f"{relu.name}:float"),
            helper.make_node("QuantizeLinear", [value, *parameters], [codes], name=codes),
            helper.make_node("DequantizeLinear", [codes, *parameters], [output], name=f"{codes}:dq"),
        )
        insert_before(model, relu, *new)
        model.graph.node.remove(relu)
        count += 1
    return count


@repair(Phase.PLACEMENT, "second pairs removed", "P06")
def quantized_once(model: ModelProto, target: Target) -> int:
    """Removes a pair directly after another one."""
    return sum(_bypass(model, quantizer, 0) for quantizer in GraphIndex.of(model).of_type("QuantizeLinear"))


@repair(Phase.PLACEMENT, "one pair around operators that move values", "P07")
def behind_moves(model: ModelProto, target: Target) -> int:
    """Removes the first of two pairs around an operator that moves values."""
    count = 0
    for quantizer in GraphIndex.of(model).of_type("QuantizeLinear"):
        view = GraphIndex.of(model)
        maker = view.producer(quantizer.input[0], *facts.MOVING)
        if maker is not None and len(view.consumers(quantizer.input[0])) == 1:
            count += _bypass(model, maker, 0)
    return count


@repair(Phase.PLACEMENT, "one quantizer for every reader", "P04")
def coarsest_scale(model: ModelProto, target: Target) -> int:
    """Connects every reader of a tensor to the quantizer with the largest scale."""
    view, count = GraphIndex.of(model), 0
    for tensor in dict.fromkeys(node.input[0] for node in view.of_type("QuantizeLinear")):
        nodes = view.quantizers_of(tensor)
        scales = [scale for node in nodes if (scale := view.value(node.input[1])) is not None and scale.size == 1]
        if len(nodes) < 2 or len(scales) < len(nodes):
            continue
        best = nodes[int(np.argmax([float(scale.reshape(())) for scale in scales]))]
        for node in nodes:
            if node is best:
                continue
            for reader, _ in view.consumers(node.output[0]):
                reader.input[:] = [best.output[0], *best.input[1:]]
                count += 1
    return count


@repair(Phase.PLACEMENT, "identities quantized, residuals in float", "P03", "P05")
def quantized_identities(model: ModelProto, target: Target) -> int:
    """Connects an add's identity to its existing quantizer, and its residual branch to the float tensor."""
    count = 0
    for add in residual_adds(GraphIndex.of(model)):
        view, index = GraphIndex.of(model), add.identity
        if not dequantized(view, add.identity_tensor):
            quantizer = next(iter(view.quantizers_of(add.identity_tensor)), None)
            if quantizer is None:
                continue
            name = f"{add.node.name or add.node.output[0]}:identity"
            again = helper.make_node("DequantizeLinear", [quantizer.output[0], *quantizer.input[1:]], [name], name=name)
            insert_before(model, add.node, again)
            add.node.input[index] = name
            count += 1
        count += _bypass(model, add.node, 1 - index)
    return count


@repair(Phase.PLACEMENT, "pairs in front of float operators removed", "P08", "W08")
def float_operators(model: ModelProto, target: Target) -> int:
    """Connects operators with float output to float inputs."""
    count = 0
    for node in GraphIndex.of(model).of_type(*facts.FLOAT_IN_FLOAT_OUT, "BatchNormalization"):
        readers = GraphIndex.of(model).consumers(node.output[0])
        if node.op_type == "BatchNormalization" or all(reader.op_type != "QuantizeLinear" for reader, _ in readers):
            count += sum(_bypass(model, node, index) for index in range(len(node.input)))
    return count


@repair(Phase.PLACEMENT, "outputs in float", "P10")
def float_outputs(model: ModelProto, target: Target) -> int:
    """Makes the network's output float."""
    count = 0
    for value in model.graph.output:
        view = GraphIndex.of(model)
        pair = view.pair(value.name)
        maker = view.producer(pair[0].input[0]) if pair is not None else None
        if pair is None or maker is None:
            continue
        inner = pair[0].input[0]
        pair[1].output[0] = f"{value.name}:quantized"
        maker.output[:] = [value.name if name == inner else name for name in maker.output]
        for reader, index in view.consumers(inner):
            reader.input[index] = value.name
        count += 1
    return count


def _bypass(model: ModelProto, node: NodeProto, index: int) -> bool:
    """Connects a read of a dequantized activation to the float tensor; False where there is no pair."""
    pair = GraphIndex.of(model).pair(node.input[index])
    if pair is None:
        return False
    node.input[index] = pair[0].input[0]
    return True
