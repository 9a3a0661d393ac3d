"""Evaluate: the float network's predictions on every validation image."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import Field

from edgeres.errors import StageError
from edgeres.model.cost import macs, parameters
from edgeres.model.network import Network
from edgeres.pipeline.parallel import in_order
from edgeres.pipeline.stages.fitting import check_chance
from edgeres.pipeline.stages.stage import Context, Stage, StageCost
from edgeres.settings import settings
from edgeres.tasks.measure import baseline_of, batch_size, chance_of, metrics_of
from edgeres.tasks.registry import find_task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edgeres.artifacts.artifact import Baseline, Checkpoint
    from edgeres.data.dataset import Dataset


@settings
class Evaluate(Stage):
    """Recipe entry ``evaluate``.

    The first evaluation of a run is its float baseline, which every later accuracy is compared with image by image.

    Attributes:
        batch: Images per batch; it affects speed and memory, not the predictions.
    """

    name = "evaluate"
    version = 3
    reads = ("validation", "allow")

    batch: Annotated[int, Field(ge=1)] = 32

    def cost(self, dataset: Dataset) -> StageCost:
        """One pass over the validation split."""
        return StageCost(float(len(dataset.validation)))

    def __call__(self, artifact: Checkpoint, context: Context) -> Checkpoint:
        """Measures the network in float32 on the validation split.

        Raises:
            StageError: The network is quantized already, or its logits are not finite.
            ChanceError: A network that was loaded and not trained by this run is at chance.
        """
        if artifact.quant is not None:
            raise StageError("evaluate measures the float network", "put '- evaluate' before '- quantize'")
        split, metadata = context.validation, artifact.metadata
        task = find_task(metadata.head)
        baseline = baseline_of(task, self._outputs(artifact, context), split, metadata.preprocess)
        metrics = replace(
            metrics_of(task, baseline.score),
            macs=macs(artifact.graph, *metadata.preprocess.crop),
            parameters=parameters(artifact.graph),
        )
        first = metadata.baseline is None or metadata.baseline.images != split.digest
        note = f"float32 on {len(split):,} images" + (", the baseline of this run" if first else "")
        caution = _beside_chance(artifact, baseline, context) if first else ()
        step = self.step(metrics, (note, *caution), caution)
        return replace(artifact, metadata=metadata.after(step, baseline if first else None))

    def _outputs(self, artifact: Checkpoint, context: Context) -> Iterator[NDArray[np.float32]]:
        """Outputs ``[n,...]`` of the validation images, in batches.

        Batches are distributed over threads of one torch thread each: the result is the same on any number of cores,
        and threads do not wait for each other in every layer.
        """
        split, preprocess = context.validation, artifact.metadata.preprocess
        size = batch_size(find_task(artifact.metadata.head), preprocess, self.batch)
        network, threads = Network(artifact.graph, artifact.weights).eval(), torch.get_num_threads()
        batches = (images for images, _ in split.batches(preprocess, size))
        try:
            with context.progress.task("evaluate", len(split)) as advance:
                for logits in in_order([network] * threads, batches, _logits):
                    if not np.isfinite(logits).all():
                        raise StageError("the network returns NaN or infinity", "its weights or statistics overflow")
                    yield logits
                    advance(len(logits))
        finally:
            torch.set_num_threads(threads)  # a thread's setting is also the default of threads started later


def _logits(network: Network, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits ``[N,classes]`` of images ``[N,C,H,W]``, computed by the calling thread alone."""
    torch.set_num_threads(1)
    return network.logits(images)


def _beside_chance(artifact: Checkpoint, baseline: Baseline, context: Context) -> tuple[str, ...]:
    """Notes on a baseline at chance, which is an error unless this run trained the network."""
    task, lineage = find_task(artifact.metadata.head), artifact.metadata.lineage
    chance = chance_of(task, baseline, artifact.spec.classes)
    allowed = "chance" in context.allow
    if chance is None:
        return ()
    if chance.standing == "at" and any(step.stage == "train" for step in lineage):
        return (f"the network answers at chance, training has not improved it yet: {chance.label}",)
    return check_chance(chance, [text for step in lineage for text in step.shown], allowed=allowed)
