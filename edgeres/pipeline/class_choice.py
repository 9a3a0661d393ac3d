"""The classes of a request: the network output of each class of the data, by name, by number or as stated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.artifacts.companion import outputs
from edgeres.data.class_file import read_classes
from edgeres.data.class_map import ClassMap, imagenet_map, matched_map, numbered_map
from edgeres.errors import UsageError
from edgeres.tasks.registry import task_kind

if TYPE_CHECKING:
    from edgeres.artifacts.companion import Companion
    from edgeres.artifacts.source import Source
    from edgeres.data.dataset import Dataset
    from edgeres.pipeline.request import Request


def with_classes(
    request: Request, source: Source, dataset: Dataset, companion: Companion
) -> tuple[Source, Dataset, tuple[str, ...]]:
    """The dataset with labels that are indices of the network's outputs, where the names or a file say which.

    Raises:
        UsageError: Classes are stated for identities, which are no outputs of a network.
    """
    if task_kind(source.task).label_kind == "identity":
        if request.classes is not None:
            raise UsageError(f"--classes with --task {source.task}: identities are no outputs", "leave it out")
        return source, dataset, ()
    class_map, how = _class_map(request, source, dataset, companion)
    if class_map is None:
        return source, dataset, ()
    if request.classes is not None:
        source = replace(source, classes=class_map.names)
    if class_map == ClassMap(tuple(range(len(dataset.classes))), dataset.classes):
        return source, dataset, ()
    if not class_map.partial:
        note = f"the class folders are numbered in the order of the network's outputs, {how}, not in sorted order"
        return source, dataset.mapped(class_map), (note,)
    return source, dataset.mapped(class_map), (_subset_note(request, class_map, how),)


def _class_map(request: Request, source: Source, dataset: Dataset, companion: Companion) -> tuple[ClassMap | None, str]:
    """The map of the classes onto the network's outputs with its origin; None where position alone tells."""
    folders = dataset.classes
    if request.classes is not None:
        where = f"--classes {request.classes}"
        if dataset.sample:
            raise UsageError(f"{where} without --data", "pass the folder whose classes it names")
        stated = read_classes(Path(request.classes))
        names = companion.classes
        if stated.outputs is not None and not names:
            names = tuple(f"output {index}" for index in range(max(outputs(source) or 0, len(folders))))
        return stated.mapped(folders, names), f"as {where} has it"
    if companion.classes:
        how = f"by the class names that travel with it ({companion.where})"
        return matched_map(companion.classes, folders, companion.where), how
    if dataset.sample or source.file is None:
        return None, ""
    known = imagenet_map(folders)
    numbers = all(folder.isdecimal() for folder in folders)
    if (known is None and not numbers) or (count := outputs(source)) is None or count <= len(folders):
        return None, ""
    if numbers:
        return numbered_map(folders, tuple(f"output {index}" for index in range(count))), "as the folders are numbers"
    assert known is not None
    how = "as the network has 1,000 outputs without names, which are taken to be ImageNet's in its order"
    return (known, how) if count == len(known.names) else (None, "")


def _subset_note(request: Request, class_map: ClassMap, how: str) -> str:
    few, every = f"{len(class_map.outputs):,}", f"{len(class_map.names):,}"
    rule = (
        f"a prediction is the largest of all {every} outputs, as on the device (--answers subset takes the largest of "
        f"those {few}, which is easier)"
    )
    if request.answers == "subset":
        rule = (
            f"a prediction is the largest of those {few} outputs, as asked, which is easier than among all {every} "
            "and not what the device answers"
        )
    return f"{few} of the network's {every} classes have images, matched {how}: {rule}"
