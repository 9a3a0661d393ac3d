"""Repairs of weights and biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import helper

from edgeres.lint.facts import weight_dequantizer, weighted_nodes
from edgeres.lint.fixes.fix import Repair, insert_before, set_attribute, store
from edgeres.onnx_graph.accumulators import cut_off, make_room
from edgeres.onnx_graph.graph_index import GraphIndex, attribute
from edgeres.onnx_graph.rewrite import float_biases
from edgeres.onnx_graph.stored_weights import dequantized_weight, float_weights, output_channel_axis

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.targets.target import Target

_SEVEN_BITS = 63
"""Largest weight code for which a sum of two products cannot saturate 16 bits: ``2 * 255 * 63 < 2**15``."""


def _biases(model: ModelProto, target: Target) -> int:
    """Converts biases to float; those saturated at the ends of int32 are unchanged, since their values are lost."""
    return float_biases(model, spared=cut_off(GraphIndex.of(model)))


def _room(model: ModelProto, target: Target) -> int:
    return len(make_room(model))


def _kernel_shapes(model: ModelProto, target: Target) -> int:
    view, count = GraphIndex.of(model), 0
    for node in view.of_type("Conv", "ConvTranspose"):
        dequantizer = weight_dequantizer(view, node)
        values = dequantized_weight(view, dequantizer) if dequantizer is not None else None
        if attribute(node, "kernel_shape") is None and values is not None:
            set_attribute(node, "kernel_shape", list(values.shape[2:]))
            count += 1
    return count


def _signed_weights(model: ModelProto, target: Target) -> int:
    """Converts uint8 or asymmetric weights to symmetric int8: exactly for a zero-point of 128, else rounded again."""
    count = 0
    for node in weighted_nodes(GraphIndex.of(model)):
        view = GraphIndex.of(model)
        dequantizer = weight_dequantizer(view, node)
        codes = view.value(dequantizer.input[0]) if dequantizer is not None else None
        if dequantizer is None or codes is None:
            continue
        zeros = view.value(dequantizer.input[2]) if len(dequantizer.input) > 2 else np.zeros((), np.uint8)
        if zeros is None or (codes.dtype == np.int8 and not np.any(zeros)):
            continue
        if codes.dtype == np.uint8 and np.all(zeros == 128) and int(codes.min()) >= 1:
            shifted = (codes.astype(np.int16) - 128).astype(np.int8)
            zero = store(model, f"{dequantizer.input[0]}.zero_point", np.zeros(zeros.shape, np.int8))
            dequantizer.input[:] = [
                store(model, f"{dequantizer.input[0]}.int8", shifted), dequantizer.input[1], zero,
            ]  # fmt: skip
        else:
            _round_again(model, node, dequantizer, 127)
        count += 1
    return count


def _per_output_channel(model: ModelProto, target: Target) -> int:
    """Rounds weights scaled along another axis again, with one scale per output channel."""
    count = 0
    for node in weighted_nodes(GraphIndex.of(model)):
        view = GraphIndex.of(model)
        dequantizer = weight_dequantizer(view, node)
        scale = view.value(dequantizer.input[1]) if dequantizer is not None else None
        values = dequantized_weight(view, dequantizer) if dequantizer is not None else None
        if dequantizer is None or scale is None or scale.size <= 1 or values is None:
            continue
        if attribute(dequantizer, "axis", 1) % values.ndim != output_channel_axis(node, values.shape):
            _round_again(model, node, dequantizer, 127)
            count += 1
    return count


def _seven_bits(model: ModelProto, target: Target) -> int:
    count = 0
    for node in weighted_nodes(GraphIndex.of(model)):
        view = GraphIndex.of(model)
        dequantizer = weight_dequantizer(view, node)
        codes = view.value(dequantizer.input[0]) if dequantizer is not None else None
        if dequantizer is not None and codes is not None and np.abs(codes.astype(np.int16)).max() > _SEVEN_BITS + 1:
            _round_again(model, node, dequantizer, _SEVEN_BITS)
            count += 1
    return count


def _round_again(model: ModelProto, node: NodeProto, dequantizer: NodeProto, top: int) -> None:
    """Writes a weight's codes again, symmetric int8 within ``[-top, top]``, one scale per output channel."""
    values = dequantized_weight(GraphIndex.of(model), dequantizer)
    assert values is not None
    axis = output_channel_axis(node, values.shape)
    others = tuple(place for place in range(values.ndim) if place != axis)
    peak = np.maximum(np.abs(values).max(axis=others), np.finfo(np.float32).tiny * top)
    scale = (peak / top).astype(np.float32)
    shape = [-1 if place == axis else 1 for place in range(values.ndim)]
    codes: NDArray[np.int8] = np.clip(np.rint(values / scale.reshape(shape)), -top, top).astype(np.int8)
    prefix = dequantizer.output[0]
    dequantizer.input[:] = [
        store(model, f"{prefix}.codes", codes),
        store(model, f"{prefix}.scale", scale),
        store(model, f"{prefix}.zero_point", np.zeros(scale.shape, np.int8)),
    ]
    set_attribute(dequantizer, "axis", axis)


def _fold_moves(model: ModelProto, target: Target) -> int:
    """Applies a Transpose or Identity between a weight's DequantizeLinear and its reader to the codes."""
    count = 0
    for node in weighted_nodes(GraphIndex.of(model)):
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


def _float_weights(model: ModelProto, target: Target) -> int:
    return float_weights(model)


WEIGHTS: tuple[Repair, ...] = (
    Repair(("W04", "O05", "O06"), "biases in float32", _biases),
    Repair(("W05",), "kernel_shape written out", _kernel_shapes),
    Repair(("W01",), "moves folded into the codes", _fold_moves),
    Repair(("Q01", "Q02", "V01"), "symmetric int8 weights", _signed_weights),
    Repair(("W03",), "weights scaled per output channel", _per_output_channel),
    Repair(("O05",), "weight scales raised until int32 holds the bias", _room),
)
STORAGE: tuple[Repair, ...] = (
    Repair(("O03",), "weights within 7 bits", _seven_bits),
    Repair(("W02",), "float weights in front of QuantizeLinear", _float_weights),
)
