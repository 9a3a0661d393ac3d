"""Latency of candidates: measured where the target's runtime is on this host, predicted by a roofline elsewhere."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.registry import find_backend
from edgeres.latency.prediction import predict
from edgeres.latency.timer import Timing, interleaved
from edgeres.onnx_graph.imported_graph import ImportedGraph
from edgeres.onnx_graph.write import write_model
from edgeres.onnx_graph.write_imported import write_imported

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgeres.data.size import Size
    from edgeres.model.graph import Graph
    from edgeres.model.weights import Weights
    from edgeres.quant.quantized import Quantized
    from edgeres.targets.target import Target

FLOAT = "float32"
_THREADS = 2
_LIMIT_S = 1.5


def graphs(
    graph: Graph, weights: Weights, variants: dict[str, Quantized], size: Size, target: Target
) -> dict[str, ModelProto]:
    """The float graph and that of each variant, as exported but without metadata."""
    runtime = target.runtime
    if isinstance(graph, ImportedGraph):
        written = {name: write_imported(graph, one.weights, one.table, one.placement) for name, one in variants.items()}
        return {FLOAT: graph.model, **written}
    models = {FLOAT: write_model(graph, weights, size, opset=runtime.opset, ir_version=runtime.ir_version)}
    for name, quantized in variants.items():
        models[name] = write_model(
            graph,
            quantized.weights,
            size,
            opset=runtime.opset,
            ir_version=runtime.ir_version,
            table=quantized.table,
            placement=quantized.placement,
        )
    return models


def runs_here(target: Target) -> bool:
    """Whether the target's runtime opens a plain graph on this host."""
    return (
        target.build_on == "host" and target.runtime.tensorrt is None and find_backend(target.backend).missing() is None
    )


def predicted_ms(models: dict[str, ModelProto], target: Target) -> dict[str, float]:
    """Latency in ms of each graph predicted by a roofline; empty without the device's peaks."""
    predictions = {name: predict(model, target) for name, model in models.items()}
    return {name: prediction.ms for name, prediction in predictions.items() if prediction}


def measured_s(
    models: dict[str, ModelProto], size: Size, channels: int, target: Target, folder: Path
) -> dict[str, float]:
    """Median seconds of one image on this host, all graphs timed interleaved; ``folder`` holds temporary files."""
    image = np.zeros((1, channels, *size), dtype=np.float32)
    with TemporaryDirectory(dir=folder) as place, ExitStack() as stack:
        sessions = {}
        for name, model in models.items():
            path = Path(place, f"{name}.onnx")
            path.write_bytes(model.SerializeToString(deterministic=True))
            session = find_backend(target.backend).session(path, target, threads=_THREADS)
            sessions[name] = stack.enter_context(session)
        runs = {name: lambda session=session: session.run(image) for name, session in sessions.items()}
        latencies = interleaved(runs, Timing(limit_s=_LIMIT_S))
    return {name: latency.p50_ms / 1e3 for name, latency in latencies.items()}
