"""Preparation of an imported float graph: conversion to a target's opset, and folding for inference.

Upwards ``onnx.version_converter`` is used. Downwards it supports next to nothing (it has no adapter even for Relu 14 to
13), so nodes are converted here by their schemas: a node is unchanged where the older schema has the same inputs and
attributes with the same defaults, because then the versions differ in types alone; operators that moved an attribute to
an input are moved back.

The folding of constants, batch norms, identities and dropout is ONNX Runtime's offline optimisation at its basic level,
which uses only standard operators (onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html). Its
result is reduced to the graph and compared with the original by running both.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
from onnx import checker, defs, helper, version_converter

from edgeres.errors import StageError
from edgeres.onnx_graph.edit import insert_before, retain
from edgeres.onnx_graph.execute import load, probe, relative_delta, runner, session_options
from edgeres.onnx_graph.graph_index import GraphIndex, attribute, label, opset_of
from edgeres.onnx_graph.read import infer, name_nodes, require_float, strip
from edgeres.onnx_graph.signature import normalise, signature

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edgeres.targets.runtime import Runtime

TOLERANCE = 1e-4
"""Largest ``max|delta| / max|logit|`` of another order of float32 sums."""

_PROBES = 2

_AXES_MOVED_TO_AN_INPUT = {
    **dict.fromkeys(("ReduceSum", "Squeeze", "Unsqueeze"), 13),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"), 18),
    **dict.fromkeys(("ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"), 18),
}
"""Operators whose ``axes`` are an input from this opset on (ONNX operator changelog)."""

_OPTIONAL_IN_EFFECT = {"num_outputs"}
"""Attributes that an older schema implies: Split divides evenly without ``num_outputs``."""


class Prepared(NamedTuple):
    """A folded float graph in the target's opset.

    ``delta`` is ``max|delta logit|`` against the original file, ``nodes`` the number of nodes in that file and now.
    """

    model: ModelProto
    delta: float
    nodes: tuple[int, int]


def prepare(model: ModelProto, runtime: Runtime, size: int | None = None) -> Prepared:
    """Normalises the signature, converts the opset and folds an imported graph, and checks its function.

    ``size`` is the side of the image where the graph leaves it open.

    Raises:
        ModelError: It is quantized already, no classifier, or works for its one batch size only.
        StageError: It has no equivalent in the opset, or the result differs numerically.
    """
    require_float(model)
    folded = fold(to_opset(fold(normalise(model, size)), runtime.opset, runtime.ir_version))
    images = probe(folded, _PROBES)
    original = runner(model, optimise=False)
    step = signature(model).batch or 1
    padded = np.repeat(images, step, axis=0)  # a file with a fixed batch runs each image that many times
    before = np.concatenate([original(padded[start : start + step])[:1] for start in range(0, len(padded), step)])
    after = runner(folded)(images)
    if after.shape != before.shape or relative_delta(before, after) > TOLERANCE:
        what = f"the folded graph computes something else for a batch of {_PROBES}"
        raise StageError(what, "export it with a symbolic batch axis and the target's opset")
    return Prepared(folded, float(np.max(np.abs(after - before))), (len(model.graph.node), len(folded.graph.node)))


def fold(model: ModelProto) -> ModelProto:
    """The graph with everything computed that does not depend on the image.

    Raises:
        StageError: The runtime rejects the graph, or leaves a non-standard operator.
    """
    options = session_options("basic")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(file)
        load(model, options)
        folded = onnx.load_model_from_string(file.read_bytes())
    return _clean(folded, model)


def _clean(folded: ModelProto, model: ModelProto) -> ModelProto:
    """Reduces a graph to standard operators, with names for all nodes, one opset and the signature of ``model``."""
    graph = folded.graph
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise StageError(f"folding left {node.domain}.{node.op_type}", "export it with the target's opset")
    strip(folded)
    retain(folded.opset_import, lambda entry: entry.domain in ("", "ai.onnx"))
    if opset_of(folded) != opset_of(model):
        raise StageError(f"folding moved the opset to {opset_of(folded)}", "use the pinned onnxruntime")
    folded.ir_version = model.ir_version
    folded.producer_name, folded.producer_version, folded.domain, folded.model_version = "edgeres", "", "", 0
    graph.name = "classifier"
    for field in ("input", "output"):
        graph.ClearField(field)
        getattr(graph, field).extend(getattr(model.graph, field))
    read = {name for node in graph.node for name in node.input}
    retain(graph.initializer, lambda tensor: tensor.name in read)
    graph.initializer.sort(key=lambda tensor: tensor.name)
    name_nodes(folded)
    _state_kernels(folded)
    return infer(folded)


def _state_kernels(model: ModelProto) -> None:
    """Writes ``kernel_shape`` on every Conv: ONNX may infer it from the weight, which a quantized graph computes."""
    shapes = {tensor.name: tensor.dims[2:] for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and attribute(node, "kernel_shape") is None and node.input[1] in shapes:
            node.attribute.append(helper.make_attribute("kernel_shape", list(shapes[node.input[1]])))


def to_opset(model: ModelProto, opset: int, ir_version: int) -> ModelProto:
    """A copy of a model in another opset and IR version.

    Raises:
        StageError: A node has no equivalent there; the message names it.
    """
    changed, present, hint = deepcopy(model), opset_of(model), f"export it with opset {opset}"
    if present < opset:
        try:
            changed = version_converter.convert_version(changed, opset)
        except (version_converter.ConvertError, RuntimeError) as failure:
            raise StageError(f"opset {present} cannot become {opset}: {failure}", hint) from failure
    elif present > opset:
        _lower(changed, opset)
    changed.ir_version = ir_version
    try:
        checker.check_model(changed, full_check=True)
    except (checker.ValidationError, ValueError, RuntimeError) as failure:
        raise StageError(f"the graph does not fit opset {opset}, IR {ir_version}: {failure}", hint) from failure
    return changed


def _lower(model: ModelProto, opset: int) -> None:
    view, present = GraphIndex.of(model), opset_of(model)
    for node in list(model.graph.node):
        if _since(node, present) == _since(node, opset):
            continue
        if node.op_type == "HardSwish" and opset < 14:
            _spell_out_hard_swish(model, node)
        elif _AXES_MOVED_TO_AN_INPUT.get(node.op_type, 0) > opset:
            _axes_to_attribute(view, node)
        elif node.op_type == "Reshape":
            _forget_allowzero(view, node)
        _fit_attributes(node, present, opset)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset


def _since(node: NodeProto, opset: int) -> int:
    return int(defs.get_schema(node.op_type, opset, "").since_version) if defs.has(node.op_type, opset, "") else 0


def _spell_out_hard_swish(model: ModelProto, node: NodeProto) -> None:
    """``x * max(0, min(1, x / 6 + 1/2))``, the definition of HardSwish 14."""
    gate = f"{node.output[0]}.gate"
    hard = helper.make_node("HardSigmoid", [node.input[0]], [gate], name=f"{node.name}.gate", alpha=1 / 6, beta=0.5)
    insert_before(model, node, hard)
    node.op_type = "Mul"
    node.input.append(gate)


def _axes_to_attribute(view: GraphIndex, node: NodeProto) -> None:
    if len(node.input) < 2:
        return
    axes = view.value(node.input[1])
    if axes is None:
        raise StageError(f"node {label(node)!r}: its axes are computed", "export it with the target's opset")
    del node.input[1:]
    node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in axes.ravel()]))


def _forget_allowzero(view: GraphIndex, node: NodeProto) -> None:
    """Removes ``allowzero`` from a Reshape whose constant shape has no 0, where it has no effect."""
    shape = view.value(node.input[1])
    if shape is not None and 0 not in shape:
        retain(node.attribute, lambda entry: entry.name != "allowzero")


def _fit_attributes(node: NodeProto, present: int, opset: int) -> None:
    """Drops attributes at their default that the older schema lacks; writes those whose default changed."""
    if not defs.has(node.op_type, opset, ""):
        raise StageError(f"node {label(node)!r}: {node.op_type} is not in opset {opset}", "export without it")
    new, old = (defs.get_schema(node.op_type, version, "").attributes for version in (present, opset))
    for entry in node.attribute:
        if entry.name in old or entry.name in _OPTIONAL_IN_EFFECT:
            continue
        if helper.get_attribute_value(entry) != _default(new[entry.name]):
            where = f"node {label(node)!r}: {node.op_type} has no {entry.name!r} in opset {opset}"
            raise StageError(where, f"export it with opset {opset}")
    retain(node.attribute, lambda entry: entry.name in old)
    for name in sorted(new.keys() & old.keys()):
        default = _default(new[name])
        if attribute(node, name) is None and default is not None and default != _default(old[name]):
            node.attribute.append(helper.make_attribute(name, default))


def _default(schema: defs.OpSchema.Attribute) -> object:
    """Default of an attribute as a Python value; None where it has none."""
    entry = schema.default_value
    return helper.get_attribute_value(entry) if entry is not None and entry.name else None
