"""``RawDataset``: an image source before it is split: folders of classes, CIFAR-10, and the embedded digits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from unicodedata import category

import numpy as np

from edgeres.data.images import EXTENSIONS, ArrayImage, ImageFile
from edgeres.data.preprocess import Preprocess
from edgeres.data.split import Split
from edgeres.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edgeres.progress import Progress

DIGITS = Preprocess(resize=32, crop=32, mean=(0.305, 0.305, 0.305), std=(0.376, 0.376, 0.376))
"""Preprocessing of the embedded digits, with mean and deviation of all their pixels on the scale 0..1."""

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

CIFAR = Preprocess(resize=0, crop=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
"""Preprocessing of CIFAR-10: mean and deviation of the training pixels, as usually quoted; no resize."""

CIFAR_RECORD = 1 + 3 * 32 * 32  # bytes of a record of CIFAR-10: the label, then the red, green and blue plane
TRAIN = ("train", "training")
VALIDATION = ("val", "valid", "validation", "test")
CALIBRATION = ("calibration", "calib")

_NAMED = 5  # most images in a message


@dataclass(frozen=True)
class RawDataset:
    """Images of the folder ``where``, before they are divided into splits; class names are in label order.

    A kind of images is None without a folder of its own; calibration images of an unknown class are labelled -1.
    ``suggested`` is the preprocessing of the data; None where it states none.
    """

    name: str
    where: str
    classes: tuple[str, ...]
    train: Split | None
    validation: Split | None
    calibration: Split | None = None
    suggested: Preprocess | None = None


def digits() -> Split:
    """The UCI handwritten digits of scikit-learn: 1,797 images of 8x8 pixels with 17 levels of grey.

    The table is read from the installed package, because importing ``sklearn.datasets`` takes two seconds.

    Raises:
        DataError: scikit-learn is not installed, or has no such table.
    """
    package = find_spec("sklearn")
    folders = package.submodule_search_locations if package else None
    table = Path(folders[0], "datasets", "data", "digits.csv.gz") if folders else Path("sklearn")
    if not table.is_file():
        raise DataError(f"the embedded digits are not at {table}", "pip install --force-reinstall scikit-learn")
    rows = np.loadtxt(table, delimiter=",", dtype=np.int64)
    pixels = np.rint(rows[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    images = tuple(ArrayImage(image, f"digit {number}") for number, image in enumerate(pixels))
    return Split("digits", images, tuple(rows[:, 64].tolist()))


def is_cifar(folder: Path) -> bool:
    """Whether a folder is CIFAR-10, in any version."""
    return any((folder / name).is_file() for name in ("data_batch_1.bin", "data_batch_1", "data_batch_1.mat"))


def cifar10(folder: Path) -> RawDataset:
    """CIFAR-10, binary version (Krizhevsky 2009): records of one label byte and planar ``[3,32,32]`` uint8 pixels.

    The files are memory-mapped, so that images are read on access. The python version is a pickle, which may run code:
    a ``DataError``, as are missing and truncated files.
    """
    if not (folder / "data_batch_1.bin").is_file():
        raise DataError(
            f"{folder} holds CIFAR-10 as a pickle or a MATLAB file, and edgeres never unpickles data",
            "unpack the binary version, cifar-10-binary.tar.gz, from https://www.cs.toronto.edu/~kriz/cifar.html",
        )
    train = _cifar_split("train", sorted(folder.glob("data_batch_*.bin")))
    validation = _cifar_split("validation", [folder / "test_batch.bin"])
    return RawDataset("cifar10", str(folder), CIFAR_CLASSES, train, validation, suggested=CIFAR)


def _cifar_split(name: str, files: list[Path]) -> Split:
    images: list[ArrayImage] = []
    labels: list[int] = []
    for file in files:
        records = _cifar_records(file)
        planes = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        images.extend(ArrayImage(image, f"{file} record {number}") for number, image in enumerate(planes))
        labels.extend(records[:, 0].tolist())
    return Split(name, tuple(images), tuple(labels))


def _cifar_records(file: Path) -> NDArray[np.uint8]:
    """The records of one batch file, uint8 ``[N,3073]``."""
    if not file.is_file():
        raise DataError(f"{file} is missing", "unpack cifar-10-binary.tar.gz again")
    size = file.stat().st_size
    if size == 0 or size % CIFAR_RECORD:
        raise DataError(f"{file} has {size} bytes, not a multiple of {CIFAR_RECORD}", "unpack the archive again")
    records = np.asarray(np.memmap(file, dtype=np.uint8, mode="r", shape=(size // CIFAR_RECORD, CIFAR_RECORD)))
    wrong = np.flatnonzero(records[:, 0] >= len(CIFAR_CLASSES))
    if wrong.size:
        what = f"{file} record {wrong[0]}: label {records[wrong[0], 0]} of 10 classes"
        raise DataError(what, "use CIFAR-10's binary version")
    return records


def image_folder(folder: Path, progress: Progress) -> RawDataset:
    """Images below ``train/<class>/`` and ``val/<class>/``, or below ``<class>/`` alone.

    Class order is the sorted order of all class folders, as torchvision's ``ImageFolder`` and ImageNet have it.
    Images may be in subfolders of a class; hidden files and other extensions are ignored.
    ``calibration/`` or ``calib/``, with class folders or without, holds calibration images. A ``DataError`` names each
    folder or header that cannot be read.
    """
    train, validation, calibration = (_first(folder, names) for names in (TRAIN, VALIDATION, CALIBRATION))
    if train is None and validation is None:
        train = folder
    roots = [root for root in (train, validation) if root]
    classes = sorted({name for root in roots for name in _class_names(root) if root / name != calibration})
    for name in classes:
        if any(category(letter) in ("Cc", "Cs") for letter in name):  # neither a report nor a model file can hold it
            what = f"{folder}: the class folder {name!r} has a name with control characters, or one that is not UTF-8"
            raise DataError(what, "rename it")
    files = [
        ("train", _labelled(train, classes) if train else None),
        ("validation", _labelled(validation, classes) if validation else None),
        ("calibration", _calibration_files(calibration, classes) if calibration else None),
    ]
    refused: list[DataError] = []
    splits = [_probed(name, labels, progress, refused) if labels is not None else None for name, labels in files]
    if refused:
        raise _all_refused(folder, refused, sum(len(labels) for _, labels in files if labels))
    return RawDataset(folder.resolve().name, str(folder), tuple(classes), splits[0], splits[1], splits[2])


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _class_names(root: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as failure:
        _unreadable(failure)


def _labelled(root: Path, classes: list[str]) -> dict[Path, int]:
    return {path: label for label, name in enumerate(classes) for path in _images(root / name)}


def _calibration_files(root: Path, classes: list[str]) -> dict[Path, int]:
    """Every image below ``root``, labelled where it is in the folder of a class and -1 elsewhere."""
    labels = {name: label for label, name in enumerate(classes)}
    return {path: labels.get(path.relative_to(root).parts[0], -1) for path in _images(root)}


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


def _probed(name: str, labels: dict[Path, int], progress: Progress, refused: list[DataError]) -> Split:
    """Reads every header; errors of unusable images are added to ``refused``."""
    images: list[ImageFile] = []
    # Threads would slow this down: a header takes 50 microseconds, mostly under the GIL.
    with progress.task(f"read the headers of the {name} images", len(labels)) as advance:
        for path in labels:
            try:
                images.append(ImageFile.probe(path))
            except DataError as failure:
                refused.append(failure)
            advance(1)
    return Split(name, tuple(images), tuple(labels.values())[: len(images)])


def _all_refused(folder: Path, refused: list[DataError], images: int) -> DataError:
    """One message for all unusable images: their number, and the first few by name."""
    if len(refused) == 1:
        return refused[0]
    more = f"; and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
    first = "; ".join(failure.what for failure in refused[:_NAMED])
    hint = refused[0].hint if len({failure.hint for failure in refused}) == 1 else "repair or remove them"
    return DataError(f"{len(refused)} of {images} images in {folder} cannot be used: {first}{more}", hint)
