"""``RawDataset``: the images of a source before they are split, and ``SourceKind``: how one kind of source is read."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import category

from edgeres.data.images import EncodedImage
from edgeres.data.split import Split
from edgeres.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from edgeres.data.content import Content
    from edgeres.data.preprocess import Preprocess
    from edgeres.progress import Progress

TRAIN = ("train", "training")
VALIDATION = ("val", "valid", "validation", "test")
CALIBRATION = ("calibration", "calib")

_NAMED = 5  # most images in a message
_WORD = re.compile(r"[A-Za-z]+")
_NUMBER = re.compile(r"0|[1-9]\d*")
_ANY_NUMBER = re.compile(r"-?\d+(\.\d*)?")


@dataclass(frozen=True)
class RawDataset:
    """Images of the folder or file ``where``, before they are divided into splits; class names are in label order.

    A kind of images is None where the source has none; calibration images of an unknown class are labelled -1.
    ``suggested`` is the preprocessing of the data; None where it states none. ``kind`` names the kind of source.
    """

    name: str
    where: str
    classes: tuple[str, ...]
    train: Split | None
    validation: Split | None
    calibration: Split | None = None
    suggested: Preprocess | None = None
    kind: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceKind:
    """A kind of image source: its name, its form in one clause, whether a path is one, and how it is read."""

    name: str
    form: str
    claims: Callable[[Path], bool]
    read: Callable[[Path, Progress], RawDataset]


@dataclass(slots=True)
class Samples:
    """Contents and labels of one split, in order: class names, or indices of stated class names."""

    contents: list[Content]
    labels: list[str | int]

    @classmethod
    def empty(cls) -> Samples:
        """No samples."""
        return cls([], [])

    def add(self, content: Content, label: str | int) -> None:
        """Appends one sample."""
        self.contents.append(content)
        self.labels.append(label)


def split_name(word: str) -> str | None:
    """``train``, ``validation`` or ``calibration``, of the usual words for them in any case; None for another word."""
    word = word.strip().lower()
    pairs = (("train", TRAIN), ("validation", VALIDATION), ("calibration", CALIBRATION))
    return next((name for name, words in pairs if word in words), None)


def split_word(file: Path) -> str:
    """The word for a split in the name of a file, the last of several, or of its folder; empty without one."""
    words = [*reversed(_WORD.findall(file.stem)), file.parent.name]
    return next((word.lower() for word in words if split_name(word)), "")


def chosen_splits(words: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The split of each word that is used, and a note on each that is not: of several for validation, the first."""
    splits: dict[str, str] = {}
    notes, every = [], set(words)
    for name, order in (("train", TRAIN), ("validation", VALIDATION), ("calibration", CALIBRATION)):
        ranks = {word: order.index(word.strip().lower()) for word in every if split_name(word) == name}
        present = sorted(ranks, key=lambda word: (ranks[word], word))
        splits |= dict.fromkeys(present[:1], name)
        notes += [f"the {word} images are not used: {present[0]} has the {name} images" for word in present[1:]]
    return splits, tuple(notes)


def within(root: Path, name: str, where: str) -> Path:
    """The path ``name``, relative to ``root``; ``DataError`` where it is not below that folder."""
    base = Path.cwd() / root
    path = Path(os.path.normpath(base / name))  # without resolving links, which the hub's snapshots are full of
    if "\0" in name or not path.is_relative_to(os.path.normpath(base)):
        what = f"{where}: {name!r} is outside of {root}"
        raise DataError(what, "images are below the folder of the list that names them; move the list, or the images")
    return path


def ordered_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Class names once each: in numerical order where all are whole numbers, else sorted as text."""
    names = set(labels)
    numeric = all(_NUMBER.fullmatch(name) for name in names)
    return tuple(sorted(names, key=int)) if numeric else tuple(sorted(names))


def check_class_names(where: Path | str, names: Iterable[str]) -> None:
    """Checks that reports and model files can hold the class names."""
    for name in names:
        if not name.strip() or any(category(letter) in ("Cc", "Cs") for letter in name):
            what = f"{where}: the class {name!r} has no name, one with control characters, or one that is not UTF-8"
            raise DataError(what, "rename it")


def assembled(
    kind: str,
    where: Path,
    samples: Mapping[str, Samples],
    progress: Progress,
    *,
    names: Sequence[str] = (),
    notes: tuple[str, ...] = (),
) -> RawDataset:
    """Reads the headers of the samples of each split and numbers their classes.

    ``names`` are the class names that integer labels index, where the source states them.

    Raises:
        DataError: An image cannot be used, a label is no index of ``names``, or a class name is not usable.
    """
    every = [label for split in samples.values() for label in split.labels]
    classes = _classes(where, samples.values(), names)
    places = {name: index for index, name in enumerate(classes)}
    refused: list[DataError] = []
    splits = {
        name: probed(
            name,
            split.contents,
            [label if names and isinstance(label, int) else places[str(label)] for label in split.labels],
            progress,
            refused,
        )
        for name, split in samples.items()
    }
    if refused:
        raise all_refused(where, refused, len(every))
    return RawDataset(
        where.resolve().stem if where.is_file() else where.resolve().name,
        str(where),
        classes,
        splits.get("train"),
        splits.get("validation"),
        splits.get("calibration"),
        kind=kind,
        notes=notes,
    )


def _classes(where: Path, samples: Iterable[Samples], names: Sequence[str]) -> tuple[str, ...]:
    """The class names in label order: those that labels index, or those that labels are."""
    labels = [
        (content, label) for split in samples for content, label in zip(split.contents, split.labels, strict=True)
    ]
    wrong = next((pair for pair in labels if not isinstance(pair[1], int) or not 0 <= pair[1] < len(names)), None)
    if names and wrong is not None:
        what = f"{wrong[0].where}: the label {wrong[1]!r} is none of {len(names)} classes, numbered from 0 on"
        raise DataError(what, "correct the label, or the list of class names")
    if len(set(names)) < len(names):
        raise DataError(f"{where}: two classes have the same name", "rename one")
    classes = tuple(names) or ordered_names(str(label) for _, label in labels)
    if not names and all(map(_ANY_NUMBER.fullmatch, classes)):
        _check_numbers(labels)
    check_class_names(where, classes)
    return classes


def _check_numbers(labels: Iterable[tuple[Content, str | int]]) -> None:
    """Refuses numbers below zero, which often stand for no class, and fractions, which sorted as text are permuted."""
    for content, label in labels:
        if str(label).startswith("-"):
            way = "number the classes from 0 on, and leave out images without a class"
            raise DataError(f"{content.where}: the label {label} is below 0", way)
        if "." in str(label):
            way = "write class numbers as 0, 1, 2, or write names"
            raise DataError(f"{content.where}: the label {label} is no whole number", way)


def probed(
    name: str, contents: Iterable[Content], labels: Sequence[int], progress: Progress, refused: list[DataError]
) -> Split:
    """Reads every header; errors of unusable images are added to ``refused``."""
    images: list[EncodedImage] = []
    # Threads would slow this down: a header takes 50 microseconds, mostly under the GIL.
    with progress.task(f"read the headers of the {name} images", len(labels)) as advance:
        for content in contents:
            try:
                images.append(EncodedImage.probe(content))
            except DataError as failure:
                refused.append(failure)
            advance(1)
    return Split(name, tuple(images), tuple(labels)[: len(images)])


def all_refused(where: Path, refused: list[DataError], images: int) -> DataError:
    """One message for all unusable images: their number, and the first few by name."""
    if len(refused) == 1:
        return refused[0]
    more = f"; and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
    first = "; ".join(failure.what for failure in refused[:_NAMED])
    hint = refused[0].hint if len({failure.hint for failure in refused}) == 1 else "repair or remove them"
    return DataError(f"{len(refused)} of {images} images in {where} cannot be used: {first}{more}", hint)
