"""Image folders with one subfolder per class, including ImageNet's layout."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from unicodedata import category

from edgeres.data.images import EXTENSIONS, ImageFile
from edgeres.data.sources import RawDataset
from edgeres.data.split import Split
from edgeres.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeres.progress import Progress

TRAIN = ("train", "training")
VALIDATION = ("val", "valid", "validation", "test")
CALIBRATION = ("calibration", "calib")

_NAMED = 5
"""Most images in a message."""


@dataclass(frozen=True, slots=True)
class _Listed:
    """Image files with their class, before their headers are read."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]


def image_folder(folder: Path, progress: Progress) -> RawDataset:
    """Images below ``train/<class>/`` and ``val/<class>/``, or below ``<class>/`` alone.

    Class order is the sorted order of all class folders, as torchvision's ``ImageFolder`` and ImageNet have it.
    Images may be in subfolders of a class; hidden files and other extensions are ignored.
    ``calibration/`` or ``calib/``, with class folders or without, holds calibration images.

    Raises:
        DataError: A folder or a header cannot be read; the message names it.
    """
    train, validation, calibration = (_first(folder, names) for names in (TRAIN, VALIDATION, CALIBRATION))
    if train is None and validation is None:
        train = folder
    roots = [root for root in (train, validation) if root]
    classes = sorted({name for root in roots for name in _class_names(root) if root / name != calibration})
    _check_names(folder, classes)
    listed = {
        "train": _labelled(train, classes) if train else None,
        "validation": _labelled(validation, classes) if validation else None,
        "calibration": _set_apart(calibration, classes) if calibration else None,
    }
    refused: list[DataError] = []
    found = {name: _probed(name, files, progress, refused) if files else None for name, files in listed.items()}
    if refused:
        raise _all_refused(folder, refused, sum(len(files.paths) for files in listed.values() if files))
    splits = (found["train"], found["validation"], found["calibration"])
    return RawDataset(folder.resolve().name, str(folder), tuple(classes), *splits)


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of these subfolders that exists."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _class_names(root: Path) -> list[str]:
    """Names of the folders in ``root``."""
    try:
        return [entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as failure:
        _unreadable(failure)


def _check_names(folder: Path, classes: list[str]) -> None:
    """Checks that names can be printed and written into a report and a model file."""
    for name in classes:
        if any(category(letter) in ("Cc", "Cs") for letter in name):
            raise DataError(
                f"{folder}: the class folder {name!r} has a name with control characters, or one that is not UTF-8",
                "rename it",
            )


def _labelled(root: Path, classes: list[str]) -> _Listed:
    """Every image below the class folders of ``root``."""
    pairs = [(path, label) for label, name in enumerate(classes) for path in _images(root / name)]
    return _Listed(tuple(path for path, _ in pairs), tuple(label for _, label in pairs))


def _set_apart(root: Path, classes: list[str]) -> _Listed:
    """Every image below ``root``, labelled where it is in the folder of a class and -1 elsewhere."""
    paths = tuple(_images(root))
    labels = {name: label for label, name in enumerate(classes)}
    return _Listed(paths, tuple(labels.get(path.relative_to(root).parts[0], -1) for path in paths))


def _images(root: Path) -> Iterator[Path]:
    """Image files below a folder in sorted order; none where the folder is missing."""
    if not root.is_dir():
        return
    for parent, folders, names in os.walk(root, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and path.suffix.lower() in EXTENSIONS:
                yield path


def _unreadable(failure: OSError) -> NoReturn:
    raise DataError(f"{failure.filename} cannot be listed: {failure.strerror}", "check its permissions") from failure


def _probed(name: str, listed: _Listed, progress: Progress, refused: list[DataError]) -> Split:
    """Reads every header; errors of unusable images are added to ``refused``."""
    images: list[ImageFile] = []
    # Threads would slow this down: a header takes 50 microseconds, mostly under the GIL.
    with progress.task(f"read the headers of the {name} images", len(listed.paths)) as advance:
        for path in listed.paths:
            try:
                images.append(ImageFile.probe(path))
            except DataError as failure:
                refused.append(failure)
            advance(1)
    return Split(name, tuple(images), listed.labels[: len(images)])


def _all_refused(folder: Path, refused: list[DataError], images: int) -> DataError:
    """One message for all unusable images: their number, and the first few by name."""
    if len(refused) == 1:
        return refused[0]
    more = f"; and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
    first = "; ".join(failure.what for failure in refused[:_NAMED])
    hint = refused[0].hint if len({failure.hint for failure in refused}) == 1 else "repair or remove them"
    return DataError(f"{len(refused)} of {images} images in {folder} cannot be used: {first}{more}", hint)
