"""``Dataset``: training, calibration, tuning and validation splits with disjoint content.

Rules, by content and not by file name:

* validation shares no image with the other three;
* tuning, on which candidates are compared, shares no image with training and calibration;
* calibration images of a folder remain training images: calibration uses activations and no labels, so training on
  them does not bias it. The embedded digits keep all four disjoint.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeres.data.cifar import cifar10, is_cifar
from edgeres.data.contract import check_allow, check_calibration, check_coverage
from edgeres.data.cut import cut
from edgeres.data.folder import image_folder
from edgeres.data.partition import partition, round_robin
from edgeres.data.sources import DIGITS, digits
from edgeres.errors import DataError
from edgeres.progress import Progress, Silent

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.sources import RawDataset
    from edgeres.data.split import Split

DIGITS_PER_CLASS = (50, 16, 10)
"""Digits of each class for validation, calibration and tuning; the rest, 1,037, is for training."""


@dataclass(frozen=True)
class Dataset:
    """The four splits of a data set.

    Attributes:
        name: Display name.
        classes: Class names in label order.
        train: Training images.
        calibration: Images whose activations set scales; a folder of the user's own has labels of -1 where unknown.
        tuning: Labelled images for choices between candidates.
        validation: Labelled images for evaluation.
        sample: Whether these are the embedded digits.
        suggested: Preprocessing of the data; None where it states none.
        notes: Notes on the origin of the splits.
        turned: Number of images of a kind with an EXIF rotation, such as ``400 of 400 validation
            images``; kinds without any are left out.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    calibration: Split
    tuning: Split
    validation: Split
    sample: bool
    suggested: Preprocess | None
    notes: tuple[str, ...] = ()
    turned: tuple[str, ...] = ()

    def ordered(self, classes: tuple[str, ...]) -> Dataset:
        """The dataset with another class order.

        Args:
            classes: The class names, each once.
        """
        places = {name: index for index, name in enumerate(classes)}
        moved = {-1: -1} | {index: places[name] for index, name in enumerate(self.classes)}

        def renumbered(split: Split) -> Split:
            return replace(split, labels=tuple(moved[label] for label in split.labels))

        return replace(
            self,
            classes=classes,
            train=renumbered(self.train),
            calibration=renumbered(self.calibration),
            tuning=renumbered(self.tuning),
            validation=renumbered(self.validation),
        )


def open_dataset(
    path: Path | None, *, seed: int, calibration: int, allow: frozenset[str], progress: Progress | None = None
) -> Dataset:
    """Opens images, checks them and divides them into splits, deterministically.

    Args:
        path: An image folder or CIFAR-10's binary version; None opens the embedded digits.
        seed: Seed of every random choice among images.
        calibration: Requested number of calibration images; there may be fewer.
        allow: Names of ``contract.ALLOW``.
        progress: Progress reporter.

    Raises:
        DataError: A missing folder, an unreadable image, too few images, or images shared by disjoint splits.
    """
    check_allow(allow)
    if path is None:
        return _digits(seed, calibration, allow)
    if not path.is_dir():
        raise DataError(
            f"{path} is {'not a folder' if path.exists() else 'not there'}",
            "give a folder with train/<class>/ and val/<class>/, or with one folder per class",
        )
    shown = progress or Silent()
    found = cifar10(path) if is_cifar(path) else image_folder(path, shown)
    splits = cut(found, calibration, seed, allow, shown)
    for split in (splits.calibration, splits.tuning, splits.validation):
        split.hash_all(shown)  # their digests are part of every run, so they are read here
    return Dataset(
        found.name,
        found.classes,
        splits.train,
        splits.calibration,
        splits.tuning,
        splits.validation,
        False,
        found.suggested,
        splits.notes,
        _turned(found),
    )


def _turned(found: RawDataset) -> tuple[str, ...]:
    """Number of images of each kind with an EXIF orientation other than upright."""
    counted = []
    for split in (found.train, found.validation, found.calibration):
        if split is not None and (count := sum(image.orientation != 1 for image in split.images)):
            counted.append(f"{count:,} of {len(split):,} {split.name} images")
    return tuple(counted)


def _digits(seed: int, calibration: int, allow: frozenset[str]) -> Dataset:
    """The embedded sample."""
    whole = digits()
    parts = partition(whole.labels, whole.hashes, lambda groups: DIGITS_PER_CLASS, seed)
    names = ("validation", "calibration", "tuning", "train")
    validation, pool, tuning, train = (whole.take(part, name) for part, name in zip(parts, names, strict=True))
    chosen = pool.take(round_robin(pool.labels, seed)[: max(0, calibration)])
    count_notes = check_calibration("the embedded digits", len(chosen), calibration, allow)
    names_of = tuple("0123456789")
    notes = count_notes + check_coverage("the embedded digits", names_of, chosen, allow)
    return Dataset("digits", names_of, train, chosen, tuning, validation, True, DIGITS, notes)
