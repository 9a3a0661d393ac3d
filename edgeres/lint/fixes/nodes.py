"""Repairs of nodes: Q/DQ spelling, code types, zero-points, scales, float types, versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from edgeres.errors import StageError
from edgeres.lint.facts import data_shape, scales
from edgeres.lint.rule import Phase, repair
from edgeres.onnx_graph import lowering, rewrite
from edgeres.onnx_graph.edit import insert_before, set_attribute, store
from edgeres.onnx_graph.graph_index import QDQ, GraphIndex, attribute, input_at
from edgeres.onnx_graph.opset import to_opset

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.targets.target import Target

_PLANS: dict[str, tuple[str, tuple[int, ...], int, int]] = {
    # operator: float operator, positions of (data, scale, zero-point), of the result's (scale, zero-point), of the bias
    "QLinearConv": ("Conv", (0, 3), 6, 8),  # x, xs, xz, w, ws, wz, ys, yz, bias: int32 of scale xs * ws
    "QLinearMatMul": ("MatMul", (0, 3), 6, 99),
    "QLinearAdd": ("Add", (0, 3), 6, 99),  # of com.microsoft: a, as, az, b, bs, bz, ys, yz
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,), 3, 99),  # x, xs, xz, ys, yz
    "QGemm": ("Gemm", (0, 3), 7, 6),  # a, as, az, b, bs, bz, bias, ys, yz
}


@repair(Phase.SPELLING, "fused integer operators spelt out with Q/DQ", "Q19")
def expand_fused(model: ModelProto, target: Target) -> int:
    """Replaces fused integer operators by their float operator between DequantizeLinear and QuantizeLinear."""
    fused = [
        node
        for node in model.graph.node
        if node.op_type in _PLANS
        and not (node.op_type == "QLinearGlobalAveragePool" and attribute(node, "channels_last", 0))
    ]
    for node in fused:
        _expand_fused(model, node)
    if fused:
        domains = {"", "ai.onnx", *(node.domain for node in model.graph.node)}
        operator_sets = [entry for entry in model.opset_import if entry.domain in domains]
        model.ClearField("opset_import")
        model.opset_import.extend(operator_sets)
    return len(fused)


def _expand_fused(model: ModelProto, node: NodeProto) -> None:
    """Replaces one operator; its node becomes the QuantizeLinear of the result."""
    operator, groups, written, bias = _PLANS[node.op_type]
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
    attributes = {e.name: helper.get_attribute_value(e) for e in node.attribute if e.name != "channels_last"}
    new.append(helper.make_node(operator, inputs, [value], name=node.name or value, **attributes))
    insert_before(model, node, *new)
    node.op_type, node.domain, node.name = "QuantizeLinear", "", f"{node.output[0]}:quantize"
    node.input[:] = [value, *node.input[written : written + 2]]
    node.ClearField("attribute")


def _float_bias(model: ModelProto, bias: str, data_scale: str, weight_scale: str) -> str:
    view = GraphIndex.of(model)
    values = [view.value(name) for name in (bias, data_scale, weight_scale)]
    if any(value is None for value in values):
        raise StageError(f"bias {bias!r} or its scale is computed", "store both as initializers")
    codes, first, second = (np.asarray(value, np.float64) for value in values)
    return store(model, f"{bias}:float", (codes * first * second).astype(np.float32))


@repair(Phase.SPELLING, "computed scales and zero-points stored", "Q06", "Q07")
def fold_parameters(model: ModelProto, target: Target) -> int:
    """Replaces scales and zero-points behind Identity nodes by initializers."""
    count = 0
    for node in GraphIndex.of(model).of_type(*QDQ):
        for index, name in enumerate(node.input[1:3], 1):
            view = GraphIndex.of(model)
            value = _constant_behind(view, name) if name and name not in view.constants else None
            if value is not None:
                node.input[index] = store(model, f"{name}.folded", value)
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
    read = {name for node in needed for name in node.input}
    if not needed or read - set(view.constants) - {name for node in needed for name in node.output}:
        return None
    ordered = [node for node in view.nodes if node in needed]
    initializers = [entry for entry in view.model.graph.initializer if entry.name in read]
    result = helper.make_empty_tensor_value_info(tensor)
    body = helper.make_graph(ordered, "constant", [], [result], initializers)
    model = helper.make_model(body, opset_imports=view.model.opset_import, ir_version=view.model.ir_version)
    (value,) = ReferenceEvaluator(model).run(None, {})
    return np.asarray(value)


@repair(Phase.SPELLING, "output_dtype dropped beside a zero-point", "Q05")
def drop_output_type(model: ModelProto, target: Target) -> int:
    """Removes output_dtype beside a zero-point."""
    stated = [
        node
        for node in GraphIndex.of(model).of_type("QuantizeLinear")
        if input_at(node, 2) and attribute(node, "output_dtype", 0)
    ]
    for node in stated:
        set_attribute(node, "output_dtype", None)
    return len(stated)


@repair(Phase.SPELLING, "zero-points written out", "Q03", "Q04")
def state_zero_points(model: ModelProto, target: Target) -> int:
    """Adds zero-points: to weights one of their codes' type, to activations the uint8 one of ONNX's default."""
    count = 0
    for node in GraphIndex.of(model).of_type(*QDQ):
        view = GraphIndex.of(model)
        scale, codes = view.value(node.input[1]), view.constants.get(node.input[0])
        if input_at(node, 2) or scale is None:
            continue
        stated = attribute(node, "output_dtype", 0)
        kind = np.int8 if TensorProto.INT8 in (stated, codes.data_type if codes is not None else 0) else np.uint8
        zero = store(model, f"{node.input[1]}.zero_point", np.zeros(scale.shape, kind))
        node.input[:] = [*node.input[:2], zero]
        count += 1
    return count


@repair(Phase.SPELLING, "axis written out", "Q13")
def state_axis(model: ModelProto, target: Target) -> int:
    """Writes the axis of ONNX's default, 1, and replaces negative axes."""
    view, count = GraphIndex.of(model), 0
    for node, scale in scales(view):
        axis, shape = attribute(node, "axis"), data_shape(view, node)
        if scale.size > 1 and (axis is None or axis < 0):
            set_attribute(node, "axis", 1 if axis is None else axis % len(shape or (0,) * 4))
            count += 1
    return count


@repair(Phase.CODES, "one scale per activation", "Q14")
def one_scale(model: ModelProto, target: Target) -> int:
    """Replaces per-channel scales of activations by the largest of them."""
    view, count = GraphIndex.of(model), 0
    for node, scale in list(scales(view)):
        zero = view.value(input_at(node, 2))
        if scale.size <= 1 or data_shape(view, node) is not None or zero is None or np.any(zero):
            continue
        names = [store(model, f"{node.output[0]}.scale", np.asarray(scale.max(), np.float32))]
        names.append(store(model, f"{node.output[0]}.zero_point", np.zeros((), zero.dtype)))
        node.input[:] = [node.input[0], *names]
        set_attribute(node, "axis", None)
        count += 1
    return count


@repair(
    Phase.CODES, "activation codes of the target's type over the same range", "Q01", "Q02", "Q03", "Q04", "O01"
)  # fmt: skip
def retype(model: ModelProto, target: Target) -> int:
    """Converts activation codes to the target's type: uint8 by ``scale * 255 / 127``, int8 by ``zero-point + 128``."""
    return rewrite.retype(model, target.scheme) if target.scheme is not None else 0


@repair(Phase.CODES, "unused codes removed", "Q20")
def remove_unread(model: ModelProto, target: Target) -> int:
    """Removes unused codes."""
    view, outputs = GraphIndex.of(model), {value.name for value in model.graph.output}
    unread = [
        node
        for node in view.of_type("QuantizeLinear")
        if not view.consumers(node.output[0]) and node.output[0] not in outputs
    ]
    for node in unread:
        model.graph.node.remove(node)
    return len(unread)


@repair(Phase.PRECISION, "float parts cast to FP16", "P11", rounding=lowering.ROUNDING)
def to_half(model: ModelProto, target: Target) -> int:
    """Casts the layers to FP16 that a strongly typed runtime would run in float32."""
    return lowering.to_half(model)


@repair(Phase.VERSIONS, "opset and IR version of the target", "Q17")
def versions(model: ModelProto, target: Target) -> int:
    """Converts the graph to the runtime's opset and IR version."""
    model.CopyFrom(to_opset(model, target.runtime.opset, target.runtime.ir_version))
    return 1
