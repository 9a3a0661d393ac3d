"""Training of a stage: its settings as a ``Method``, and the run of the training loop on the training split."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from edgeres.settings import digest, plain
from edgeres.training.device import training_device
from edgeres.training.feed import Feed
from edgeres.training.loop import Objective, TrainingResult, fit
from edgeres.training.method import Method, Schedule
from edgeres.training.resume import Snapshots

if TYPE_CHECKING:
    from edgeres.data.preprocess import Preprocess
    from edgeres.model.network import Network
    from edgeres.pipeline.stages.stage import Context, Stage


def distillation_method(stage: Stage) -> Method:
    """AdamW with a one-cycle rate and the stage's settings."""
    return Method(optimizer="adamw", schedule=Schedule(kind="onecycle", warmup=0.2), **stated_fields(stage))


def stated_fields(stage: Stage) -> dict[str, Any]:
    """The settings of a stage that are ``Method``'s too and not None."""
    names = {field.name for field in fields(Method)} & set(plain(stage))
    return {name: value for name in names if (value := getattr(stage, name)) is not None}


def run_training(
    network: Network,
    objective: Objective,
    method: Method,
    preprocess: Preprocess,
    context: Context,
    *,
    identity: list[object],
    label: str,
) -> TrainingResult:
    """Trains a network on the training split, from the snapshot of a killed run of the same ``identity`` if any."""
    classes, batch, seed = network.graph.classes, method.batch, context.seed
    feed = Feed(context.train, preprocess, method.augment, classes=classes, batch=batch, seed=seed)
    return fit(
        network,
        objective,
        feed,
        method,
        device=training_device(),
        snapshots=Snapshots(context.scratch, digest([*identity, context.train.digest, seed])),
        progress=context.progress,
        label=label,
    )
