"""CIFAR-10 and CIFAR-100, binary version (Krizhevsky 2009): labels and planar ``[3,32,32]`` uint8 pixels in records.

A record of CIFAR-10 begins with one label byte, one of CIFAR-100 with the coarse and the fine label. Files are
memory-mapped, so that images are read on access. The python versions are pickles, which may run code, and are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeres.data.images import ArrayImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.data.sources.source import RawDataset, SourceKind
from edgeres.data.split import Split
from edgeres.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeres.progress import Progress

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

CIFAR = Preprocess(
    resize=Size.square(0), crop=Size.square(32), mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
)
"""Preprocessing of CIFAR-10: mean and deviation of the training pixels, as usually quoted; no resize."""

CIFAR100 = Preprocess(
    resize=Size.square(0), crop=Size.square(32), mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)
)
"""Preprocessing of CIFAR-100, likewise."""

_CIFAR10_FILES = 5  # data_batch_1.bin to data_batch_5.bin
CIFAR_PIXELS = 3 * 32 * 32  # bytes of the pixels of a record, after its labels


@dataclass(frozen=True, slots=True)
class _Version:
    """One of the two data sets: number of label bytes, of which the last counts, and of classes; its archive."""

    name: str
    labels: int
    classes: int
    archive: str

    @property
    def record(self) -> int:
        return self.labels + CIFAR_PIXELS


_CIFAR10 = _Version("cifar10", 1, 10, "cifar-10-binary.tar.gz")
_CIFAR100 = _Version("cifar100", 2, 100, "cifar-100-binary.tar.gz")


def _claims(path: Path) -> bool:
    """Whether a folder is CIFAR-10 or CIFAR-100, in any version."""
    ten = any((path / name).is_file() for name in ("data_batch_1.bin", "data_batch_1", "data_batch_1.mat"))
    return ten or any((path / name).is_file() for name in ("train.bin", "train.mat")) or _pickled_100(path)


def _pickled_100(path: Path) -> bool:
    """Whether a folder is CIFAR-100's python version, which has a file ``train`` beside its ``meta``."""
    return all((path / name).is_file() for name in ("train", "meta"))


def read_cifar(folder: Path, progress: Progress) -> RawDataset:
    """The training and test images; missing and truncated files, pickles and MATLAB files are a ``DataError``."""
    del progress  # reading takes milliseconds
    if (folder / "train.bin").is_file():
        names = _fine_names(folder)
        train = _split("train", [folder / "train.bin"], _CIFAR100)
        validation = _split("validation", [folder / "test.bin"], _CIFAR100)
        return RawDataset("cifar100", str(folder), names, train, validation, suggested=CIFAR100, kind=KIND.name)
    if not (folder / "data_batch_1.bin").is_file():
        version = _CIFAR100 if _pickled_100(folder) or (folder / "train.mat").is_file() else _CIFAR10
        raise DataError(
            f"{folder} holds CIFAR-{version.classes} as a pickle or a MATLAB file, and edgeres never unpickles data",
            f"unpack the binary version, {version.archive}, from https://www.cs.toronto.edu/~kriz/cifar.html",
        )
    files = sorted(folder.glob("data_batch_*.bin"))
    train = _split("train", files, _CIFAR10)
    validation = _split("validation", [folder / "test_batch.bin"], _CIFAR10)
    few = len(files) < _CIFAR10_FILES
    notes = (f"{len(files)} of CIFAR-10's {_CIFAR10_FILES} training files are there",) if few else ()
    return RawDataset(
        "cifar10", str(folder), CIFAR_CLASSES, train, validation, suggested=CIFAR, kind=KIND.name, notes=notes
    )


def _fine_names(folder: Path) -> tuple[str, ...]:
    """The 100 names in ``fine_label_names.txt``, which comes with the records."""
    try:
        text = (folder / "fine_label_names.txt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        what = f"{folder} has no readable fine_label_names.txt"
        raise DataError(what, f"unpack {_CIFAR100.archive} again") from failure
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(set(names)) != _CIFAR100.classes:
        what = f"{folder / 'fine_label_names.txt'} has {len(set(names))} names, not {_CIFAR100.classes}"
        raise DataError(what, f"unpack {_CIFAR100.archive} again")
    return names


def _split(name: str, files: list[Path], version: _Version) -> Split:
    images: list[ArrayImage] = []
    labels: list[int] = []
    for file in files:
        records = _records(file, version)
        planes = records[:, version.labels :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        images.extend(ArrayImage(image, f"{file} record {number}") for number, image in enumerate(planes))
        labels.extend(records[:, version.labels - 1].tolist())
    return Split(name, tuple(images), tuple(labels))


def _records(file: Path, version: _Version) -> NDArray[np.uint8]:
    """The records of one file, uint8 ``[N,3073]`` or ``[N,3074]``."""
    if not file.is_file():
        raise DataError(f"{file} is missing", f"unpack {version.archive} again")
    size = file.stat().st_size
    if size == 0 or size % version.record:
        raise DataError(f"{file} has {size} bytes, not a multiple of {version.record}", "unpack the archive again")
    records = np.asarray(np.memmap(file, dtype=np.uint8, mode="r", shape=(size // version.record, version.record)))
    label = records[:, version.labels - 1]
    wrong = np.flatnonzero(label >= version.classes)
    if wrong.size:
        what = f"{file} record {wrong[0]}: label {label[wrong[0]]} of {version.classes} classes"
        raise DataError(what, f"use CIFAR-{version.classes}'s binary version")
    return records


KIND = SourceKind("CIFAR binaries", "CIFAR-10's or CIFAR-100's binary files", _claims, read_cifar)
