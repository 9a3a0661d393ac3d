"""Repairs of Q/DQ placement: pairs are removed, moved, or reused. No repair invents a scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import helper

from edgeres.lint.facts import FLOAT_IN_FLOAT_OUT, MOVING, dequantized, quantizers_of
from edgeres.lint.fixes.repair import Phase, bypass, insert_before, repair
from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex
from edgeres.onnx_graph.residual import residual_adds

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgeres.targets.target import Target


@repair(Phase.PLACEMENT, "pairs moved behind Relu", "P02")
def behind_relu(model: ModelProto, target: Target) -> int:
    """Replaces ``Relu(DQ(Q(x)))`` by the equal ``DQ(Q(Relu(x)))``: rounding is monotonic and keeps 0."""
    count, outputs = 0, {entry.name for entry in model.graph.output}
    for name in [node.name for node in GraphIndex.of(model).of_type("Relu")]:
        view = GraphIndex.of(model)
        relu = next(node for node in view.nodes if node.name == name)
        pair, output = view.pair(relu.input[0]), relu.output[0]
        if pair is None or view.producer(pair[0].input[0], *WEIGHTED) is None or output in outputs:
            continue
        tensor, *parameters = pair[0].input
        value, codes = f"{output}:float", f"{output}:codes"
        new = (
            helper.make_node("Relu", [tensor], [value], name=f"{name}:float"),
            helper.make_node("QuantizeLinear", [value, *parameters], [codes], name=codes),
            helper.make_node("DequantizeLinear", [codes, *parameters], [output], name=f"{codes}:dq"),
        )
        insert_before(model, relu, *new)
        model.graph.node.remove(next(node for node in model.graph.node if node.name == name))
        count += 1
    return count


@repair(Phase.PLACEMENT, "second pairs removed", "P06")
def quantized_once(model: ModelProto, target: Target) -> int:
    """Removes a pair directly after another one."""
    return sum(bypass(model, quantizer, 0) for quantizer in GraphIndex.of(model).of_type("QuantizeLinear"))


@repair(Phase.PLACEMENT, "pairs kept behind what moves values alone", "P07")
def behind_moves(model: ModelProto, target: Target) -> int:
    """Removes the first of two pairs around an operator that moves values."""
    count = 0
    for quantizer in GraphIndex.of(model).of_type("QuantizeLinear"):
        view = GraphIndex.of(model)
        maker = view.producer(quantizer.input[0], *MOVING)
        if maker is not None and len(view.consumers(quantizer.input[0])) == 1:
            count += bypass(model, maker, 0)
    return count


@repair(Phase.PLACEMENT, "one quantizer for every reader", "P04")
def coarsest_scale(model: ModelProto, target: Target) -> int:
    """Connects every reader of a tensor to the quantizer with the largest scale."""
    view, count = GraphIndex.of(model), 0
    for tensor in dict.fromkeys(node.input[0] for node in view.of_type("QuantizeLinear")):
        nodes = quantizers_of(view, tensor)
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
            quantizer = next(iter(quantizers_of(view, add.identity_tensor)), None)
            if quantizer is None:
                continue
            name = f"{add.node.name or add.node.output[0]}:identity"
            again = helper.make_node("DequantizeLinear", [quantizer.output[0], *quantizer.input[1:]], [name], name=name)
            insert_before(model, add.node, again)
            add.node.input[index] = name
            count += 1
        count += bypass(model, add.node, 1 - index)
    return count


@repair(Phase.PLACEMENT, "pairs in front of float operators removed", "P08", "W08")
def float_operators(model: ModelProto, target: Target) -> int:
    """Connects operators with float output to float inputs."""
    count = 0
    for node in GraphIndex.of(model).of_type(*FLOAT_IN_FLOAT_OUT, "BatchNormalization"):
        readers = GraphIndex.of(model).consumers(node.output[0])
        if node.op_type == "BatchNormalization" or all(reader.op_type != "QuantizeLinear" for reader, _ in readers):
            count += sum(bypass(model, node, index) for index in range(len(node.input)))
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
