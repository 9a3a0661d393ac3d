"""Rules for integer execution of a Q/DQ graph in ExecuTorch's XNNPACK delegate.

Source: ``backends/xnnpack/partition/config`` of pytorch/executorch (the supported Q/DQ patterns), confirmed by the
kernels that ExecuTorch 1.5 records while it runs the file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeres.lint.facts import quantized_weights, readers_behind_epilogue
from edgeres.lint.families import XNNPACK
from edgeres.lint.rule import LAST, Defect, Version, rule
from edgeres.lint.rules import openvino
from edgeres.lint.rules import tensorrt_nodes as nodes
from edgeres.onnx_graph.graph_index import GraphIndex, attribute, label

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTITIONER = "executorch, backends/xnnpack/partition/config"

SHARED = tuple(
    replace(shared, family=XNNPACK, source=PARTITIONER, id=name, warns_from=LAST)
    for name, shared in (
        ("Q08", nodes.positive),
        ("Q11", nodes.equal_volumes),
        ("X04", nodes.per_tensor_activations),
        ("X05", openvino.symmetric_weights),
    )
)


@rule(XNNPACK, "X01", "W", "quantize data, weight and output", PARTITIONER)
def integers_on_both_sides(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Quantized layers have integers on both sides."""
    for node, _dequantizer in quantized_weights(view):
        if view.pair(node.input[0]) is None:
            yield label(node), "its data is float: it runs in float"
        elif readers_behind_epilogue(view, node.output[0]) != ["QuantizeLinear"]:
            yield label(node), "QuantizeLinear is not all that reads its output: it runs in float"


@rule(XNNPACK, "X02", "W", "quantize both inputs of an add, or none (scheme.add_inputs: both)", PARTITIONER)
def both_inputs(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Adds have all sides quantized, or none."""
    for node in view.of_type("Add"):
        sides = [view.pair(name) is not None for name in node.input]
        quantized_output = readers_behind_epilogue(view, node.output[0]) == ["QuantizeLinear"]
        if any(sides) and not (all(sides) and quantized_output):
            yield label(node), "an input or its output is float: it runs in float, between conversions"


@rule(XNNPACK, "X03", "I", "project with a convolution instead (shortcut B)", "XNNPACK, src/subgraph/max-pooling-2d.c")
def windows_of_more_than_one(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Max-pools have more than one pixel."""
    for node in view.of_type("MaxPool"):
        if set(attribute(node, "kernel_shape", ())) == {1}:
            yield label(node), "a window of one pixel: ExecuTorch's portable kernel takes it, in float"
