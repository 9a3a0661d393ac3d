"""Writing of an imported graph with Q/DQ pairs: its own nodes with their names, and one pair for every read."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper, numpy_helper

from edgeres.onnx_graph.edit import free_name, prune, replace_nodes
from edgeres.onnx_graph.graph_index import GraphIndex, opset_of
from edgeres.onnx_graph.integer_tensors import check_int4, scale_and_zero_point, stored_codes
from edgeres.onnx_graph.read import infer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.model.operation import Op
    from edgeres.model.weights import Weights
    from edgeres.onnx_graph.imported_graph import ImportedGraph
    from edgeres.quant.placement import Placement
    from edgeres.quant.qparams import QParams
    from edgeres.quant.quant_table import QuantTable


def write_imported(
    graph: ImportedGraph, weights: Weights, table: QuantTable | None = None, placement: Placement | None = None
) -> ModelProto:
    """The ONNX model of an imported graph, in float, or with Q/DQ where ``table`` and ``placement`` are given.

    Raises:
        StageError: 4-bit weights in an opset or IR version without them.
    """
    model = graph.with_weights(weights)
    if table is None or placement is None:
        return model
    check_int4(table.weights.values(), opset_of(model), model.ir_version)
    return _Writer(graph, deepcopy(model), weights, table, placement).written()


@dataclass
class _Writer:
    graph: ImportedGraph
    model: ModelProto
    weights: Weights
    table: QuantTable
    placement: Placement
    nodes: list[NodeProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        view = GraphIndex.of(self.model)
        self.taken = {*view.constants, *view.producers, *(node.name for node in view.nodes)}
        self.readers = {self.graph.sites[op.name].node: op for op in self.graph.ops}
        tensors = self.graph.tensors
        self.quantized = {tensors[name]: name for name in self.placement.tensors}
        self.parameters: dict[str, tuple[str, str]] = {}

    def written(self) -> ModelProto:
        """The model with Q/DQ pairs."""
        self.model.graph.ClearField("value_info")
        for value in self.model.graph.input:
            self.quantizer(value.name)
        for node in self.model.graph.node:
            op = self.readers.get(node.output[0]) if node.output else None
            if op is not None:
                self.reads(op, node)
            self.nodes.append(node)
            for name in node.output:
                self.quantizer(name)
        replace_nodes(self.model, self.nodes)
        prune(self.model)
        return infer(self.model)

    def quantizer(self, tensor: str) -> None:
        """The QuantizeLinear of a tensor."""
        if tensor not in self.quantized:
            return
        params = self.table.activations[self.quantized[tensor]]
        self.parameters[tensor] = self.scale(tensor, params)
        inputs = [tensor, *self.parameters[tensor]]
        self.node("QuantizeLinear", inputs, f"{tensor}.codes", f"{tensor}.quantize")

    def reads(self, op: Op, node: NodeProto) -> None:
        """A DequantizeLinear for every read through Q/DQ, and one for an integer weight."""
        site = self.graph.sites[op.name]
        for index, place in enumerate(site.data):
            if (op.name, index) in self.placement.edges:
                tensor = node.input[place]
                name = free_name(f"{tensor}.dequantized", self.taken)
                self.node("DequantizeLinear", [f"{tensor}.codes", *self.parameters[tensor]], name, name)
                node.input[place] = name
        if op.name not in self.placement.weighted:
            return
        params, stored = self.table.weights[op.name], node.input[1]
        shape = tuple(next(one.dims for one in self.model.graph.initializer if one.name == stored))
        codes = params.quantize(self.weights[f"{op.name}.weight"])
        turned = codes.T if site.transposed else codes.reshape(shape)
        inputs = [
            self.constant(f"{op.name}.weight.codes", stored_codes(turned, params)),
            *self.scale(f"{op.name}.weight", params),
        ]
        name = free_name(f"{op.name}.weight.dequantized", self.taken)
        self.node("DequantizeLinear", inputs, name, name, axis=len(shape) - 1 if site.transposed else 0)
        node.input[1] = name

    def node(self, kind: str, inputs: list[str], output: str, name: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))

    def scale(self, prefix: str, params: QParams) -> tuple[str, str]:
        """Initializers of scale and zero-point."""
        scale, zero_point = scale_and_zero_point(params)
        return self.constant(f"{prefix}.scale", scale), self.constant(f"{prefix}.zero_point", zero_point)

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        free = free_name(name, self.taken)
        self.model.graph.initializer.append(numpy_helper.from_array(np.array(value, order="C"), free))
        return free
