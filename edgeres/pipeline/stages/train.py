"""Train: train a preset from random weights, or fine-tune given ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from edgeres.artifacts.artifact import Checkpoint, ModelMetadata
from edgeres.artifacts.source import Source  # noqa: TC001  # a stage\'s annotations are read at runtime
from edgeres.data.preprocess import Crop, Preprocess
from edgeres.data.size import ResizeMode, Size
from edgeres.data.split import channel_statistics
from edgeres.errors import DataError, UsageError
from edgeres.model.cost import shapes
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.model.zoo import Loaded, read_checkpoint
from edgeres.pipeline.stages.stage import Context, Stage, StageCost
from edgeres.pipeline.stages.training import run_training, stated_fields
from edgeres.settings import plain, settings
from edgeres.training.feed import Augment
from edgeres.training.method import HE, MODERN, Count, Method, Precision, Rate, Schedule, Share

if TYPE_CHECKING:
    from torch import Tensor

    from edgeres.data.dataset import Dataset
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights

_METHODS = {"he": HE, "modern": MODERN}

_CLASSIFIER = "fc."


@settings
class Train(Stage):
    """Trains on the training split; fields that are None take the training recipe's value.

    Attributes:
        recipe: ``he`` (He et al. 2015) or ``modern``; see ``edgeres.training.method`` for both and for these fields.
        freeze: ``backbone`` trains the classifier alone, on the given weights.
        resize: Size before the crop in evaluation; None takes it from the weights or the data.
        crop: Size of the crop in training and in evaluation; None takes it from the weights or the data.
        resize_mode: How evaluation resizes; None takes it from the weights or the data.
    """

    name = "train"
    version = 2
    reads = ("train", "classes", "seed")

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
    resize: Size | None = None
    crop: Crop | None = None
    resize_mode: ResizeMode | None = None

    def cost(self, dataset: Dataset) -> StageCost:
        """Three passes over the training split an epoch."""
        return StageCost(3.0 * len(dataset.train) * self.method().epochs, 3.0)

    def method(self) -> Method:
        """The training recipe with this stage's fields in place of its own."""
        return replace(_METHODS[self.recipe], **stated_fields(self))

    def __call__(self, artifact: Source, context: Context) -> Checkpoint:
        """Trains the network of a source.

        Raises:
            UsageError: A frozen backbone without weights.
            ModelError: An unknown preset, or weights that are not a ResNet's.
            DataError: A training split that cannot be learned from.
            StageError: The loss is not finite.
        """
        method = self.method()
        start, preprocess, measured = self._begin(artifact, context)
        network = Network(graph(start.spec), start.weights)
        if self.freeze == "backbone":
            for key, parameter in network.named_parameters():
                parameter.requires_grad_(key.startswith(_CLASSIFIER))

        def objective(logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(logits.float(), labels, label_smoothing=method.label_smoothing)

        shapes(graph(start.spec), *preprocess.crop)  # raises for sizes that the network cannot take
        identity = [plain(self), plain(method), plain(start.spec), start.weights.digest, plain(preprocess)]
        label = f"train {artifact.model}"
        outcome = run_training(network, objective, method, preprocess, context, identity=identity, label=label)
        step = self.step(
            outcome.metrics, (*start.notes, *measured, *outcome.conditions), settings={**plain(self), **plain(method)}
        )
        metadata = ModelMetadata(name=artifact.model, preprocess=preprocess, classes=context.classes)
        return Checkpoint(metadata.after(step), start.spec, outcome.weights)

    def _begin(self, source: Source, context: Context) -> tuple[Loaded, Preprocess, tuple[str, ...]]:
        """Initial weights and preprocessing, with a note on statistics that were measured."""
        stated = source.preprocess
        channels = stated.count if stated else 3
        if stated and stated.channels == "bands" and "mean" in source.left_open:
            channels = context.train.images[0].header.bands
        start = self._start(source, len(context.classes), context.seed, channels)
        channels = start.spec.channels
        preprocess = self._sized(source.stated_over(start.preprocess or customary_transform(start.spec)))
        if preprocess.count != channels:
            raise DataError(
                f"the network reads images of {channels} channels, the preprocessing has {preprocess.count}",
                "state --channels grey or bands, or one --mean and one --std for each channel",
            )
        left_open = ("mean", "std") if stated is None else source.left_open
        if channels == 3 or start.preprocess is not None or "mean" not in left_open:
            return start, preprocess, ()
        mean, std = channel_statistics(context.train, preprocess)
        preprocess = replace(preprocess, mean=mean, std=std if "std" in left_open else preprocess.std)
        note = f"mean and std are not stated; measured on training images: {preprocess.label}"
        return start, preprocess, (note,)

    def _start(self, source: Source, classes: int, seed: int, channels: int) -> Loaded:
        """Initial weights: random ones of the preset, or the given ones with a classifier of the right width."""
        hint = replace(preset(source.model), classes=classes, channels=channels)
        origin = source.file.path if source.file else source.weights
        if origin is None:
            if self.freeze == "backbone":
                raise UsageError(
                    "train: freeze: backbone would keep random features", "give weights to start from, or freeze: none"
                )
            return Loaded(hint, _random(hint, seed))
        loaded = read_checkpoint(origin, hint, source.weights_key, new_head=classes)
        spec, weights = loaded.spec, loaded.weights
        if spec.classes != classes:
            spec = replace(spec, classes=classes)
            fresh = _random(spec, seed)
            weights = weights.replaced({key: fresh[key] for key in fresh if key.startswith(_CLASSIFIER)})
        return replace(loaded, spec=spec, weights=weights)

    def _sized(self, preprocess: Preprocess) -> Preprocess:
        return replace(
            preprocess,
            resize=preprocess.resize if self.resize is None else self.resize,
            crop=self.crop or preprocess.crop,
            resize_mode=self.resize_mode or preprocess.resize_mode,
        )


def customary_transform(spec: ResNetSpec) -> Preprocess:
    """The transform that a network is trained with where nothing states one: that of its family's images.

    ImageNet's cuts 224 pixels of 256. Other sizes, such as CIFAR's 32, are those of the whole image.
    """
    usual = Preprocess.usual(spec.channels)
    return usual if spec.image_size == usual.crop else replace(usual, resize=spec.image_size, crop=spec.image_size)


def _random(spec: ResNetSpec, seed: int) -> Weights:
    """Randomly initialized weights; torch's global generator is restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Network(graph(spec)).weights()
