"""Recover: distillation from the unpruned network, which is kept where the pruned one stays over the accuracy limit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log, sqrt
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from edgeres.errors import StageError
from edgeres.gate.paired_test import Paired
from edgeres.metrics import cross_entropy, predicted
from edgeres.model.cost import macs
from edgeres.model.network import Network
from edgeres.pipeline.stages.stage import Context, Stage, StageCost
from edgeres.pipeline.stages.training import distillation_method, run_training
from edgeres.settings import plain, settings
from edgeres.training.device import training_device
from edgeres.training.feed import Augment
from edgeres.training.loop import distillation
from edgeres.training.method import Count, Precision, Rate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.artifacts.artifact import Checkpoint
    from edgeres.data.dataset import Dataset
    from edgeres.training.loop import TrainingResult

_ONE_SIDED_95 = 1.645


@settings
class Recover(Stage):
    """A short knowledge distillation (Hinton et al. 2015, arXiv 1503.02531), with or without batch norms.

    Adam's steps do not depend on the scale of a gradient, which a folded network has no norms to even out; with
    the clipped gradient and the one-cycle rate that keeps training without norms stable.

    Attributes:
        epochs: Passes over the training split.
        max_images: Most training images in all epochs; None for no limit.
        batch: Images per step.
        lr: Peak learning rate of AdamW.
        weight_decay: Decoupled weight decay.
        clip: Largest gradient norm over all parameters.
        temperature: Temperature of both softmaxes in the distillation loss.
        alpha: Weight of the distillation loss; the labels have the rest.
        augment: Augmentation; None takes crops of at least 60 % of the area, without mirroring.
        precision: Arithmetic of the forward passes.
        fallback: Whether the unpruned network is used where the recovered one is over the accuracy limit on the tuning
            images; otherwise the recovered one is used in any case.
    """

    name = "recover"
    version = 2
    reads = ("train", "tuning", "seed", "margin")

    epochs: Count = 4
    max_images: Count | None = 10_000
    batch: Count = 64
    lr: Rate = 5e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip: Rate = 1.0
    temperature: Rate = 4.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9
    augment: Augment = Augment(scale=(0.6, 1.0), flip=False)
    precision: Precision = "auto"
    fallback: bool = True

    def cost(self, dataset: Dataset) -> StageCost:
        """A training step and the teacher's forward pass over the training split."""
        return StageCost(4.0 * len(dataset.train))

    def __call__(self, artifact: Checkpoint, context: Context) -> Checkpoint:
        """Trains the pruned network by distillation from its teacher, and drops the teacher.

        A network from which nothing was removed is unchanged.

        Raises:
            StageError: There is no teacher, the network is quantized already, or the loss is not finite.
            DataError: A training split that cannot be learned from.
        """
        teacher = artifact.teacher
        if teacher is None:
            raise StageError("recover: there is no network to learn from", "place recover behind prune")
        if artifact.quant is not None:
            raise StageError("recover: the network is quantized, new weights would not fit", "recover before quantize")
        if artifact.spec == teacher.spec:
            step = self.step(notes=("nothing was removed: there is nothing to recover",))
            return replace(artifact, metadata=artifact.metadata.after(step), teacher=None)
        outcome = self._trained(artifact, teacher, context)
        recovered = replace(artifact, weights=outcome.weights, teacher=None)
        comparison = _compared(teacher, recovered, context)
        worse = self.fallback and comparison.worse
        note = comparison.note(artifact, teacher, fallback=worse)
        metrics = outcome.metrics
        if comparison.n:
            metrics = replace(metrics, tuning_drop_pp=comparison.drop_pp, tuning_loss_rise=comparison.rise)
        step = self.step(metrics, (*outcome.conditions, note), shown=(note,) if worse else ())
        return replace(teacher if worse else recovered, metadata=artifact.metadata.after(step), teacher=None)

    def _trained(self, artifact: Checkpoint, teacher: Checkpoint, context: Context) -> TrainingResult:
        master = Network(teacher.graph, teacher.weights).eval().requires_grad_(False).to(training_device())
        return run_training(
            Network(artifact.graph, artifact.weights),
            distillation(master, self.temperature, self.alpha),
            distillation_method(self),
            artifact.metadata.preprocess,
            context,
            identity=[plain(self), artifact.digest],
            label=f"recover {artifact.metadata.name}",
        )


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Comparison of a recovered network with its teacher on ``n`` tuning images.

    Attributes:
        drop_pp: Top-1 of the teacher less that of the recovered network, in percentage points.
        rise: Mean rise of the cross-entropy per image, in nats.
        low: Lower end of that mean's one-sided 95 % interval over the images.
        margin: Allowed accuracy drop in percentage points; None allows any.
    """

    n: int
    drop_pp: float
    rise: float
    low: float
    margin: float | None

    @property
    def worse(self) -> bool:
        """Whether the recovered network is over the limit: by top-1, or significantly by its loss.

        Few images do not resolve a small drop of top-1, but they resolve the loss. A prediction that turns wrong costs
        at least ``ln 2``, since the probability of its class falls from nearly 1 to below 1/2.
        """
        if self.margin is None or not self.n:
            return False
        return self.drop_pp > self.margin or self.low > self.margin / 100 * log(2)

    def note(self, pruned: Checkpoint, teacher: Checkpoint, *, fallback: bool) -> str:
        """Result of the comparison, and the kept network where it is not the recovered one."""
        if not self.n:
            return "there are no tuning images to compare it with the unpruned network on"
        size = teacher.metadata.preprocess.crop
        share = macs(pruned.graph, *size) / macs(teacher.graph, *size)
        note = (
            f"on {self.n:,} tuning images {share:.1%} of the MACs lose {self.drop_pp:.2f} pp of top-1, "
            f"and the loss changes by {self.rise:+.3g} nats"
        )
        if fallback:
            note += (
                f": over the limit of {self.margin:g} pp, so the unpruned network is used "
                "(recover.fallback=false keeps the pruned one)"
            )
        return note


def _compared(teacher: Checkpoint, recovered: Checkpoint, context: Context) -> _Comparison:
    n, labels = len(context.tuning), context.tuning.labels
    if not n:
        return _Comparison(0, 0.0, 0.0, 0.0, context.margin)
    before, after = (_logits(checkpoint, context) for checkpoint in (teacher, recovered))
    scored = teacher.metadata.head.scored
    paired = Paired.of(predicted(before, scored), predicted(after, scored), labels)
    rise = cross_entropy(after, labels) - cross_entropy(before, labels)
    error = float(rise.std(ddof=1)) / sqrt(n) if n > 1 else 0.0
    mean = float(rise.mean())
    return _Comparison(n, paired.drop, mean, mean - _ONE_SIDED_95 * error, context.margin)


def _logits(checkpoint: Checkpoint, context: Context) -> NDArray[np.float32]:
    """Logits ``[N,classes]`` of the tuning images."""
    network = Network(checkpoint.graph, checkpoint.weights)
    batches = context.tuning.batches(checkpoint.metadata.preprocess)
    return np.concatenate([network.logits(images) for images, _ in batches])
