"""Repairs of Q/DQ placement: pairs are removed, moved, or reused. No repair invents a scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import helper

from edgeres.lint.fixes.fix import Repair, bypass, insert_before
from edgeres.lint.rules.tensorrt_placement import FLOAT_IN_FLOAT_OUT, MOVING, dequantized
from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex
from edgeres.onnx_graph.roles import residual_adds

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edgeres.targets.target import Target


def _behind_relu(model: ModelProto, target: Target) -> int:
    """Replaces ``Relu(DQ(Q(x)))`` by the equal ``DQ(Q(Relu(x)))``: rounding is monotonic and keeps 0."""
    count = 0
    for name in [node.name for node in GraphIndex.of(model).of_type("Relu")]:
        view = GraphIndex.of(model)
        relu = next(node for node in view.nodes if node.name == name)
        pair = view.pair(relu.input[0])
        if pair is None or view.producer(pair[0].input[0], *WEIGHTED) is None:
            continue
        value, output = f"{relu.output[0]}:float", relu.output[0]
        if output in {entry.name for entry in model.graph.output}:
            continue
        codes = f"{output}:codes"
        parameters = list(pair[0].input[1:])
        new = (
            helper.make_node("Relu", [pair[0].input[0]], [value], name=f"{name}:float"),
            helper.make_node("QuantizeLinear", [value, *parameters], [codes], name=codes),
            helper.make_node("DequantizeLinear", [codes, *parameters], [output], name=f"{codes}:dq"),
        )
        insert_before(model, relu, *new)
        model.graph.node.remove(next(node for node in model.graph.node if node.name == name))
        count += 1
    return count


def _once(model: ModelProto, target: Target) -> int:
    """Removes a pair directly after another one."""
    count = 0
    for quantizer in GraphIndex.of(model).of_type("QuantizeLinear"):
        if bypass(model, quantizer.input[0], quantizer, 0):
            count += 1
    return count


def _behind_moves(model: ModelProto, target: Target) -> int:
    """Removes the first of two pairs around an operator that moves values."""
    count = 0
    for quantizer in GraphIndex.of(model).of_type("QuantizeLinear"):
        view = GraphIndex.of(model)
        maker = view.producer(quantizer.input[0], *MOVING)
        if maker is not None and len(view.consumers(quantizer.input[0])) == 1:
            count += bypass(model, maker.input[0], maker, 0)
    return count


def _coarsest(model: ModelProto, target: Target) -> int:
    """Connects every reader of a tensor to the quantizer with the largest scale."""
    view, count = GraphIndex.of(model), 0
    for tensor in dict.fromkeys(node.input[0] for node in view.of_type("QuantizeLinear")):
        nodes = [node for node, index in view.consumers(tensor) if node.op_type == "QuantizeLinear" and index == 0]
        scales = [view.value(node.input[1]) for node in nodes]
        if len(nodes) < 2 or any(scale is None or scale.size != 1 for scale in scales):
            continue
        best = max(zip(nodes, scales, strict=True), key=lambda entry: float(np.max(entry[1])))[0]  # type: ignore[arg-type]  # no None is left
        for node in nodes:
            if node is best:
                continue
            for reader, _ in view.consumers(node.output[0]):
                reader.input[:] = [best.output[0], *best.input[1:]]
                count += 1
    return count


def _identities(model: ModelProto, target: Target) -> int:
    """Connects an add's identity to its existing quantizer, and its residual branch to the float tensor."""
    count = 0
    for add in residual_adds(GraphIndex.of(model)):
        view = GraphIndex.of(model)
        identity, residual = add.identity_tensor, add.residual_tensor
        index = add.identity
        if not dequantized(view, identity):
            readers = [node for node, place in view.consumers(identity) if place == 0]
            quantizer = next((node for node in readers if node.op_type == "QuantizeLinear"), None)
            if quantizer is None:
                continue
            name = f"{add.node.name or add.node.output[0]}:identity"
            again = helper.make_node("DequantizeLinear", [quantizer.output[0], *quantizer.input[1:]], [name], name=name)
            insert_before(model, add.node, again)
            add.node.input[index] = name
            count += 1
        if view.pair(residual) is not None:
            count += bypass(model, residual, add.node, 1 - index)
    return count


def _float_operators(model: ModelProto, target: Target) -> int:
    """Connects operators with float output to float inputs."""
    count = 0
    for node in GraphIndex.of(model).of_type(*FLOAT_IN_FLOAT_OUT, "BatchNormalization"):
        view = GraphIndex.of(model)
        written = view.consumers(node.output[0]) if node.op_type != "BatchNormalization" else ()
        if any(reader.op_type == "QuantizeLinear" for reader, _ in written):
            continue
        for index, name in enumerate(node.input):
            count += bypass(model, name, node, index)
    return count


def _float_outputs(model: ModelProto, target: Target) -> int:
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
        _rename(maker, inner, value.name)
        for reader, index in view.consumers(inner):
            reader.input[index] = value.name
        count += 1
    return count


def _rename(node: NodeProto, old: str, new: str) -> None:
    node.output[:] = [new if name == old else name for name in node.output]


REPAIRS: tuple[Repair, ...] = (
    Repair(("P02",), "pairs moved behind Relu", _behind_relu),
    Repair(("P06",), "second pairs removed", _once),
    Repair(("P07",), "pairs kept behind what moves values alone", _behind_moves),
    Repair(("P04",), "one quantizer for every reader", _coarsest),
    Repair(("P03", "P05"), "identities quantized, residuals in float", _identities),
    Repair(("P08", "W08"), "pairs in front of float operators removed", _float_operators),
    Repair(("P10",), "outputs in float", _float_outputs),
)
