"""Sensitivity of each layer: KL divergence and SQNR with that layer alone quantized."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from edgeres.artifacts.results import LayerSensitivity
from edgeres.errors import StageError
from edgeres.metrics import sqnr_db
from edgeres.model.cost import layer_macs
from edgeres.model.network import Network
from edgeres.model.operation import IMAGE
from edgeres.quant.streaming import each_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.data.size import Size
    from edgeres.model.graph import Graph
    from edgeres.model.weights import Weights
    from edgeres.progress import Advance
    from edgeres.quant.quantized import Quantized
    from edgeres.recovery.context import Candidate
    from edgeres.recovery.evaluator import Evaluator

    Sampled = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def layer_noise(candidate: Candidate, evaluator: Evaluator) -> tuple[LayerSensitivity, ...]:
    """Sensitivity of every layer with integer weights, in order of execution; ``StageError`` for a logit of NaN."""
    task, labels = evaluator.task, evaluator.labels[: len(evaluator.few)]
    few, quantized, size = evaluator.few, candidate.quantized, evaluator.preprocess.crop
    reference = evaluator.reference[: len(few)]
    with evaluator.progress.task("one layer at a time", len(few)) as advance:
        by_layer = one_layer_logits(candidate.reference, quantized, evaluator.images(few), task.sampled, advance)
    costs = layer_macs(quantized.graph, *size)
    rows = []
    for layer, logits in by_layer.items():
        noise, divergence = sqnr_db(reference, logits), float(task.divergences(reference, logits).mean())
        if not isfinite(divergence):
            raise StageError(f"with {layer} alone in integers the network returns NaN", "check its weights")
        rows.append(
            LayerSensitivity(
                layer=layer,
                sqnr_db=noise if isfinite(noise) else None,
                kl=max(0.0, divergence),
                top1=task.score(task.predictions(logits, labels), labels) if task.name == "classification" else None,
                macs=costs[layer],
            )
        )
    return tuple(rows)


def most_sensitive(rows: tuple[LayerSensitivity, ...]) -> tuple[str, ...]:
    """Names of the layers by descending KL divergence, ties in order of execution."""
    return tuple(row.layer for row in sorted(rows, key=lambda row: -row.kl))


def passes(graph: Graph, layers: frozenset[str], size: Size) -> float:
    """Network passes per image: the float pass, and a branch from each layer to the logits, weighted by MACs."""
    costs = layer_macs(graph, *size)
    left, total, passes_per_image = sum(costs.values()), sum(costs.values()), 1.0
    for op in graph.weighted:
        if op.name in layers:
            passes_per_image += left / total
        left -= costs[op.name]
    return passes_per_image


def one_layer_logits(
    reference: Weights,
    quantized: Quantized,
    batches: Iterable[NDArray[np.float32]],
    sampled: Sampled,
    advance: Advance | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Outputs ``[N,...]``, of which ``sampled`` are kept, by name of the one layer that is quantized.

    For each layer everything else is in float (Wu et al. 2020, arXiv 2004.09602, section 6.1). The operations before a
    layer are computed once for all layers: at every quantized layer a branch runs from there to the logits.
    ``reference`` are float weights with the same channel scales as ``quantized``.
    """
    by_layer: dict[str, list[NDArray[np.float32]]] = {}
    for image in each_image(_Branching(reference, quantized, sampled), batches, _Branching.branches, advance):
        for layer, logits in image.items():
            by_layer.setdefault(layer, []).append(logits)
    return {layer: np.concatenate(rows) for layer, rows in by_layer.items()}


class _Branching(Network):
    """The float network with branches through single layers of the quantized network."""

    def __init__(self, reference: Weights, quantized: Quantized, sampled: Sampled) -> None:
        super().__init__(quantized.graph, reference)
        self.quantized_network = quantized.network()
        self.layers = quantized.placement.weighted
        self.sampled = sampled

    def branches(self, image: Tensor) -> dict[str, NDArray[np.float32]]:
        """Outputs ``[1,...]`` of one image by quantized layer."""
        by_layer, values, ops = {}, {IMAGE: image}, self.graph.ops
        for place, op in enumerate(ops):
            if op.name in self.layers:
                branch = dict(values)
                self.quantized_network.step(op, branch)
                for later in ops[place + 1 :]:
                    self.step(later, branch)
                by_layer[op.name] = self.sampled(branch[self.graph.output].numpy())
            self.step(op, values)
        return by_layer
