"""Export: the ONNX files, checked for validity, costs and numerical parity with torch, operation by operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import torch

from edgeres.artifacts.artifact import Checkpoint, Exported, File
from edgeres.artifacts.results import StageMetrics
from edgeres.errors import StageError
from edgeres.model.cost import macs, parameters
from edgeres.model.graph import IMAGE, graph
from edgeres.model.network import Network
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.execute import trace
from edgeres.onnx_graph.stored_weights import require_room
from edgeres.onnx_graph.write import LOGITS, write_model
from edgeres.pipeline.stages.quantization import write_table
from edgeres.pipeline.stages.stage import Context, Stage, StageCost
from edgeres.quant.placement import Placement, place
from edgeres.quant.quant_table import narrow_channels
from edgeres.quant.quantized import QuantNetwork
from edgeres.settings import settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.data.dataset import Dataset

_COMPARED = 4
"""Calibration images on which every operation is compared."""

_TOLERANCE = 1e-4
"""Largest difference of one operation, relative to its largest output; float32 sums in another order are below it."""


@settings
class Export(Stage):
    """Recipe entry ``export``."""

    name = "export"
    version = 3
    reads = ("scheme", "runtime", "calibration")

    def cost(self, dataset: Dataset) -> StageCost:
        """Writing and checking the graphs, whatever the data."""
        return StageCost(fixed_s=3.0)

    def __call__(self, artifact: Checkpoint, context: Context) -> Exported:
        """Writes ``model.onnx``, ``model.float.onnx`` and ``calibration.json``.

        Raises:
            StageError: A file is not valid ONNX, has other MACs or parameters than the closed form, differs
                numerically from torch, or has an integer layer whose accumulator may overflow int32.
        """
        scheme = context.target.scheme
        table = artifact.quant
        placement = place(graph(artifact.spec), scheme, table.float_layers) if table and scheme else None
        float_model = _write(artifact, context, None)
        model = _write(artifact, context, placement) if placement else float_model
        counted_macs, counted_parameters = _checked_costs(artifact, float_model)
        _checked_costs(artifact, model)
        require_room(model)
        images = context.calibration.take(range(min(_COMPARED, len(context.calibration))))
        batch, _ = next(images.batches(artifact.metadata.preprocess))
        float_delta = _parity(artifact, float_model, None, batch)
        int8_delta = _parity(artifact, model, placement, batch) if placement else None
        saved_float = File.written(float_model, context.workspace / "model.float.onnx")
        saved = File.written(model, context.workspace / "model.onnx")
        metrics = StageMetrics(
            macs=counted_macs,
            parameters=counted_parameters,
            float_max_relative_delta=float_delta,
            int8_max_relative_delta=int8_delta,
            mib=saved.path.stat().st_size / 2**20,
        )
        scales = write_table(artifact.metadata, scheme, table, context.workspace) if table and scheme else None
        return Exported(artifact.metadata.after(self.step(metrics, _notes(artifact))), saved, saved_float, scales)


def _write(artifact: Checkpoint, context: Context, placement: Placement | None) -> ModelProto:
    runtime, side = context.target.runtime, artifact.metadata.preprocess.crop
    return write_model(
        artifact.spec,
        (artifact.deployed or artifact.weights) if placement else artifact.weights,
        (side, side),
        opset=runtime.opset,
        ir_version=runtime.ir_version,
        metadata=artifact.metadata.model_props,
        table=artifact.quant if placement else None,
        placement=placement,
    )


def _notes(artifact: Checkpoint) -> tuple[str, ...]:
    """Notes on layers whose weight scales were raised for their biases."""
    if artifact.quant is None:
        return ()
    channels = narrow_channels(artifact.quant, artifact.spec, artifact.deployed or artifact.weights)
    if not channels:
        return ()
    names = ", ".join(list(channels)[:3]) + (", ..." if len(channels) > 3 else "")
    return (
        f"{sum(channels.values())} channels of {len(channels)} layers ({names}) have weights so small beside their "
        "bias that int32 could not hold it at the scale of the weights: their scale was raised",
    )


def _checked_costs(artifact: Checkpoint, model: ModelProto) -> tuple[int, int]:
    """MACs and parameters of a graph, which is valid ONNX and has the costs of the closed form."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as failure:
        raise StageError(f"the exported graph is not valid ONNX: {failure}", "please report it") from failure
    size = artifact.metadata.preprocess.crop
    wanted = macs(artifact.spec, size, size), parameters(artifact.spec)
    counted = operator_counts.macs(model), operator_counts.parameters(model)
    if counted != wanted:
        raise StageError(
            f"the exported graph counts {counted} MACs and parameters, the spec {wanted}", "please report it"
        )
    return counted


def _parity(artifact: Checkpoint, model: ModelProto, placement: Placement | None, images: NDArray[np.float32]) -> float:
    """Largest relative difference of any operation between ONNX Runtime and torch, both given the same inputs.

    The comparison by operation is strict: end to end, one activation that rounds to the other side of a step could hide
    or excuse a defect.

    Raises:
        StageError: The difference is above the tolerance; the message names the operation.
    """
    network = (
        QuantNetwork(artifact.spec, artifact.deployed or artifact.weights, artifact.quant, placement)
        if placement and artifact.quant
        else Network(artifact.spec, artifact.weights)
    )
    network.eval()
    ops = network.graph.ops
    names = {op.name: LOGITS if op.name == network.graph.output else op.name for op in ops}
    traced = trace(model, images, list(names.values()))
    values = {op: torch.from_numpy(traced[name]) for op, name in names.items()}
    values[IMAGE] = torch.from_numpy(images)
    worst = 0.0
    with torch.inference_mode():
        for op in ops:
            expected = network.apply_op(op, [network.read(op, index, values) for index in range(len(op.inputs))])
            delta = (expected - values[op.name]).abs().max().item() / max(expected.abs().max().item(), 1e-6)
            if not delta <= _TOLERANCE:
                raise StageError(
                    f"{op.name} differs between ONNX Runtime and torch by {delta:.1e} of its range",
                    f"at most {_TOLERANCE:.0e} is float32 noise; please report it",
                )
            worst = max(worst, delta)
    return worst
