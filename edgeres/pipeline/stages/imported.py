"""Imported graphs in quantizing stages: read with their placement, and written as the file that is deployed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from edgeres.artifacts.artifact import Checkpoint, Exported, File
from edgeres.errors import StageError
from edgeres.onnx_graph.graph_import import import_graph
from edgeres.onnx_graph.imported_graph import ImportedGraph
from edgeres.onnx_graph.imported_placement import placement_in, quantized_by_nncf
from edgeres.onnx_graph.nncf import SingleImages, quantize_float_graph
from edgeres.onnx_graph.rewrite import rewrite
from edgeres.onnx_graph.roles import float_nodes
from edgeres.onnx_graph.stored_weights import require_room
from edgeres.onnx_graph.write_imported import write_imported
from edgeres.pipeline.stages.operation_parity import largest_difference
from edgeres.pipeline.stages.quantization import Subject, raised_scales, write_table
from edgeres.quant.quant_table import calibration_digest

if TYPE_CHECKING:
    from edgeres.artifacts.artifact import Step
    from edgeres.pipeline.stages.stage import Context
    from edgeres.quant.quant_table import QuantTable
    from edgeres.quant.quantized import Quantized

_COMPARED = 4
"""Calibration images on which every operation is compared."""


def float_subject(
    artifact: Checkpoint | Exported, context: Context, stage: str, *, images: int | None = None
) -> Subject:
    """The folded float network of a stage; see ``read_imported`` for ``images``.

    Raises:
        StageError: It has foldable batch norms, or is quantized already.
    """
    if isinstance(artifact, Checkpoint):
        if artifact.spec.norm:
            raise StageError(f"{stage} needs folded batch norms", f"put '- fold_batchnorm' before '- {stage}'")
        quantized = artifact.quant is not None
    else:
        quantized = artifact.scales is not None
    if quantized:
        raise StageError(f"{stage} needs a float network", f"put '- {stage}' before what quantizes it")
    if isinstance(artifact, Checkpoint):
        return Subject(artifact.graph, artifact.weights)
    return read_imported(artifact, context, images=images)


def read_imported(artifact: Exported, context: Context, *, images: int | None = None) -> Subject:
    """An imported graph with NNCF's placement for the target, and NNCF's network where its weights fit the scheme.

    ``images`` is the number of calibration images that NNCF reads, None for all; NNCF's network is kept for all alone.

    Raises:
        StageError: NNCF rejects the graph, or its result cannot be rewritten to the scheme.
    """
    scheme, preprocess = context.target.scheme, artifact.metadata.preprocess
    assert scheme is not None, "asked only where there are integers"
    model = onnx.load_model_from_string(artifact.float_model.path.read_bytes())
    with context.progress.task("read the graph", 1) as advance:
        imported = import_graph(model)
        advance(1)
    split = context.calibration if images is None else context.calibration.take(range(images))
    floats, singles = float_nodes(model, scheme), SingleImages(split, preprocess)
    outputs = scheme.pools and not context.target.runtime.fused_activations
    with context.progress.task("place Q/DQ pairs by NNCF", len(split)) as advance:
        made = quantize_float_graph(
            model, singles, scheme, float_nodes=floats, integer_outputs=outputs, advance=advance
        )
    rewritten = rewrite(made, scheme)
    graph = imported.graph.placed(placement_in(imported.graph, rewritten))
    eight_bits = {scheme.bits_of(name) for name in graph.placement.weighted} <= {8}
    data = calibration_digest(context.calibration, preprocess)
    by_nncf = (
        quantized_by_nncf(graph, imported.weights, rewritten, scheme, singles, data=data)
        if eight_bits and images is None
        else None
    )
    return Subject(graph, imported.weights, by_nncf, _notes(graph, imported.relative))


def _notes(graph: ImportedGraph, relative: float) -> tuple[str, ...]:
    layers = [op for op in graph.ops if op.kind != "operator"]
    said = f"{len(layers)} layers and {len(graph.ops) - len(layers)} other operators, computed in torch"
    notes = [f"{said}: logits within {relative:.1e} of ONNX Runtime's"]
    if graph.by_runtime:
        kinds = ", ".join(sorted({graph[name].operator for name in graph.by_runtime}))
        notes.append(f"torch has no form of {kinds}: ONNX Runtime computes these, without gradients")
    return tuple(notes)


def written(artifact: Exported, quantized: Quantized, table: QuantTable, step: Step, context: Context) -> Exported:
    """The quantized file with its scales; the largest difference of an operation from torch is added to the metrics.

    Raises:
        StageError: The accumulator of a layer may overflow int32, or an operation differs from torch.
    """
    graph, scheme = quantized.graph, quantized.scheme
    assert isinstance(graph, ImportedGraph)
    model = write_imported(graph, quantized.weights, quantized.table, quantized.placement)
    helper.set_model_props(model, artifact.metadata.model_props)
    require_room(model)
    images = context.calibration.take(range(min(_COMPARED, len(context.calibration))))
    batch, _ = next(images.batches(artifact.metadata.preprocess))
    delta = largest_difference(quantized.network(), model, graph.tensors, batch)
    metrics = replace(step.metrics, int8_max_relative_delta=delta)
    notes = (*step.notes, *raised_scales(quantized.table, graph, quantized.weights))
    metadata = artifact.metadata.after(replace(step, metrics=metrics, notes=notes))
    file = File.written(model, context.workspace / "model.onnx")
    scales = write_table(artifact.metadata, scheme, table, context.workspace)
    return Exported(metadata, file, artifact.float_model, scales)
