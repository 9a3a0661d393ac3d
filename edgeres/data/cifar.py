"""CIFAR-10 in its binary version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.data.images import ArrayImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.sources import RawDataset
from edgeres.data.split import Split
from edgeres.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

PREPROCESS = Preprocess(resize=0, crop=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
"""Mean and deviation of the training pixels, as usually quoted; no resize."""

RECORD = 1 + 3 * 32 * 32
"""Bytes of a record: the label, then the red, green and blue plane."""


def is_cifar(folder: Path) -> bool:
    """Whether a folder is CIFAR-10, in any version."""
    return any((folder / name).is_file() for name in ("data_batch_1.bin", "data_batch_1", "data_batch_1.mat"))


def cifar10(folder: Path) -> RawDataset:
    """CIFAR-10, binary version (Krizhevsky 2009): records of one label byte and planar ``[3,32,32]`` uint8 pixels.

    The files are memory-mapped, so that images are read on access.

    Raises:
        DataError: The python version (a pickle, which may run code), a missing file, or a truncated file.
    """
    if not (folder / "data_batch_1.bin").is_file():
        raise DataError(
            f"{folder} holds CIFAR-10 as a pickle or a MATLAB file, and edgeres never unpickles data",
            "unpack the binary version, cifar-10-binary.tar.gz, from https://www.cs.toronto.edu/~kriz/cifar.html",
        )
    batches = sorted(folder.glob("data_batch_*.bin"))
    return RawDataset(
        "cifar10",
        str(folder),
        CLASSES,
        _split("train", batches),
        _split("validation", [folder / "test_batch.bin"]),
        suggested=PREPROCESS,
    )


def _split(name: str, files: list[Path]) -> Split:
    """The records of some batch files."""
    images: list[ArrayImage] = []
    labels: list[int] = []
    for file in files:
        records = _records(file)
        planes = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        images.extend(ArrayImage(image, f"{file} record {number}") for number, image in enumerate(planes))
        labels.extend(records[:, 0].tolist())
    return Split(name, tuple(images), tuple(labels))


def _records(file: Path) -> NDArray[np.uint8]:
    """The records of one batch file, uint8 ``[N,3073]``."""
    if not file.is_file():
        raise DataError(f"{file} is missing", "unpack cifar-10-binary.tar.gz again")
    size = file.stat().st_size
    if size == 0 or size % RECORD:
        raise DataError(f"{file} has {size} bytes, not a multiple of {RECORD}", "unpack the archive again")
    records = np.asarray(np.memmap(file, dtype=np.uint8, mode="r", shape=(size // RECORD, RECORD)))
    wrong = np.flatnonzero(records[:, 0] >= len(CLASSES))
    if wrong.size:
        raise DataError(
            f"{file} record {wrong[0]}: label {records[wrong[0], 0]} of 10 classes", "use CIFAR-10's binary version"
        )
    return records
