"""What quantizing stages share: evaluator of candidates, context of techniques, and the file of scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from edgeres.artifacts.artifact import Checkpoint, Exported, File, ModelMetadata
from edgeres.quant.calibration_table import NAME, CalibrationTable, encode
from edgeres.quant.quant_table import narrow_channels
from edgeres.recovery.context import QuantizationContext
from edgeres.recovery.evaluator import Evaluator
from edgeres.tasks.registry import find_task

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.model.graph import Graph
    from edgeres.model.weights import Weights
    from edgeres.pipeline.stages.stage import Context
    from edgeres.quant.calibrator import CalibratorName
    from edgeres.quant.qparams import WeightMethod
    from edgeres.quant.quant_table import QuantTable
    from edgeres.quant.quantized import Quantized
    from edgeres.targets.target import QuantScheme


Quantizable = TypeVar("Quantizable", Checkpoint, Exported)
"""A network from weights, or an imported graph, in stages that give back what they take."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A folded float network that is quantized; ``by_nncf`` is NNCF's network of an imported graph."""

    graph: Graph
    weights: Weights
    by_nncf: Quantized | None = None
    notes: tuple[str, ...] = ()


def evaluator_of(
    graph: Graph, weights: Weights, metadata: ModelMetadata, context: Context, margin: float | None
) -> Evaluator:
    """Evaluator of candidates against the float network on the tuning images."""
    return Evaluator(
        graph,
        weights,
        context.tuning,
        metadata.preprocess,
        task=find_task(metadata.head),
        margin=margin,
        progress=context.progress,
    )


def quantization_context(
    subject: Subject,
    artifact: Checkpoint | Exported,
    context: Context,
    calibrator: CalibratorName | Literal["auto"],
    weight_method: WeightMethod | Literal["auto"],
    *,
    margin: float | None,
    seed: int,
    scales: CalibrationTable | None = None,
) -> QuantizationContext:
    """Context of the techniques for the target's scheme; candidates are compared on the tuning images."""
    scheme, preprocess = context.target.scheme, artifact.metadata.preprocess
    assert scheme is not None
    return QuantizationContext(
        graph=subject.graph,
        weights=subject.weights,
        scheme=scheme,
        calibration=context.calibration,
        preprocess=preprocess,
        seed=seed,
        evaluator=evaluator_of(subject.graph, subject.weights, artifact.metadata, context, margin),
        progress=context.progress,
        calibrator=calibrator,
        weight_method=weight_method,
        scales=scales,
        by_nncf=subject.by_nncf,
    )


def raised_scales(table: QuantTable, graph: Graph, weights: Weights) -> tuple[str, ...]:
    """Notes on layers whose weight scales were raised for their biases."""
    channels = narrow_channels(table, graph, weights)
    if not channels:
        return ()
    names = ", ".join(list(channels)[:3]) + (", ..." if len(channels) > 3 else "")
    return (
        f"{sum(channels.values())} channels of {len(channels)} layers ({names}) have weights so small beside their "
        "bias that int32 could not hold it at the scale of the weights: their scale was raised",
    )


def write_table(metadata: ModelMetadata, scheme: QuantScheme, table: QuantTable, folder: Path) -> File:
    """Writes ``calibration.json``: every scale with the identity of data, weights and scheme."""
    saved = CalibrationTable(model=metadata.name, preprocess=metadata.preprocess, scheme=scheme, table=table)
    path = folder / NAME
    path.write_text(encode(saved), encoding="utf-8")
    return File.of(path)
