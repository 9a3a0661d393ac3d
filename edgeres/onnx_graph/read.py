"""Validated reading of an ONNX file: parsed, checked, sorted, and shape-inferred, without running it.

The result is self-contained: external tensors are loaded, nodes are in execution order and have unique names, and
the exporter's stack traces and metadata are removed.
"""

from __future__ import annotations

from functools import cache
from graphlib import CycleError, TopologicalSorter
from math import prod
from typing import TYPE_CHECKING

from onnx import checker, defs, inliner, shape_inference

from edgeres.errors import ModelError, nearest
from edgeres.onnx_graph.edit import replace_nodes, retain
from edgeres.onnx_graph.external import MAX_BYTES, load_external, parse, tensors
from edgeres.onnx_graph.graph_index import QDQ, label, opset_of

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import GraphProto, ModelProto

MAX_ELEMENTS = 1 << 30
"""Largest tensor of a graph in elements: 4 GiB in float32."""

MAX_NODES = 1_000_000
"""Most nodes of a graph once its functions are inlined."""

_EXPORT_AGAIN = "export the model again"


def read_model(path: Path) -> ModelProto:
    """The model of an ``.onnx`` file, with every tensor inside, sorted, without metadata, with inferred shapes.

    External tensors must be in the file's folder.

    Raises:
        ModelError: No such file, too large, not ONNX, or an invalid graph; the message names the node or tensor.
    """
    model = parse(path)
    load_external(model, path.parent, MAX_BYTES)
    _inline_functions(model)
    _require_plain_graph(model)
    strip(model)
    _known_operators(model)
    sort_nodes(model)
    name_nodes(model)
    return infer(model)


def _inline_functions(model: ModelProto) -> None:
    """Replaces calls of local functions by their nodes, in place.

    Raises:
        ModelError: A function that calls itself, or more nodes than a classifier has.
    """
    if not model.functions:
        return
    bodies = {(body.domain, body.name): body for body in model.functions}

    @cache
    def size(domain: str, name: str) -> int:
        body = bodies.get((domain, name))
        return 1 if body is None else sum(size(node.domain, node.op_type) for node in body.node)

    try:
        nodes = sum(size(node.domain, node.op_type) for node in model.graph.node)
        if nodes > MAX_NODES:
            raise ModelError(f"local functions make {nodes} nodes", "export the model without functions")
        inlined = inliner.inline_local_functions(model)
    except (RecursionError, RuntimeError, ValueError, checker.ValidationError) as failure:
        what = f"local function {model.functions[0].name!r} cannot be inlined"
        raise ModelError(what, "export the model without functions") from failure
    model.CopyFrom(inlined)
    model.ClearField("functions")


def _require_plain_graph(model: ModelProto) -> None:
    graph = model.graph
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise ModelError(f"sparse initializer {name!r}", "store weights densely")
    for node in graph.node:
        if any(entry.HasField("g") or entry.graphs for entry in node.attribute):
            raise ModelError(f"node {label(node)!r}: {node.op_type} is control flow", "export a traced graph")
    for tensor in tensors(model):
        if any(size < 0 for size in tensor.dims) or prod(tensor.dims) > MAX_ELEMENTS:
            raise ModelError(f"tensor {tensor.name!r} has shape {list(tensor.dims)}", _EXPORT_AGAIN)


def require_float(model: ModelProto) -> None:
    """Checks that a graph has only standard operators and is not quantized.

    Raises:
        ModelError: A vendor's operator, or an integer one; the message names the node.
    """
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            what = f"node {label(node)!r}: operator {node.domain}.{node.op_type} is no ONNX operator"
            raise ModelError(what, "export with standard operators")
        if node.op_type in (*QDQ, "QLinearConv", "ConvInteger", "MatMulInteger"):
            what = f"node {label(node)!r}: the graph is quantized already"
            repair = "; 'edgeres lint FILE --target TARGET --fix OUT.onnx' repairs a quantized one"
            hint = f"give the float model it was made from{repair if node.op_type in QDQ else ''}"
            raise ModelError(what, hint)


def strip(model: ModelProto) -> None:
    """Removes documentation, metadata, quantization and training information, and stale shapes."""
    for holder in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input):
        holder.ClearField("doc_string")
    for holder in (model, model.graph, *model.graph.node, *model.graph.initializer):
        if "metadata_props" in holder.DESCRIPTOR.fields_by_name:
            holder.ClearField("metadata_props")
    model.graph.ClearField("quantization_annotation")
    model.graph.ClearField("value_info")
    model.ClearField("training_info")
    constants = {tensor.name for tensor in model.graph.initializer}
    retain(model.graph.input, lambda value: value.name not in constants)  # IR 3 lists initializers too


def _known_operators(model: ModelProto) -> None:
    opset = opset_of(model)
    if not 7 <= opset <= defs.onnx_opset_version():
        raise ModelError(f"opset {opset}", f"export with an opset from 7 to {defs.onnx_opset_version()}")
    for node in model.graph.node:
        if node.domain in ("", "ai.onnx") and not defs.has(node.op_type, opset, ""):
            names = {schema.name for schema in defs.get_all_schemas()}
            where = f"node {label(node)!r}: operator {node.op_type!r} is not in opset {opset}"
            hint = "export with a newer opset" if node.op_type in names else nearest(node.op_type, names)
            raise ModelError(where, hint)


def sort_nodes(model: ModelProto) -> None:
    """Sorts nodes into execution order; the present order stays where it is one (``onnx_ir`` sorts it again).

    Raises:
        ModelError: A tensor computed twice, a tensor without producer, or a cycle.
    """
    graph = model.graph
    producers = _producers(graph)
    available = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input} | {""}
    for node in graph.node:
        for name in node.input:
            if name not in available and name not in producers:
                raise ModelError(f"node {label(node)!r} reads {name!r}, which nothing provides", _EXPORT_AGAIN)
    for value in graph.output:
        if value.name not in available and value.name not in producers:
            raise ModelError(f"output {value.name!r} is made by no node", _EXPORT_AGAIN)
    before = [{producers[name] for name in node.input if name in producers} for node in graph.node]
    if all(number > max(earlier, default=-1) for number, earlier in enumerate(before)):
        return
    try:
        order = tuple(TopologicalSorter(dict(enumerate(before))).static_order())
    except CycleError as failure:
        node = graph.node[failure.args[1][0]]
        raise ModelError(f"node {label(node)!r} waits for its own result: a cycle", _EXPORT_AGAIN) from failure
    replace_nodes(model, [graph.node[number] for number in order])


def _producers(graph: GraphProto) -> dict[str, int]:
    """Position of the node that computes a tensor, by tensor."""
    inputs, constants = {value.name for value in graph.input}, set[str]()
    for tensor in graph.initializer:
        if tensor.name in constants:
            raise ModelError(f"initializer {tensor.name!r} is there twice", _EXPORT_AGAIN)
        constants.add(tensor.name)
    producers: dict[str, int] = {}
    for number, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in producers or name in constants or name in inputs:
                before = (
                    f"node {label(graph.node[producers[name]])!r}" if name in producers else "an input or initializer"
                )
                raise ModelError(f"node {label(node)!r} makes {name!r} again, after {before}", _EXPORT_AGAIN)
            producers[name] = number
    return producers


def name_nodes(model: ModelProto) -> None:
    """Gives every node a unique name: its own, otherwise operator and position."""
    taken: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}_{number}"
        while node.name in taken:
            node.name += "_"
        taken.add(node.name)


def infer(model: ModelProto) -> ModelProto:
    """Checks a model in full and infers the shape of every tensor.

    Raises:
        ModelError: The checker or the inference rejects it, or a tensor is too large.
    """
    try:
        checker.check_model(model, full_check=True)
        inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (checker.ValidationError, shape_inference.InferenceError, ValueError) as failure:
        lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
        raise ModelError(f"the graph does not hold together: {'; '.join(lines)}", _EXPORT_AGAIN) from failure
    for value in inferred.graph.value_info:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
        if prod(sizes) > MAX_ELEMENTS:
            raise ModelError(f"tensor {value.name!r} has shape {sizes}", "use a smaller model or image")
    return inferred
