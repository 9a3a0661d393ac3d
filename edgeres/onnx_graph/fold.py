"""Folding of a float graph for inference: constants, batch norms behind convolutions, identities, dropout.

The folding is ONNX Runtime's offline optimisation at its basic level, which uses only standard operators
(onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html). Its result is reduced to the graph and
compared with the original by running both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from edgeres.errors import StageError
from edgeres.onnx_graph.execute import open_session, probe, relative_delta, runner, session_options
from edgeres.onnx_graph.graph_index import opset_of
from edgeres.onnx_graph.opset import to_opset
from edgeres.onnx_graph.read import infer, name_nodes, require_float, strip
from edgeres.onnx_graph.signature import normalise, signature

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgeres.targets.runtime import Runtime

TOLERANCE = 1e-4
"""Largest ``max|delta| / max|logit|`` of another order of float32 sums."""

_PROBES = 2


@dataclass(frozen=True)
class Prepared:
    """An imported graph after preparation.

    Attributes:
        model: The folded float graph in the target's opset.
        delta: ``max|delta logit|`` against the original file.
        nodes: Number of nodes in the original file, and now.
    """

    model: ModelProto
    delta: float
    nodes: tuple[int, int]


def prepare(model: ModelProto, runtime: Runtime, size: int | None = None) -> Prepared:
    """Normalises the signature, converts the opset and folds an imported graph, and checks its function.

    Args:
        model: A model from ``read_model``.
        runtime: Runtime with opset and IR version.
        size: Side of the image where the graph leaves it open.

    Raises:
        ModelError: It is quantized already, no classifier, or works for its one batch size only.
        StageError: It has no equivalent in the opset, or the result differs numerically.
    """
    require_float(model)
    folded = fold(to_opset(fold(normalise(model, size)), runtime.opset, runtime.ir_version))
    images = probe(folded, _PROBES)
    given = signature(model)
    original = runner(model, optimise=False)
    step = given.batch or 1
    padded = np.repeat(images, step, axis=0)  # a file with a fixed batch runs each image that many times
    before = np.concatenate([original(padded[start : start + step])[:1] for start in range(0, len(padded), step)])
    after = runner(folded)(images)
    if after.shape != before.shape or relative_delta(before, after) > TOLERANCE:
        raise StageError(
            f"the folded graph computes something else for a batch of {_PROBES}",
            "export it with a symbolic batch axis and the target's opset",
        )
    nodes = len(model.graph.node), len(folded.graph.node)
    return Prepared(folded, float(np.max(np.abs(after - before))), nodes)


def fold(model: ModelProto) -> ModelProto:
    """The graph with everything computed that does not depend on the image.

    Raises:
        StageError: The runtime rejects the graph, or leaves a non-standard operator.
    """
    options = session_options("basic")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(file)
        try:
            open_session(model, options)
        except Exception as failure:  # its exceptions share no base class of their own
            first = (str(failure).splitlines() or [type(failure).__name__])[0]
            raise StageError(f"ONNX Runtime refuses the graph: {first}", "export it again") from failure
        folded = onnx.load_model_from_string(file.read_bytes())
    return _clean(folded, model)


def _clean(folded: ModelProto, model: ModelProto) -> ModelProto:
    """Reduces a graph to standard operators, with names for all nodes, one opset and the given signature."""
    graph = folded.graph
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise StageError(f"folding left {node.domain}.{node.op_type}", "export it with the target's opset")
    strip(folded)
    for entry in [entry for entry in folded.opset_import if entry.domain not in ("", "ai.onnx")]:
        folded.opset_import.remove(entry)
    if opset_of(folded) != opset_of(model):
        raise StageError(f"folding moved the opset to {opset_of(folded)}", "use the pinned onnxruntime")
    folded.ir_version = model.ir_version
    folded.producer_name, folded.producer_version, folded.domain, folded.model_version = "edgeres", "", "", 0
    graph.name = "classifier"
    read = {name for node in graph.node for name in node.input}
    kept = sorted((tensor for tensor in graph.initializer if tensor.name in read), key=lambda tensor: tensor.name)
    copies = [type(tensor).FromString(tensor.SerializeToString()) for tensor in kept]
    graph.ClearField("initializer")
    graph.initializer.extend(copies)
    for field in ("input", "output"):
        graph.ClearField(field)
        getattr(graph, field).extend(getattr(model.graph, field))
    name_nodes(folded)
    _state_kernels(folded)
    return infer(folded)


def _state_kernels(model: ModelProto) -> None:
    """Writes ``kernel_shape`` on every Conv: ONNX may infer it from the weight, which a quantized graph computes."""
    shapes = {tensor.name: tensor.dims[2:] for tensor in model.graph.initializer}
    for node in model.graph.node:
        stated = any(attribute.name == "kernel_shape" for attribute in node.attribute)
        if node.op_type == "Conv" and not stated and node.input[1] in shapes:
            node.attribute.append(helper.make_attribute("kernel_shape", list(shapes[node.input[1]])))
