"""Evaluate: the float network's predictions on every validation image."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import Field

from edgeres.artifacts.artifact import Baseline, Checkpoint
from edgeres.artifacts.results import StageMetrics
from edgeres.errors import StageError
from edgeres.metrics import top1
from edgeres.model.cost import macs, parameters
from edgeres.model.network import Network
from edgeres.pipeline.parallel import in_order
from edgeres.pipeline.stages.fitting import check_chance
from edgeres.pipeline.stages.stage import Context, Stage, StageCost
from edgeres.settings import settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.data.dataset import Dataset


@settings
class Evaluate(Stage):
    """Recipe entry ``evaluate``.

    The first evaluation of a run is its float baseline, which every later accuracy is compared with image by image.

    Attributes:
        batch: Images per batch; it affects speed and memory, not the predictions.
    """

    name = "evaluate"
    version = 2
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
        predictions = self._predictions(artifact, context)
        accuracy = top1(predictions, split.labels)
        side = metadata.preprocess.crop
        metrics = StageMetrics(
            top1=accuracy, macs=macs(artifact.spec, side, side), parameters=parameters(artifact.spec)
        )
        baseline = Baseline(top1=accuracy, predictions=predictions, labels=split.labels, images=split.digest)
        first = metadata.baseline is None or metadata.baseline.images != split.digest
        note = f"float32 on {len(split):,} images" + (", the baseline of this run" if first else "")
        caution = _beside_chance(artifact, baseline, context) if first else ()
        step = self.step(metrics, (note, *caution), caution)
        return replace(artifact, metadata=metadata.after(step, baseline if first else None))

    def _predictions(self, artifact: Checkpoint, context: Context) -> tuple[int, ...]:
        """Predicted class index per validation image.

        Batches are distributed over threads of one torch thread each: the result is the same on any number of cores,
        and threads do not wait for each other in every layer.
        """
        network, threads = Network(artifact.spec, artifact.weights).eval(), torch.get_num_threads()
        classes: list[int] = []
        batches = (images for images, _ in context.validation.batches(artifact.metadata.preprocess, self.batch))
        try:
            with context.progress.task("evaluate", len(context.validation)) as advance:
                for logits in in_order([network] * threads, batches, _logits):
                    if not np.isfinite(logits).all():
                        raise StageError("the network returns NaN or infinity", "its weights or statistics overflow")
                    classes.extend(logits.argmax(1).tolist())
                    advance(len(logits))
        finally:
            torch.set_num_threads(threads)  # a thread's setting is also the default of threads started later
        return tuple(classes)


def _logits(network: Network, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits ``[N,classes]`` of images ``[N,C,H,W]``, computed by the calling thread alone."""
    torch.set_num_threads(1)
    return network.logits(images)


def _beside_chance(artifact: Checkpoint, baseline: Baseline, context: Context) -> tuple[str, ...]:
    """Notes on a baseline at chance, which is an error unless this run trained the network."""
    chance, lineage = baseline.chance(artifact.spec.classes), artifact.metadata.lineage
    allowed = "chance" in context.allow
    if chance.standing == "at" and any(step.stage == "train" for step in lineage):
        return (f"the network answers at chance, training has not improved it yet: {chance.label}",)
    return check_chance(chance, [text for step in lineage for text in step.shown], allowed=allowed)
