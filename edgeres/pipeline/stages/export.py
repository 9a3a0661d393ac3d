"""Export: the ONNX files, checked for validity, costs and numerical parity with torch, operation by operation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import onnx
import torch

from edgeres.artifacts.artifact import Checkpoint, Exported, File, Step
from edgeres.errors import StageError
from edgeres.model.cost import macs, parameters
from edgeres.model.graph import IMAGE, graph
from edgeres.model.network import Network
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.execute import trace
from edgeres.onnx_graph.stored_weights import require_room
from edgeres.onnx_graph.write import LOGITS, write_model
from edgeres.pipeline.stages.stage import Read
from edgeres.quant.calibration_table import NAME, CalibrationTable, encode
from edgeres.quant.placement import place
from edgeres.quant.quant_table import narrow_channels
from edgeres.quant.quantized import QuantNetwork
from edgeres.settings import canonical, plain, settings

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.pipeline.stages.stage import Context
    from edgeres.quant.placement import Placement
    from edgeres.targets.target import QuantScheme

_COMPARED = 4
"""Calibration images on which every operation is compared."""

_TOLERANCE = 1e-4
"""Largest difference of one operation, relative to its largest output; float32 sums in another order are below it."""


@settings
class Export:
    """Recipe entry ``export``."""

    name: ClassVar[str] = "export"
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[Read, ...]] = ("scheme", "runtime", "calibration")

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
        _check(artifact, float_model)
        _check(artifact, model)
        require_room(model)
        images = context.calibration.take(range(min(_COMPARED, len(context.calibration))))
        batch, _ = next(images.batches(artifact.metadata.preprocess))
        metrics: dict[str, float] = {
            "macs": operator_counts.macs(model),
            "parameters": operator_counts.parameters(model),
        }
        metrics["float_max_relative_delta"] = _parity(artifact, float_model, None, batch)
        if placement:
            metrics["int8_max_relative_delta"] = _parity(artifact, model, placement, batch)
        saved_float = _save(float_model, context.workspace / "model.float.onnx")
        saved = _save(model, context.workspace / "model.onnx")
        metrics["mib"] = saved.path.stat().st_size / 2**20
        step = Step(stage=self.name, settings=plain(self), metrics=metrics, notes=_notes(artifact))
        scales = _save_scales(artifact, scheme, context.workspace / NAME)
        return Exported(artifact.metadata.after(step), saved, saved_float, scales)


def _write(artifact: Checkpoint, context: Context, placement: Placement | None) -> ModelProto:
    runtime, preprocess = context.target.runtime, artifact.metadata.preprocess
    metadata = {
        "edgeres.classes": canonical(list(artifact.metadata.classes)),
        "edgeres.model": artifact.metadata.name,
        "edgeres.preprocess": canonical(plain(preprocess)),
    }
    return write_model(
        artifact.spec,
        artifact.deployed if placement and artifact.deployed is not None else artifact.weights,
        (preprocess.crop, preprocess.crop),
        opset=runtime.opset,
        ir_version=runtime.ir_version,
        metadata=metadata,
        table=artifact.quant if placement else None,
        placement=placement,
    )


def _notes(artifact: Checkpoint) -> tuple[str, ...]:
    """Notes on layers whose weight scales were raised for their biases."""
    if artifact.quant is None:
        return ()
    found = narrow_channels(artifact.quant, artifact.spec, artifact.deployed or artifact.weights)
    if not found:
        return ()
    names = ", ".join(list(found)[:3]) + (", ..." if len(found) > 3 else "")
    return (
        f"{sum(found.values())} channels of {len(found)} layers ({names}) have weights so small beside their bias that "
        "int32 could not hold it at the scale of the weights: their scale was raised",
    )


def _check(artifact: Checkpoint, model: ModelProto) -> None:
    """Checks that the graph is valid ONNX and has the costs of the closed form."""
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


def _parity(artifact: Checkpoint, model: ModelProto, placement: Placement | None, images: NDArray[np.float32]) -> float:
    """Largest relative difference of any operation between ONNX Runtime and torch, both given the same inputs.

    The comparison by operation is strict: end to end, one activation that rounds to the other side of a step could hide
    or excuse a defect.

    Raises:
        StageError: The difference is above the tolerance; the message names the operation.
    """
    if placement and artifact.quant:
        weights = artifact.weights if artifact.deployed is None else artifact.deployed
        network: Network = QuantNetwork(artifact.spec, weights, artifact.quant, placement)
    else:
        network = Network(artifact.spec, artifact.weights)
    network.eval()
    ops = network.graph.ops
    names = {op.name: LOGITS if op.name == network.graph.output else op.name for op in ops}
    found = trace(model, images, list(names.values()))
    values = {op: torch.from_numpy(found[name]) for op, name in names.items()}
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


def _save(model: ModelProto, path: Path) -> File:
    path.write_bytes(model.SerializeToString(deterministic=True))
    return File.of(path)


def _save_scales(artifact: Checkpoint, scheme: QuantScheme | None, path: Path) -> File | None:
    """Writes ``calibration.json``: every scale with the identity of data, weights and scheme."""
    if artifact.quant is None or scheme is None:
        return None
    metadata = artifact.metadata
    saved = CalibrationTable(model=metadata.name, preprocess=metadata.preprocess, scheme=scheme, table=artifact.quant)
    path.write_text(encode(saved), encoding="utf-8")
    return File.of(path)
