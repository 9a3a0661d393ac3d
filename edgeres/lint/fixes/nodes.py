"""Repairs of Q/DQ nodes: code types, zero-points, scales, attributes, versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from edgeres.errors import StageError
from edgeres.lint.facts import data_shape, has_zero_point, quantizers, scales
from edgeres.lint.fixes.fix import Repair, insert_before, set_attribute, store
from edgeres.onnx_graph.graph_index import GraphIndex, attribute
from edgeres.onnx_graph.opset import to_opset
from edgeres.onnx_graph.rewrite import retype

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.targets.target import Target


def _spell_out(model: ModelProto, target: Target) -> int:
    """Replaces fused integer operators by their float operator between DequantizeLinear and QuantizeLinear.

    ``QLinearConv`` (x, xs, xz, w, ws, wz, ys, yz, bias), whose int32 bias has the scale ``xs * ws``; ``QLinearMatMul``
    alike; ``com.microsoft.QLinearAdd`` (a, as, az, b, bs, bz, ys, yz); ``QGemm`` (a, as, az, b, bs, bz, bias, ys, yz);
    ``QLinearGlobalAveragePool`` (x, xs, xz, ys, yz).
    """
    count = 0
    for node in list(model.graph.node):
        plan = _PLANS.get(node.op_type)
        if plan is None or (node.op_type == "QLinearGlobalAveragePool" and attribute(node, "channels_last", 0)):
            continue
        operator, groups, written, bias = plan
        inputs, new = [], []
        for order, start in enumerate(groups):
            name = f"{node.output[0]}:{order}"
            new.append(helper.make_node("DequantizeLinear", node.input[start : start + 3], [name], name=name))
            if order == 1 and operator == "Conv":
                set_attribute(new[-1], "axis", 0)
            inputs.append(name)
        if bias < len(node.input) and node.input[bias]:
            inputs.append(_float_bias(model, node.input[bias], node.input[groups[0] + 1], node.input[groups[1] + 1]))
        value = f"{node.output[0]}:float"
        kept = {e.name: helper.get_attribute_value(e) for e in node.attribute if e.name != "channels_last"}
        new.append(helper.make_node(operator, inputs, [value], name=node.name or value, **kept))
        insert_before(model, node, *new)
        read = list(node.input[written : written + 2])
        node.op_type, node.domain, node.name = "QuantizeLinear", "", f"{node.output[0]}:quantize"
        node.input[:] = [value, *read]
        node.ClearField("attribute")
        count += 1
    if count:
        spoken = {node.domain for node in model.graph.node}
        kept_sets = [entry for entry in model.opset_import if entry.domain in {"", "ai.onnx", *spoken}]
        model.ClearField("opset_import")
        model.opset_import.extend(kept_sets)
    return count


_PLANS: dict[str, tuple[str, tuple[int, ...], int, int]] = {
    # operator: float operator, positions of (data, scale, zero-point), of the result's (scale, zero-point), of the bias
    "QLinearConv": ("Conv", (0, 3), 6, 8),
    "QLinearMatMul": ("MatMul", (0, 3), 6, 99),
    "QLinearAdd": ("Add", (0, 3), 6, 99),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,), 3, 99),
    "QGemm": ("Gemm", (0, 3), 7, 6),
}


def _float_bias(model: ModelProto, bias: str, data_scale: str, weight_scale: str) -> str:
    view = GraphIndex.of(model)
    values = [view.value(name) for name in (bias, data_scale, weight_scale)]
    if any(value is None for value in values):
        raise StageError(f"bias {bias!r} or its scale is computed", "store both as initializers")
    codes, first, second = (np.asarray(value, np.float64) for value in values)
    return store(model, f"{bias}:float", (codes * first * second).astype(np.float32))


def _fold_parameters(model: ModelProto, target: Target) -> int:
    """Replaces scales and zero-points behind Identity nodes by initializers."""
    count = 0
    for node in quantizers(GraphIndex.of(model)):
        for index in (1, 2):
            view = GraphIndex.of(model)
            if index < len(node.input) and node.input[index] and node.input[index] not in view.constants:
                value = _constant_behind(view, node.input[index])
                if value is not None:
                    node.input[index] = store(model, f"{node.input[index]}.folded", value)
                    count += 1
    return count


def _constant_behind(view: GraphIndex, tensor: str) -> NDArray[np.generic] | None:
    """Value of a tensor that depends on constants only, by the reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    needed, waiting = [], [tensor]
    while waiting:
        node = view.producer(waiting.pop())
        if node is not None and node not in needed:
            needed.append(node)
            waiting += [name for name in node.input if name not in view.constants]
    free = {name for node in needed for name in node.input} - set(view.constants) - {
        name for node in needed for name in node.output
    }  # fmt: skip
    if not needed or free:
        return None
    ordered = [node for node in view.nodes if node in needed]
    initializers = [entry for entry in view.model.graph.initializer if any(entry.name in n.input for n in ordered)]
    result = helper.make_empty_tensor_value_info(tensor)
    body = helper.make_graph(ordered, "constant", [], [result], initializers)
    model = helper.make_model(body, opset_imports=view.model.opset_import, ir_version=view.model.ir_version)
    (value,) = ReferenceEvaluator(model).run(None, {})
    return np.asarray(value)


def _state_zero_points(model: ModelProto, target: Target) -> int:
    """Adds zero-points: to weights one of their codes' type, to activations the uint8 one of ONNX's default."""
    count = 0
    for node in quantizers(GraphIndex.of(model)):
        if has_zero_point(node):
            continue
        view = GraphIndex.of(model)
        scale, codes = view.value(node.input[1]), view.constants.get(node.input[0])
        if scale is None:
            continue
        stated = attribute(node, "output_dtype", 0)
        kind = np.int8 if TensorProto.INT8 in (stated, codes.data_type if codes is not None else 0) else np.uint8
        zero = store(model, f"{node.input[1]}.zero_point", np.zeros(scale.shape, kind))
        node.input[:] = [*node.input[:2], zero]
        count += 1
    return count


def _drop_output_type(model: ModelProto, target: Target) -> int:
    count = 0
    for node in GraphIndex.of(model).of_type("QuantizeLinear"):
        if has_zero_point(node) and attribute(node, "output_dtype", 0):
            set_attribute(node, "output_dtype", None)
            count += 1
    return count


def _state_axis(model: ModelProto, target: Target) -> int:
    """Writes the axis of ONNX's default, 1, and replaces negative axes."""
    view, count = GraphIndex.of(model), 0
    for node, scale in scales(view):
        axis, shape = attribute(node, "axis"), data_shape(view, node)
        if scale.size > 1 and (axis is None or axis < 0):
            set_attribute(node, "axis", 1 if axis is None else axis % len(shape or (0,) * 4))
            count += 1
    return count


def _one_scale(model: ModelProto, target: Target) -> int:
    """Replaces per-channel scales of activations by the largest of them."""
    view, count = GraphIndex.of(model), 0
    for node, scale in list(scales(view)):
        if scale.size <= 1 or data_shape(view, node) is not None:
            continue
        zero = view.value(node.input[2]) if has_zero_point(node) else None
        if zero is None or np.any(zero):
            continue
        value = np.asarray(scale.max(), np.float32)
        names = [store(model, f"{node.output[0]}.scale", value)]
        names.append(store(model, f"{node.output[0]}.zero_point", np.zeros((), zero.dtype)))
        node.input[:] = [node.input[0], *names]
        set_attribute(node, "axis", None)
        count += 1
    return count


def _retype(model: ModelProto, target: Target) -> int:
    """Converts activation codes to the target's type: uint8 by ``scale * 255 / 127``, int8 by ``zero-point + 128``."""
    return retype(model, target.scheme) if target.scheme is not None else 0


def _versions(model: ModelProto, target: Target) -> int:
    runtime = target.runtime
    changed = to_opset(model, runtime.opset, runtime.ir_version)
    model.CopyFrom(changed)
    return 1


def _unread(model: ModelProto, target: Target) -> int:
    """Removes unused codes."""
    view, outputs = GraphIndex.of(model), {value.name for value in model.graph.output}
    dangling = [
        node
        for node in view.of_type("QuantizeLinear")
        if not view.consumers(node.output[0]) and node.output[0] not in outputs
    ]
    for node in dangling:
        model.graph.node.remove(node)
    return len(dangling)


SPELLING: tuple[Repair, ...] = (
    Repair(("Q19",), "fused integer operators spelt out with Q/DQ", _spell_out),
    Repair(("Q06", "Q07"), "computed scales and zero-points stored", _fold_parameters),
    Repair(("Q05",), "output_dtype dropped where a zero-point tells it", _drop_output_type),
    Repair(("Q03", "Q04"), "zero-points written out", _state_zero_points),
    Repair(("Q13",), "axis written out", _state_axis),
)
CODES: tuple[Repair, ...] = (
    Repair(("Q14",), "one scale per activation", _one_scale),
    Repair(("Q01", "Q02", "Q03", "Q04", "O01"), "activation codes of the target's type over the same range", _retype),
    Repair(("Q20",), "unused codes removed", _unread),
)
VERSIONS: tuple[Repair, ...] = (Repair(("Q17",), "opset and IR version of the target", _versions),)
