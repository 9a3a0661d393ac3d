"""What quantizing stages share: evaluator of candidates, context of techniques, and the file of scales."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edgeres.artifacts.artifact import Checkpoint, File, ModelMetadata
from edgeres.quant.calibration_table import NAME, CalibrationTable, encode
from edgeres.recovery.context import QuantizationContext
from edgeres.recovery.evaluator import Evaluator

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.pipeline.stages.stage import Context
    from edgeres.quant.calibrator import CalibratorName
    from edgeres.quant.qparams import WeightMethod
    from edgeres.quant.quant_table import QuantTable
    from edgeres.targets.target import QuantScheme


def evaluator_of(artifact: Checkpoint, context: Context, margin: float | None) -> Evaluator:
    """Evaluator of candidates against the float network on the tuning images."""
    preprocess = artifact.metadata.preprocess
    return Evaluator(
        artifact.spec, artifact.weights, context.tuning, preprocess, margin=margin, progress=context.progress
    )


def quantization_context(
    artifact: Checkpoint,
    context: Context,
    calibrator: CalibratorName | Literal["auto"],
    weight_method: WeightMethod | Literal["auto"],
    *,
    margin: float | None,
    seed: int,
    scales: CalibrationTable | None = None,
) -> QuantizationContext:
    """Context of the techniques for the target's scheme."""
    scheme = context.target.scheme
    assert scheme is not None
    return QuantizationContext(
        spec=artifact.spec,
        weights=artifact.weights,
        scheme=scheme,
        calibration=context.calibration,
        preprocess=artifact.metadata.preprocess,
        seed=seed,
        evaluator=evaluator_of(artifact, context, margin),
        progress=context.progress,
        calibrator=calibrator,
        weight_method=weight_method,
        scales=scales,
    )


def write_table(metadata: ModelMetadata, scheme: QuantScheme, table: QuantTable, folder: Path) -> File:
    """Writes ``calibration.json``: every scale with the identity of data, weights and scheme."""
    saved = CalibrationTable(model=metadata.name, preprocess=metadata.preprocess, scheme=scheme, table=table)
    path = folder / NAME
    path.write_text(encode(saved), encoding="utf-8")
    return File.of(path)
