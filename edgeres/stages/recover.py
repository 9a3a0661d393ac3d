"""Recover: what pruning cost is learnt back from the network that was pruned."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from edgeres.artifact import Checkpoint, Step
from edgeres.errors import StageError
from edgeres.model.network import Network
from edgeres.settings import digest, plain, settings
from edgeres.stages.stage import Read
from edgeres.training.augment import Augment
from edgeres.training.device import training_device
from edgeres.training.distill import Distillation
from edgeres.training.feed import Feed
from edgeres.training.loop import fit
from edgeres.training.method import Count, Method, Precision, Rate
from edgeres.training.resume import Snapshots
from edgeres.training.schedule import Schedule

if TYPE_CHECKING:
    from edgeres.stages.stage import Context


@settings
class Recover:
    """A short knowledge distillation (Hinton et al. 2015, arXiv 1503.02531), with or without batch norms.

    Adam's steps do not depend on the scale of a gradient, which a folded network has lost its norms to even out; with
    the clipped gradient and the one-cycle rate that keeps training without norms stable.

    Attributes:
        epochs: Passes over the training split.
        max_images: Images to see at most, however large the split is; None for no limit.
        batch: Images per step.
        lr: Peak learning rate of AdamW.
        weight_decay: Decoupled weight decay.
        clip: Largest gradient norm over all parameters.
        temperature: Softens both answers before they are compared.
        alpha: Weight of the teacher's answer; the labels have the rest.
        augment: What happens to the images; None for crops of at least 60 % of the area, without mirroring.
        precision: Arithmetic of the forward passes.
    """

    name: ClassVar[str] = "recover"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[Read, ...]] = ("train", "seed")

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

    def method(self) -> Method:
        """The training loop's view of these settings."""
        return Method(
            optimizer="adamw",
            epochs=self.epochs,
            max_images=self.max_images,
            batch=self.batch,
            lr=self.lr,
            weight_decay=self.weight_decay,
            clip=self.clip,
            schedule=Schedule(kind="onecycle", warmup=0.2),
            augment=self.augment,
            precision=self.precision,
        )

    def __call__(self, artifact: Checkpoint, context: Context) -> Checkpoint:
        """Trains the pruned network towards its teacher's answers, and lets go of the teacher.

        Raises:
            StageError: There is no teacher, the network is quantized already, or the loss is no longer finite.
            DataError: A training split that cannot be learnt from.
        """
        teacher = artifact.teacher
        if teacher is None:
            raise StageError("recover: there is no network to learn from", "place recover behind prune")
        if artifact.quant is not None:
            raise StageError("recover: the network is quantized, new weights would not fit", "recover before quantize")
        method = self.method()
        device = training_device()
        master = Network(teacher.spec, teacher.weights).eval().requires_grad_(False).to(device)
        feed = Feed(
            context.train,
            artifact.card.preprocess,
            method.augment,
            classes=artifact.spec.classes,
            batch=method.batch,
            seed=context.seed,
        )
        identity = digest([plain(self), artifact.digest, context.train.digest, context.seed])
        outcome = fit(
            Network(artifact.spec, artifact.weights),
            Distillation(master, self.temperature, self.alpha),
            feed,
            method,
            device=device,
            snapshots=Snapshots(context.scratch, identity),
            progress=context.progress,
            label=f"recover {artifact.card.name}",
        )
        step = Step(stage=self.name, settings=plain(self), metrics=outcome.metrics, notes=outcome.conditions)
        card = artifact.card.after(step)
        # Trained weights fill the channels with other values than the folded norms saw.
        return replace(artifact, card=card, weights=outcome.weights, teacher=None, statistics=None)
