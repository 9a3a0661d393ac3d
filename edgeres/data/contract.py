"""Data contract: requirements on images, classes and splits, whose violation is a ``DataError``."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from edgeres.data.images import EXTENSIONS
from edgeres.errors import DataError, nearest

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from edgeres.data.images import StoredImage
    from edgeres.data.sources import RawDataset
    from edgeres.data.split import Split

ALLOW = {
    "few-images": "calibrate on fewer than 32 images",
    "overlap": "keep training and calibration images that are also validation images",
    "missing-classes": "accept classes without training, calibration or validation images",
    "chance": "continue with a float network that predicts at chance",
}
"""Exceptions that a user may allow, with their meaning."""

FEWEST_CALIBRATION_IMAGES = 32
"""Under exchangeability the next image exceeds the largest activation of n others with probability 1/(n+1): 3 % here.

The bound is on the number of images, not per class: a head of 1,000 classes calibrates well on 512 images.
"""


def check_allow(allow: frozenset[str]) -> None:
    """Checks the names of allowed exceptions.

    Raises:
        DataError: Unknown name; the message has the nearest one.
    """
    for name in sorted(allow - ALLOW.keys()):
        raise DataError(f"nothing is allowed by {name!r}", nearest(name, ALLOW))


def check_not_empty(found: RawDataset) -> None:
    """Checks that there are images of two classes or more.

    Raises:
        DataError: No images, or only one class.
    """
    if not any(len(split) for split in (found.train, found.validation) if split is not None):
        raise DataError(
            f"{found.where} holds no images in class folders",
            f"put {' '.join(sorted(EXTENSIONS))} files into one folder per class",
        )
    if len(found.classes) == 1:
        raise DataError(
            f"{found.where} holds the one class {found.classes[0]!r}", "put each class into a folder of its own"
        )


def check_classes(
    where: str, classes: Sequence[str], splits: Sequence[Split], allow: frozenset[str]
) -> tuple[str, ...]:
    """Checks that every split has images of every class.

    Returns:
        Notes on classes that are missing as allowed.

    Raises:
        DataError: A class without images, or a split without any.
    """
    if not any(len(split) for split in splits):
        raise DataError(
            f"{where} holds no images", f"put images ({', '.join(sorted(EXTENSIONS))}) into a folder per class"
        )
    if len(classes) == 1:
        raise DataError(f"{where} holds the one class {classes[0]!r}", "put each class into a folder of its own")
    notes = []
    for split in splits:
        present = set(split.labels)
        if missing := [name for label, name in enumerate(classes) if label not in present]:
            found = f"{where}: {len(missing)} of {len(classes)} classes have no {split.name} images ({_some(missing)})"
            if not present or "missing-classes" not in allow:
                raise DataError(found, "add images, remove the folders, or pass --allow missing-classes")
            notes.append(found)
    return tuple(notes)


def check_calibration(where: str, images: int, wanted: int, allow: frozenset[str]) -> tuple[str, ...]:
    """Checks that there are enough calibration images.

    Args:
        where: The data, for the message.
        images: Number of images.
        wanted: Requested number.
        allow: Names of ``ALLOW``.

    Returns:
        Notes where there are fewer than requested, or, as allowed, fewer than the minimum.

    Raises:
        DataError: Fewer than ``FEWEST_CALIBRATION_IMAGES``, or none.
    """
    if images < 1 or (images < FEWEST_CALIBRATION_IMAGES and "few-images" not in allow):
        raise DataError(
            f"{where}: {images} calibration images ({wanted} asked for), fewer than {FEWEST_CALIBRATION_IMAGES}",
            "give more images" if images < 1 else "give more images, or pass --allow few-images",
        )
    breached = images < FEWEST_CALIBRATION_IMAGES
    notes = [f"{images} calibration images, fewer than {FEWEST_CALIBRATION_IMAGES}, as allowed"] if breached else []
    if images < wanted:
        notes.append(f"{images} calibration images, fewer than the {wanted} asked for")
    return tuple(notes)


def check_coverage(where: str, classes: Sequence[str], calibration: Split, allow: frozenset[str]) -> tuple[str, ...]:
    """Checks that every class has calibration images, where labels are known and there are enough images.

    More classes than calibration images are accepted: ranges are those of activations, not of classes.

    Returns:
        A note on classes without a calibration image.

    Raises:
        DataError: There are as many images as classes or more, and some class has none.
    """
    present = set(calibration.labels)
    missing = [name for label, name in enumerate(classes) if label not in present]
    if -1 in present or not missing:
        return ()
    found = f"{where}: {len(missing)} of {len(classes)} classes have no calibration images ({_some(missing)})"
    if len(calibration) >= len(classes) and "missing-classes" not in allow:
        raise DataError(found, "add images of them to the calibration folder, or pass --allow missing-classes")
    return (found,)


def check_head(classes: Sequence[str], head: int) -> None:
    """Checks that the network's head and the data have the same number of classes.

    Args:
        classes: Class names of the data.
        head: Width of the network's classifier.

    Raises:
        DataError: The head has more classes, or fewer.
    """
    found = len(classes)
    if found < head:
        raise DataError(
            f"the data has {found} classes, the network's head has {head}",
            "use weights trained on these classes, or add an empty folder for each class the head knows besides "
            "and pass --allow missing-classes",
        )
    if found > head:
        raise DataError(
            f"the data has {found} classes, the network's head has {head}",
            "use weights trained on these classes, or remove the folders of classes the head does not know",
        )


def check_apart(calibration: Split, validation: Split, allow: frozenset[str]) -> tuple[str, ...]:
    """Checks that user-chosen calibration images are no validation images.

    Returns:
        A note where it is allowed.

    Raises:
        DataError: Shared images; the message names both files of the first pair.
    """
    if not (pairs := shared(calibration, validation)):
        return ()
    first, second = calibration.images[pairs[0][0]].where, validation.images[pairs[0][1]].where
    found = f"{len(pairs)} calibration images are also validation images ({first} is {second})"
    if "overlap" not in allow:
        raise DataError(found, "take them out of either, or pass --allow overlap")
    return (found,)


def shared(split: Split, other: Split) -> tuple[tuple[int, int], ...]:
    """Images of ``split`` whose content is in ``other`` too.

    Only images with equal fingerprints are read completely, so that large disjoint splits are compared quickly.

    Returns:
        Pairs of an index into ``split``, ascending, and the first index into ``other`` with the same content.
    """
    candidates: dict[Hashable, list[int]] = defaultdict(list)
    for index, image in enumerate(other.images):
        candidates[image.fingerprint].append(index)
    pairs = []
    for index, image in enumerate(split.images):
        twin = _twin(image, [(second, other.images[second]) for second in candidates.get(image.fingerprint, ())])
        if twin is not None:
            pairs.append((index, twin))
    return tuple(pairs)


def without(split: Split, pairs: Sequence[tuple[int, int]]) -> Split:
    """The split less the images that ``shared`` found."""
    gone = {index for index, _ in pairs}
    return split.take([index for index in range(len(split)) if index not in gone])


def _twin(image: StoredImage, candidates: Sequence[tuple[int, StoredImage]]) -> int | None:
    """The first candidate with the same content."""
    return next((index for index, candidate in candidates if candidate.sha256 == image.sha256), None)


def _some(names: Sequence[str]) -> str:
    """The first three names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
