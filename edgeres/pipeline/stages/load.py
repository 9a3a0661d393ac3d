"""Load: weights of any supported origin as a checkpoint with preprocessing and classes."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from edgeres.artifacts.artifact import Checkpoint, ModelMetadata, Source
from edgeres.data.contract import check_head
from edgeres.errors import DataError, ModelError, StageError
from edgeres.model.network import Network
from edgeres.model.probe import customary
from edgeres.model.spec import preset
from edgeres.model.zoo import Loaded, read_checkpoint
from edgeres.pipeline.stages.fitting import fit
from edgeres.pipeline.stages.stage import Context, Stage, StageCost
from edgeres.settings import settings, sha256_file

if TYPE_CHECKING:
    from edgeres.data.dataset import Dataset


@settings
class Load(Stage):
    """Recipe entry ``load``.

    Preprocessing is the user's, else that of the weights, else the best of a search on tuning images.
    """

    name = "load"
    version = 2
    reads = ("tuning", "classes", "allow")

    def cost(self, dataset: Dataset) -> StageCost:
        """A search over transforms on a few tuning images."""
        return StageCost(8.0 * min(len(dataset.tuning), 256))

    def __call__(self, artifact: Source, context: Context) -> Checkpoint:
        """Reads the source's weights.

        Raises:
            ModelError: The weights cannot be read, or are not the named model's.
            DataError: They have other classes than the data, or another class order.
            ChanceError: They are at chance under every preprocessing.
            StageError: The source has no weights.
        """
        loaded = _read(artifact)
        if loaded.spec.channels != 3:
            raise ModelError(
                f"weight 'conv1.weight' reads images of {loaded.spec.channels} channels", "edgeres feeds RGB images"
            )
        check_head(context.classes, loaded.spec.classes)
        if loaded.classes:
            _check_order(loaded.classes, context.classes)
        answers = Network(loaded.spec, loaded.weights).logits
        fitting = fit(answers, artifact, loaded.preprocess or artifact.suggested, customary(loaded.spec), context)
        metadata = ModelMetadata(
            name=artifact.model, preprocess=fitting.preprocess, classes=loaded.classes or context.classes
        )
        step = self.step(fitting.metrics, (*loaded.notes, *fitting.notes), fitting.shown)
        return Checkpoint(metadata.after(step), loaded.spec, loaded.weights)


def _read(source: Source) -> Loaded:
    origin = source.file.path if source.file else source.weights
    if origin is None:
        raise StageError(f"there are no weights of {source.model} to load", "pass --weights, or start with '- train'")
    if source.file and sha256_file(source.file.path) != source.file.sha256:
        raise ModelError(f"{source.file.path} changed since the run began", "start again")
    return read_checkpoint(origin, preset(source.model))


def _check_order(head: tuple[str, ...], data: tuple[str, ...]) -> None:
    """Checks that class names common to weights and data are at the same index.

    ImageNet has two cranes and two maillots: a name may occur at several indices.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(head):
        places[name].append(index)
    for index, name in enumerate(data):
        if name in places and index not in places[name]:
            raise DataError(
                f"class {name!r} is number {index} in the data and {places[name][0]} in the weights",
                "name the class folders so that they sort into the order of the weights",
            )
