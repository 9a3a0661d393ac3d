"""Load: weights of any supported origin as a checkpoint with preprocessing and classes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.artifacts.artifact import Checkpoint, ModelMetadata
from edgeres.artifacts.head import Head
from edgeres.artifacts.source import Source  # noqa: TC001  # a stage\'s annotations are read at runtime
from edgeres.errors import DataError, ModelError, StageError
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.model.probe import customary, customary_for
from edgeres.model.weight_files import content_digest
from edgeres.model.zoo import Loaded, read_checkpoint
from edgeres.onnx_graph.external import content_digest as graph_digest
from edgeres.onnx_graph.recognition import read_residual
from edgeres.pipeline.stages.fitting import fit
from edgeres.pipeline.stages.stage import Context, Stage, StageCost
from edgeres.settings import settings
from edgeres.tasks.measure import with_threshold
from edgeres.tasks.registry import find_task

if TYPE_CHECKING:
    from edgeres.data.dataset import Dataset
    from edgeres.data.size import Size
    from edgeres.onnx_graph.layer_norms import ImageNorm


@settings
class Load(Stage):
    """Recipe entry ``load``.

    Preprocessing is the user's, else that of the weights, else the best of a search on tuning images.
    """

    name = "load"
    version = 3
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
        loaded, size, image = _read(artifact)
        notes = loaded.notes
        if size is not None:
            artifact, of_size = artifact.at_size(size)
            notes = (*notes, *of_size)
        head = Head(task=artifact.task, scored=context.scored)
        task = find_task(head)
        task.check_head(context.classes, loaded.spec.classes)
        if loaded.classes:
            _check_order(loaded.classes, context.classes)
        network = Network(graph(loaded.spec), loaded.weights)
        answers = image.before(network.logits) if image else network.logits
        own = loaded.preprocess or artifact.suggested
        sizes = customary_for(size) if size else customary(loaded.spec)
        fitting = fit(answers, artifact, own, sizes, context, task=task, channels=loaded.spec.channels)
        head = with_threshold(head, answers, fitting.preprocess, context.tuning)
        preprocess = image.within(fitting.preprocess) if image else fitting.preprocess
        named = () if context.subset else loaded.classes  # of a subset, outputs are named like the data's folders
        metadata = ModelMetadata(
            name=artifact.model, preprocess=preprocess, classes=named or context.classes, head=head
        )
        step = self.step(fitting.metrics, (*notes, *fitting.notes), (*notes, *fitting.shown))
        return Checkpoint(metadata.after(step), loaded.spec, loaded.weights)


def _read(source: Source) -> tuple[Loaded, Size | None, ImageNorm | None]:
    """The network, the size of the images that a file is for, and what it normalises them by, where it says so."""
    origin = source.file.path if source.file else source.weights
    if origin is None:
        raise StageError(f"there are no weights of {source.model} to load", "pass --weights, or start with '- train'")
    digest_of = graph_digest if source.recognised else content_digest
    if source.file and digest_of(source.file.path) != source.file.sha256:
        raise ModelError(f"{source.file.path} changed since the run began", "start again")
    if not source.recognised:
        return read_checkpoint(origin, preset(source.model), source.weights_key), None, None
    found = read_residual(Path(origin), source.main_output)
    if isinstance(found, str):
        raise ModelError(f"{origin} is no residual network: {found}", "compile it with --recipe onnx")
    return Loaded(found.spec, found.weights, notes=found.notes), found.size, found.image


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
