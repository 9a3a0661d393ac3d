"""Sensitivity of each layer: KL divergence and SQNR with that layer alone quantized."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from edgeres.artifacts.results import LayerSensitivity
from edgeres.errors import StageError
from edgeres.metrics import kl, sqnr_db, top1
from edgeres.model.cost import layer_macs
from edgeres.model.graph import graph
from edgeres.quant.algorithms.sensitivity import one_layer_logits

if TYPE_CHECKING:
    from edgeres.model.spec import ResNetSpec
    from edgeres.recovery.context import Candidate
    from edgeres.recovery.evaluator import Evaluator


def layer_noise(candidate: Candidate, evaluator: Evaluator) -> tuple[LayerSensitivity, ...]:
    """Sensitivity of every layer with integer weights, in order of execution, on a few tuning images.

    Args:
        candidate: Gives each layer's rounded weight and the scale of its input.
        evaluator: Gives the images and the float logits.

    Raises:
        StageError: Rounding a layer gives logits that are not finite.
    """
    few, quantized, side = evaluator.few, candidate.quantized, evaluator.preprocess.crop
    reference = evaluator.reference[: len(few)]
    with evaluator.progress.task("one layer at a time", len(few)) as advance:
        found = one_layer_logits(candidate.reference, quantized, evaluator.images(few), advance)
    costs = layer_macs(quantized.spec, side, side)
    rows = []
    for layer, logits in found.items():
        noise, divergence = sqnr_db(reference, logits), kl(reference, logits)
        if not isfinite(divergence):
            raise StageError(f"with {layer} alone in integers the network returns NaN", "check its weights")
        rows.append(
            LayerSensitivity(
                layer=layer,
                sqnr_db=noise if isfinite(noise) else None,
                kl=max(0.0, divergence),
                top1=top1(logits.argmax(1).tolist(), few.labels),
                macs=costs[layer],
            )
        )
    return tuple(rows)


def most_sensitive(rows: tuple[LayerSensitivity, ...]) -> tuple[str, ...]:
    """Names of the layers by descending KL divergence, ties in order of execution."""
    return tuple(row.layer for row in sorted(rows, key=lambda row: -row.kl))


def passes(spec: ResNetSpec, layers: frozenset[str], side: int) -> float:
    """Network passes per image: the float pass, and a branch from each layer to the logits, weighted by MACs."""
    costs = layer_macs(spec, side, side)
    left, total, found = sum(costs.values()), sum(costs.values()), 1.0
    for op in graph(spec).weighted:
        if op.name in layers:
            found += left / total
        left -= costs[op.name]
    return found
