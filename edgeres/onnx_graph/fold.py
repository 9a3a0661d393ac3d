"""Preparation of an imported float graph: conversion to a target's opset, and folding for inference.

The folding of constants, batch norms, identities and dropout is ONNX Runtime's offline optimisation at its basic level,
which uses only standard operators (onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html). Its
result is reduced to the graph and compared with the original by running both.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
from onnx import helper

from edgeres.errors import StageError
from edgeres.onnx_graph.canonical_form import canonical_form
from edgeres.onnx_graph.decomposition import decompose
from edgeres.onnx_graph.edit import retain
from edgeres.onnx_graph.execute import load, probe, relative_delta, rounding, runner, session_options
from edgeres.onnx_graph.graph_index import attribute, opset_of
from edgeres.onnx_graph.opset import to_opset
from edgeres.onnx_graph.read import infer, name_nodes, require_float, strip
from edgeres.onnx_graph.signature import normalise, signature
from edgeres.onnx_graph.static_shapes import with_static_shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.data.size import Size
    from edgeres.targets.runtime import Runtime

TOLERANCE = 1e-4
"""Largest ``max|delta| / max|logit|`` of another order of float32 sums in a network that does not enlarge rounding."""

_MARGIN, _MOST = 4.0, 1e-2
"""Multiple of the measured rounding that is allowed in other networks, and the most in any."""

_PROBES = 2
_BROKEN_UP = ("LpNormalization",)
"""Operators of every opset that few runtimes have."""

_FUSING_NORMS = ("ConvBNFusion", "ConvMulFusion", "ConvAddFusion", "MatMulBNFusion")
"""Names in ONNX Runtime of what changes the weights of a convolution."""


class Prepared(NamedTuple):
    """A folded float graph in the target's opset.

    ``delta`` is ``max|delta logit|`` against the original file, ``nodes`` the number of nodes in that file and now.
    """

    model: ModelProto
    delta: float
    nodes: tuple[int, int]


def prepare(model: ModelProto, runtime: Runtime, size: Size | None = None) -> Prepared:
    """Normalises the signature, converts the opset and folds an imported graph, and checks its function.

    ``size`` is that of the image where the graph leaves it open.

    Raises:
        ModelError: It is quantized already, no classifier, or works for its one batch size only.
        StageError: It has no equivalent in the opset, or the result differs by more than rounding.
    """
    require_float(model)
    static = with_static_shapes(fold(normalise(model, size)))
    decompose(static, _BROKEN_UP)
    folded = fold(canonical_form(to_opset(static, *runtime.version_for(opset_of(static)))))
    images = probe(folded, _PROBES)
    original = runner(model, optimise=False)
    step = signature(model).batch or 1
    padded = np.repeat(images, step, axis=0)  # a file with a fixed batch runs each image that many times
    before = np.concatenate([original(padded[start : start + step])[:1] for start in range(0, len(padded), step)])
    if not np.isfinite(before).all():
        raise StageError("the graph returns NaN or infinity for random images", "look at its weights")
    if signature(model).batch is None and relative_delta(before, original(images)) > TOLERANCE:
        what = "the file's answer to an image depends on the other images of its batch, as in training mode"
        raise StageError(what, "call model.eval() before torch.onnx.export")
    after = runner(folded)(images)
    if after.shape != before.shape or relative_delta(before, after) > tolerance(folded, images):
        what = f"the folded graph computes something else for a batch of {_PROBES}"
        raise StageError(what, "export it with a symbolic batch axis and the target's opset")
    return Prepared(folded, float(np.max(np.abs(after - before))), (len(model.graph.node), len(folded.graph.node)))


def tolerance(model: ModelProto, images: NDArray[np.float32]) -> float:
    """Largest ``max|delta| / max|logit|`` of a graph that computes the same function in another order of sums."""
    return min(max(TOLERANCE, _MARGIN * rounding(model, images)), _MOST)


def fold(model: ModelProto, *, norms: bool = True) -> ModelProto:
    """The graph with everything computed that does not depend on the image; ``norms`` go into convolutions too.

    Raises:
        StageError: The runtime rejects the graph, or leaves a non-standard operator.
    """
    options = session_options("basic")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(file)
        load(model, options, without=() if norms else _FUSING_NORMS)
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
