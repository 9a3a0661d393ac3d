"""Rewriting of a Q/DQ graph to a target's scheme: code types, placement and weight scales.

Code types come first, keeping the real range of every pair. For a signed scheme (TensorRT rejects zero-points and reads
uint8 as int8): uint8 with zero-point 0 covers ``[0, 255 s]``, and int8 covers it with ``s' = s * 255 / 127``, at half
the resolution; a pair with a zero-point covers ``[(low - z) s, (high - z) s]``, and int8 covers that with
``s' = max|bound| / 127``. For an unsigned scheme int8 codes become uint8 by ``z' = z + 128``, which changes nothing.

Then placement. Where only the identity of a residual add is to be quantized, and pools are float, a read through Q/DQ
is kept where it feeds a convolution or matrix product, or the identity of an add, directly or through operators that
only move values; all others read the float tensor (TensorRT developer guide, "Q/DQ layer-placement recommendations").

An operator that only moves values gets the pair of its inputs on its output too: rounding is monotonic and keeps 0, so
no value changes. Where pools are integer both pairs are kept, and ONNX Runtime runs the operator on codes; elsewhere
the first is removed, and every reader has its pair directly before it.

Finally, weight scales under which int32 could not hold a layer's bias are raised (``stored_weights.make_room``).
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from onnx import helper, numpy_helper

from edgeres.errors import StageError
from edgeres.onnx_graph.edit import insert_before, prune, store
from edgeres.onnx_graph.graph_index import BIASED, COMMUTING, WEIGHTED, GraphIndex, attribute, input_at, label
from edgeres.onnx_graph.read import infer
from edgeres.onnx_graph.roles import residual_adds
from edgeres.onnx_graph.stored_weights import make_room
from edgeres.quant.qparams import QParams

if TYPE_CHECKING:
    from collections.abc import Container

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.targets.target import QuantScheme


class Rewritten(NamedTuple):
    """A graph under a target's scheme.

    Attributes:
        activations: Scale of every quantized tensor.
        weights: Scales of every quantized weight, by the name of the node that reads it.
        retyped: Activation pairs whose codes changed type or lost their zero-point.
        released: Reads whose Q/DQ pair was removed.
        biases: Quantized biases that became float.
        raised: Output channels whose weight scale was raised for the bias.
    """

    model: ModelProto
    activations: dict[str, QParams]
    weights: dict[str, QParams]
    retyped: int
    released: int
    biases: int
    raised: int


def rewrite(model: ModelProto, scheme: QuantScheme) -> Rewritten:
    """Rewrites a Q/DQ graph to a scheme; ``model`` is unchanged.

    Raises:
        StageError: A pair with a computed scale, or per-channel activations.
    """
    changed = deepcopy(model)
    changed.graph.ClearField("value_info")
    biases = float_biases(changed)
    released = _release(changed, scheme)
    prune(changed)
    retyped = retype(changed, scheme)
    _repeat_behind_moves(changed)
    _release(changed, scheme)
    raised = sum(make_room(changed).values())
    weights = _weights(changed)
    prune(changed)
    view = GraphIndex.of(changed)
    activations = {node.input[0]: _params(view, node) for node in view.activation_quantizers()}
    return Rewritten(infer(changed), activations, weights, retyped, released, biases, raised)


def float_biases(model: ModelProto, spared: Container[str] = ()) -> int:
    """Converts biases behind DequantizeLinear to float32 initializers, except those of ``spared`` layers."""
    view, count = GraphIndex.of(model), 0
    for node in view.of_type(*BIASED):
        dequantizer = view.producer(input_at(node, 2), "DequantizeLinear")
        if dequantizer is None or label(node) in spared:
            continue
        codes, scale = (_constant(view, dequantizer, index) for index in (0, 1))
        zero_point = _constant(view, dequantizer, 2).astype(np.float64) if input_at(dequantizer, 2) else 0.0
        value = ((codes.astype(np.float64) - zero_point) * scale.astype(np.float64)).astype(np.float32)
        name = f"{dequantizer.output[0]}.float"
        if name not in view.constants:
            model.graph.initializer.append(numpy_helper.from_array(value, name))
        node.input[2] = name
        count += 1
    return count


def _release(model: ModelProto, scheme: QuantScheme) -> int:
    """Removes the Q/DQ pair of every read that the scheme does not quantize."""
    if scheme.add_inputs == "both" and scheme.pools:
        return 0
    view = GraphIndex.of(model)
    identity = {add.node.name: add.identity for add in residual_adds(view)}

    def is_quantized(node: NodeProto, index: int) -> bool:
        if node.op_type in WEIGHTED:
            return index == 0 or node.input[index] not in view.constants
        if node.op_type == "Add" and node.name in identity:
            return scheme.add_inputs == "both" or index == identity[node.name]
        return scheme.pools or (node.op_type in COMMUTING and any(map(feeds_quantized, node.output)))

    @cache
    def feeds_quantized(tensor: str) -> bool:
        readers = view.consumers(tensor)
        return any(is_quantized(reader, index) for reader, index in readers if reader.op_type != "QuantizeLinear")

    reads = [
        (node, index, pair[0].input[0])
        for node in view.nodes
        for index, name in enumerate(node.input)
        if (pair := view.pair(name)) is not None and not is_quantized(node, index)
    ]
    for node, index, tensor in reads:
        node.input[index] = tensor
    return len(reads)


def _repeat_behind_moves(model: ModelProto) -> None:
    """Repeats the pair before every operator that moves values after it, where none follows."""
    moves = GraphIndex.of(model).of_type(*COMMUTING)
    for node, tensor in ((move, tensor) for move in moves for tensor in move.output):
        view = GraphIndex.of(model)
        parameters, readers = _common_parameters(view, node), view.consumers(tensor)
        if parameters is None or not readers or any(reader.op_type == "QuantizeLinear" for reader, _ in readers):
            continue
        codes, value = f"{tensor}.moved.codes", f"{tensor}.moved"
        for reader, index in readers:
            reader.input[index] = value
        again = (
            helper.make_node("QuantizeLinear", [tensor, *parameters], [codes], name=f"{tensor}.moved.quantize"),
            helper.make_node("DequantizeLinear", [codes, *parameters], [value], name=f"{tensor}.moved.dequantize"),
        )
        insert_before(model, view.nodes[view.nodes.index(node) + 1], *again)


def _common_parameters(view: GraphIndex, node: NodeProto) -> tuple[str, str] | None:
    """Scale and zero-point of the pairs on all data inputs of an operator; None where they differ or are missing."""
    if node.op_type == "Pad" and np.any(view.value(input_at(node, 2))):
        return None  # pads with other values than 0
    names = node.input if node.op_type == "Concat" else node.input[:1]
    quantizers = [pair[0] for pair in map(view.pair, names) if pair is not None]
    parameters = {(params.scale, params.zero_point) for params in (_params(view, entry) for entry in quantizers)}
    if len(quantizers) < len(names) or len(parameters) != 1:
        return None
    return quantizers[0].input[1], quantizers[0].input[2]


def retype(model: ModelProto, scheme: QuantScheme) -> int:
    """Converts every activation pair to the scheme's code type."""
    view, count = GraphIndex.of(model), 0
    for quantizer in view.activation_quantizers():
        present = _params(view, quantizer)
        params = convert(present, signed=scheme.signed)
        if params == present and len(quantizer.input) == 3:
            continue
        count += params != present
        _store_parameters(model, view, quantizer, params)
    return count


def _store_parameters(model: ModelProto, view: GraphIndex, quantizer: NodeProto, params: QParams) -> None:
    """Writes the scale and zero-point of a QuantizeLinear and of every DequantizeLinear that reads its codes."""
    codes, kind = quantizer.output[0], np.int8 if params.signed else np.uint8
    scale = store(model, f"{codes}.scale", np.array(params.scale[0], np.float32))
    zero_point = store(model, f"{codes}.zero_point", np.array(params.zero_point, kind))
    readers = (reader for reader, _ in view.consumers(codes) if reader.op_type == "DequantizeLinear")
    for node in (quantizer, *readers):
        node.input[:] = [node.input[0], scale, zero_point]
        node.ClearField("attribute")


def convert(params: QParams, *, signed: bool) -> QParams:
    """The same real range in int8 codes with zero-point 0, or in uint8 codes.

    A symmetric int8 range and a uint8 range are unchanged; int8 to uint8 changes no value.
    """
    if not signed:
        return QParams(scale=params.scale, zero_point=params.zero_point + (128 if params.signed else 0), signed=False)
    if params.signed and params.zero_point == 0:
        return params
    bound = max(abs(params.low - params.zero_point), abs(params.high - params.zero_point))
    return QParams(scale=(float(np.float32(params.scale[0] * bound / 127)),))


def _params(view: GraphIndex, node: NodeProto) -> QParams:
    """Per-tensor parameters of an activation's Q or DQ node."""
    scale = _constant(view, node, 1)
    zero_point = _constant(view, node, 2) if input_at(node, 2) else np.array(0, np.uint8)
    if scale.size != 1 or zero_point.size != 1 or zero_point.dtype not in (np.int8, np.uint8):
        where = f"{label(node)}: {scale.size} scales of {zero_point.dtype} codes"
        raise StageError(where, "quantize per tensor, 8 bits")
    signed = bool(zero_point.dtype == np.int8)
    return QParams(scale=(float(scale.ravel()[0]),), zero_point=int(zero_point.ravel()[0]), signed=signed)


def _weights(model: ModelProto) -> dict[str, QParams]:
    """Writes the axis of every per-channel weight; returns the scales by reader."""
    view = GraphIndex.of(model)
    weights: dict[str, QParams] = {}
    for node in view.of_type(*WEIGHTED):
        if (dequantizer := view.weight_dequantizer(node.input[1])) is None:
            continue
        scale, zero_point = (_constant(view, dequantizer, index) for index in (1, 2))
        if zero_point.dtype != np.int8 or np.any(zero_point):
            where = f"{label(dequantizer)}: the weight is not symmetric int8"
            raise StageError(where, "quantize weights symmetrically")
        axis = attribute(dequantizer, "axis", 1) if scale.size > 1 else None
        codes = view.value(dequantizer.input[0])
        if axis is not None:
            axis %= codes.ndim if codes is not None else 4
            dequantizer.ClearField("attribute")
            dequantizer.attribute.append(helper.make_attribute("axis", axis))
        narrow = codes is not None and int(codes.min(initial=0)) >= -127
        weights[node.name] = QParams(scale=tuple(float(value) for value in scale.ravel()), axis=axis, narrow=narrow)
    return weights


def _constant(view: GraphIndex, node: NodeProto, index: int) -> NDArray[np.generic]:
    value = view.value(node.input[index])
    if value is None:
        raise StageError(f"{label(node)}: {node.input[index]!r} is computed", "store scales as initializers")
    return value
