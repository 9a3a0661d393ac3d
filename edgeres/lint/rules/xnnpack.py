"""Rules for integer execution of a Q/DQ graph in ExecuTorch's XNNPACK delegate.

Source: ``backends/xnnpack/partition/config`` of pytorch/executorch (the supported Q/DQ patterns), confirmed by the
kernels that ExecuTorch 1.5 records while it runs the file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeres.lint.facts import weight_dequantizer, weighted_nodes
from edgeres.lint.rule import Defect, Rule, Version, rule
from edgeres.lint.rules import openvino
from edgeres.lint.rules import tensorrt_nodes as nodes
from edgeres.onnx_graph.graph_index import GraphIndex, attribute, label

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTITIONER = "executorch, backends/xnnpack/partition/config"
_FUSED = ("Relu", "Clip")


@rule("X01", "W", "quantize data, weight and output", PARTITIONER)
def integers_on_both_sides(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Quantized layers have integers on both sides."""
    for node in weighted_nodes(view):
        if weight_dequantizer(view, node) is None:
            continue
        if view.pair(node.input[0]) is None:
            yield label(node), "its data is float: it runs in float"
        elif not _is_quantized(view, node.output[0]):
            yield label(node), "QuantizeLinear is not all that reads its output: it runs in float"


@rule("X02", "W", "quantize both inputs of an add, or none (scheme.add_inputs: both)", PARTITIONER)
def both_inputs(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Adds have all sides quantized, or none."""
    for node in view.of_type("Add"):
        sides = [view.pair(name) is not None for name in node.input]
        if any(sides) and not (all(sides) and _is_quantized(view, node.output[0])):
            yield label(node), "an input or its output is float: it runs in float, between conversions"


@rule("X03", "I", "project with a convolution instead (shortcut B)", "XNNPACK, src/subgraph/max-pooling-2d.c")
def windows_of_more_than_one(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Max-pools have more than one pixel."""
    for node in view.of_type("MaxPool"):
        if set(attribute(node, "kernel_shape", ())) == {1}:
            yield label(node), "a window of one pixel: ExecuTorch's portable kernel takes it, in float"


def _is_quantized(view: GraphIndex, tensor: str) -> bool:
    """Whether all readers of a tensor, or of the activation fused after it, are QuantizeLinear."""
    readers = view.consumers(tensor)
    if len(readers) == 1 and readers[0][0].op_type in _FUSED:
        readers = view.consumers(readers[0][0].output[0])
    return len(readers) == 1 and readers[0][0].op_type == "QuantizeLinear"


RULES: tuple[Rule, ...] = (
    *(replace(entry, source=PARTITIONER) for entry in (nodes.positive, nodes.equal_volumes)),
    replace(nodes.per_tensor_activations, id="X04", source=PARTITIONER),
    replace(openvino.symmetric_weights, id="X05", source=PARTITIONER),
    integers_on_both_sides,
    both_inputs,
    windows_of_more_than_one,
)
