"""Class folders: images below ``train/<class>/`` and ``val/<class>/``, or below ``<class>/`` alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from edgeres.data.content import WholeFile, utf8
from edgeres.data.images import EXTENSIONS
from edgeres.data.sources.cifar import CIFAR, CIFAR_CLASSES
from edgeres.data.sources.source import (
    TRAIN,
    VALIDATION,
    RawDataset,
    SourceKind,
    all_refused,
    check_class_names,
    chosen_splits,
    probed,
    split_name,
)
from edgeres.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.progress import Progress


def read_class_folders(folder: Path, progress: Progress) -> RawDataset:
    """Reads every header of the images in class folders.

    Class order is the sorted order of all class folders, as torchvision's ``ImageFolder`` and ImageNet have it.
    Images may be in subfolders of a class, and folders may be symbolic links; each real folder is read once per class.
    Hidden files and other extensions are ignored. Folders of splits are named in any case.
    ``calibration/`` or ``calib/``, with class folders or without, holds calibration images. A ``DataError`` names each
    folder or header that cannot be read.
    """
    splits_there = _split_folders(folder)
    roles, notes = chosen_splits(splits_there)
    by_role = {role: splits_there[word] for word, role in roles.items()}
    train, validation, calibration = (by_role.get(role) for role in ("train", "validation", "calibration"))
    if train is None and validation is None:
        train = folder
    roots = [root for root in (train, validation) if root]
    classes = sorted({name for root in roots for name in _class_names(root) if root / name != calibration})
    check_class_names(folder, classes)
    _check_level(folder, classes)
    if len(roots) == 1 and roots[0] != folder:
        _check_beside(folder, roots[0], classes)
    files = [
        ("train", _labelled(train, classes) if train else None),
        ("validation", _labelled(validation, classes) if validation else None),
        ("calibration", _calibration_files(calibration, classes) if calibration else None),
    ]
    refused: list[DataError] = []
    splits = [
        None if labels is None else probed(name, map(WholeFile, labels), tuple(labels.values()), progress, refused)
        for name, labels in files
    ]
    if refused:
        raise all_refused(folder, refused, sum(len(labels) for _, labels in files if labels))
    name, suggested = folder.resolve().name, _suggested(classes, splits)
    kinds = (splits[0], splits[1], splits[2])
    return RawDataset(name, str(folder), tuple(classes), *kinds, suggested, KIND.name, notes)


def _check_level(folder: Path, classes: list[str]) -> None:
    """Refuses a folder whose only subfolder is the one to pass."""
    if len(classes) != 1:
        return
    inner = folder / classes[0]
    if any((inner / name).is_dir() for name in (*TRAIN, *VALIDATION)):
        raise DataError(f"{folder} holds one folder, {classes[0]}, which has the splits", f"pass --data {inner}")


def _suggested(classes: list[str], splits: list[Split | None]) -> Preprocess | None:
    """CIFAR-10's preprocessing where the folders are its classes and every image has its 32x32 pixels."""
    images = (image for split in splits if split is not None for image in split.images)
    small = tuple(classes) == CIFAR_CLASSES and all((i.header.width, i.header.height) == (32, 32) for i in images)
    return CIFAR if small else None


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folders named like splits, by their name; none where these are classes, as the class ``train`` may be.

    They are where each holds images and no folders, and so do others that are not named like splits.
    """
    names = _folder_names(folder)
    named = {name: folder / name for name in names if split_name(name)}
    others = [folder / name for name in names if name not in named]
    if named and all(map(_is_class, named.values())) and any(map(_is_class, others)):
        return {}
    return named


def _is_class(folder: Path) -> bool:
    """Whether a folder holds images and no folders."""
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as failure:
        _unreadable(failure)
    images = any(Path(entry.name).suffix.lower() in EXTENSIONS for entry in entries)
    return images and not any(entry.is_dir() for entry in entries)


def _check_beside(folder: Path, root: Path, classes: list[str]) -> None:
    """Refuses a second folder of the same classes, whose name is that of no split."""
    for name in _folder_names(folder):
        if split_name(name) is None and set(classes) & set(_folder_names(folder / name)):
            what = f"{folder / name} has folders like the classes in {root.name}, and is not named like a split"
            raise DataError(what, f"name it {'val' if root.name.lower() in TRAIN else 'train'}, or move it away")


def _class_names(root: Path) -> list[str]:
    """Names of the folders in ``root``; ``DataError`` for a link to nothing, or to a folder that contains it."""
    names = _folder_names(root)
    for name in names:
        _check_link(root / name, root)
    return names


def _folder_names(root: Path) -> list[str]:
    """Names of the folders in ``root``, less hidden ones."""
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as failure:
        _unreadable(failure)
    shown = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in shown:
        _check_target(Path(entry.path))
    return [entry.name for entry in shown if entry.is_dir()]


def _check_target(path: Path) -> None:
    """Refuses a link to nothing: what it names is missing."""
    if path.is_symlink() and not path.exists():
        raise DataError(f"{utf8(path)} is a link to nothing", "correct the link, or remove it")


def _check_link(path: Path, root: Path) -> None:
    """Refuses a link to a folder that contains ``root``."""
    if path.is_symlink() and root.resolve().is_relative_to(path.resolve()):
        raise DataError(f"{utf8(path)} is a link to a folder that contains it", "remove the link")


def _labelled(root: Path, classes: list[str]) -> dict[Path, int]:
    return {path: label for label, name in enumerate(classes) for path in image_files(root / name)}


def _calibration_files(root: Path, classes: list[str]) -> dict[Path, int]:
    """Every image below ``root``, labelled where it is in the folder of a class and -1 elsewhere."""
    labels = {name: label for label, name in enumerate(classes)}
    return {path: labels.get(path.relative_to(root).parts[0], -1) for path in image_files(root)}


def image_files(root: Path) -> Iterator[Path]:
    """Image files below a folder in sorted order, none where it is missing; links are followed, loops are not.

    Raises:
        DataError: A link to nothing, or to a folder that contains ``root`` and with it images of other classes.
    """
    if not root.is_dir():
        return
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(root, onerror=_unreadable, followlinks=True):
        place = Path(parent).stat()
        if (place.st_dev, place.st_ino) in seen:
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            _check_link(Path(parent, name), root.resolve().parent)
        for name in sorted(names):
            path = Path(parent, name)
            if name.startswith("."):
                continue
            _check_target(path)
            if path.suffix.lower() in EXTENSIONS:
                yield path


def _unreadable(failure: OSError) -> NoReturn:
    raise DataError(f"{failure.filename} cannot be listed: {failure.strerror}", "check its permissions") from failure


KIND = SourceKind("class folders", "train/<class>/ and val/<class>/ images", Path.is_dir, read_class_folders)
