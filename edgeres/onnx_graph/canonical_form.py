"""One form of what exporters write in several: global pools, and concatenations that grow.

A mean over height and width is GlobalAveragePool, for which runtimes have integer kernels. DenseNet concatenates all
features before each layer, so the number of reads is quadratic in the depth; where the first inputs are those of an
earlier Concat, that one is read instead. No value changes.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from onnx import NodeProto, helper

from edgeres.onnx_graph.edit import free_name, names, replace_nodes
from edgeres.onnx_graph.graph_index import GraphIndex, attribute, input_at
from edgeres.onnx_graph.read import infer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto


def canonical_form(model: ModelProto) -> ModelProto:
    """The graph with global pools and growing concatenations in one form; the model itself where it has none."""
    view, ranks = GraphIndex.of(model), _ranks(model)
    means = {node.output[0] for node in view.of_type("ReduceMean") if _is_global(view, node, ranks)}
    grown = _grown(view)
    if not means and not grown:
        return model
    changed, taken, nodes = deepcopy(model), names(model), list[NodeProto]()
    changed.graph.ClearField("value_info")
    for node in changed.graph.node:
        if node.output[0] in means:
            nodes += _global_pool(node, taken)
            continue
        node.input[:] = grown.get(node.output[0], node.input)
        nodes.append(node)
    replace_nodes(changed, nodes)
    return infer(changed)


def _global_pool(node: NodeProto, taken: set[str]) -> list[NodeProto]:
    """A mean over height and width as GlobalAveragePool, and Flatten where it drops both."""
    output = node.output[0]
    pooled = output if attribute(node, "keepdims", 1) else free_name(f"{output}.map", taken)
    pool = helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name)
    if pooled == output:
        return [pool]
    return [pool, helper.make_node("Flatten", [pooled], [output], name=f"{output}.flatten", axis=1)]


def _ranks(model: ModelProto) -> dict[str, int]:
    """Number of dimensions of each tensor."""
    values = (*model.graph.input, *model.graph.value_info)
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values}


def _is_global(view: GraphIndex, node: NodeProto, ranks: Mapping[str, int]) -> bool:
    axes = view.value(input_at(node, 1)) if input_at(node, 1) else attribute(node, "axes")
    return ranks.get(node.input[0]) == 4 and axes is not None and {int(axis) % 4 for axis in axes} == {2, 3}


def _grown(view: GraphIndex) -> dict[str, list[str]]:
    """Inputs of each Concat that begins as an earlier one does, by its output."""
    earlier: dict[tuple[int, tuple[str, ...]], str] = {}
    grown: dict[str, list[str]] = {}
    for node in view.of_type("Concat"):
        inputs, axis = tuple(node.input), attribute(node, "axis")
        for count in range(len(inputs) - 1, 1, -1):
            if (axis, inputs[:count]) in earlier:
                grown[node.output[0]] = [earlier[axis, inputs[:count]], *inputs[count:]]
                break
        earlier.setdefault((axis, inputs), node.output[0])
    return grown
