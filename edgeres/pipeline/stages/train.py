"""Train: train a preset from random weights, or fine-tune given ones."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from edgeres.artifacts.artifact import Checkpoint, ModelMetadata, Source, Step
from edgeres.data.preprocess import Preprocess
from edgeres.errors import UsageError
from edgeres.model.network import Network
from edgeres.model.spec import ResNetSpec, preset
from edgeres.model.zoo import read_checkpoint
from edgeres.pipeline.stages.stage import Read
from edgeres.settings import digest, plain, settings
from edgeres.training.device import training_device
from edgeres.training.feed import Augment, Feed
from edgeres.training.loop import fit
from edgeres.training.method import HE, MODERN, Count, Method, Precision, Rate, Schedule, Share
from edgeres.training.resume import Snapshots

if TYPE_CHECKING:
    from torch import Tensor

    from edgeres.model.weights import Weights
    from edgeres.pipeline.stages.stage import Context

_METHODS = {"he": HE, "modern": MODERN}

_CLASSIFIER = "fc."


@settings
class Train:
    """Trains on the training split; fields that are None take the training recipe's value.

    Attributes:
        recipe: ``he`` (He et al. 2015) or ``modern``; see ``edgeres.training.method`` for both and for these fields.
        freeze: ``backbone`` trains the classifier alone, on the given weights.
        resize: Shorter side before the crop in evaluation; None takes it from the weights or the data.
        crop: Side of the crop in training and in evaluation; None takes it from the weights or the data.
    """

    name: ClassVar[str] = "train"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[Read, ...]] = ("train", "classes", "seed")

    recipe: Literal["he", "modern"] = "modern"
    epochs: Count | None = None
    batch: Count | None = None
    lr: Rate | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    schedule: Schedule | None = None
    label_smoothing: Share | None = None
    ema: Share | None = None
    progressive: Annotated[float, Field(gt=0, le=1)] | None = None
    augment: Augment | None = None
    freeze: Literal["none", "backbone"] = "none"
    precision: Precision = "auto"
    checkpointing: bool | Literal["auto"] = "auto"
    resize: Annotated[int, Field(ge=0)] | None = None
    crop: Count | None = None

    def method(self) -> Method:
        """The training recipe with this stage's fields in place of its own."""
        shared = {field.name for field in fields(self)} & {field.name for field in fields(Method)}
        given: dict[str, Any] = {name: value for name in shared if (value := getattr(self, name)) is not None}
        return replace(_METHODS[self.recipe], **given)

    def __call__(self, artifact: Source, context: Context) -> Checkpoint:
        """Trains the network of a source.

        Raises:
            UsageError: A frozen backbone without weights.
            ModelError: An unknown preset, or weights that are not a ResNet's.
            DataError: A training split that cannot be learned from.
            StageError: The loss is not finite.
        """
        method = self.method()
        start = self._start(artifact, len(context.classes), context.seed)
        network = Network(start.spec, start.weights)
        if self.freeze == "backbone":
            for key, parameter in network.named_parameters():
                parameter.requires_grad_(key.startswith(_CLASSIFIER))
        feed = Feed(
            context.train,
            start.preprocess,
            method.augment,
            classes=start.spec.classes,
            batch=method.batch,
            seed=context.seed,
        )

        def objective(logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(logits.float(), labels, label_smoothing=method.label_smoothing)

        identity = [plain(self), plain(method), plain(start.spec), start.weights.digest, plain(start.preprocess)]
        outcome = fit(
            network,
            objective,
            feed,
            method,
            device=training_device(),
            snapshots=Snapshots(context.scratch, digest([*identity, context.train.digest, context.seed])),
            progress=context.progress,
            label=f"train {artifact.model}",
        )
        step = Step(
            stage=self.name,
            settings={**plain(self), **plain(method)},
            metrics=outcome.metrics,
            notes=(*start.notes, *outcome.conditions),
        )
        metadata = ModelMetadata(name=artifact.model, preprocess=start.preprocess, classes=context.classes)
        return Checkpoint(metadata.after(step), start.spec, outcome.weights)

    def _start(self, source: Source, classes: int, seed: int) -> _Start:
        """Initial weights: random ones of the preset, or the given ones with a classifier of the right width."""
        hint = replace(preset(source.model), classes=classes)
        given = source.file.path if source.file else source.weights
        if given is None:
            if self.freeze == "backbone":
                raise UsageError(
                    "train: freeze: backbone would keep random features", "give weights to start from, or freeze: none"
                )
            weights = _random(hint, seed)
            return _Start(hint, weights, self._sized(source.preprocess or Preprocess()))
        loaded = read_checkpoint(given, hint)
        spec, weights = loaded.spec, loaded.weights
        if spec.classes != classes:
            spec = replace(spec, classes=classes)
            fresh = _random(spec, seed)
            weights = weights.replaced({key: fresh[key] for key in fresh if key.startswith(_CLASSIFIER)})
        return _Start(spec, weights, self._sized(source.stated_over(loaded.preprocess or Preprocess())), loaded.notes)

    def _sized(self, preprocess: Preprocess) -> Preprocess:
        return replace(
            preprocess,
            resize=preprocess.resize if self.resize is None else self.resize,
            crop=preprocess.crop if self.crop is None else self.crop,
        )


@dataclass(frozen=True, slots=True)
class _Start:
    """Initial spec and weights of a training."""

    spec: ResNetSpec
    weights: Weights
    preprocess: Preprocess
    notes: tuple[str, ...] = ()


def _random(spec: ResNetSpec, seed: int) -> Weights:
    """Randomly initialized weights; torch's global generator is restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Network(spec).weights()
