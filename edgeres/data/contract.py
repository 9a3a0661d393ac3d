"""Data contract: requirements on images, classes and splits, whose violation is a ``DataError``.

Each check raises it for what it names, and returns notes on what is violated as allowed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from edgeres.data.images import EXTENSIONS
from edgeres.errors import DataError, nearest

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from edgeres.data.sources.source import RawDataset
    from edgeres.data.split import Split

ALLOW = {
    "few-images": "calibrate on fewer than 32 images",
    "overlap": "keep training and calibration images that are also validation images",
    "missing-classes": "accept classes without training, calibration or validation images",
    "chance": "continue with a float network that predicts at chance",
}
"""Exceptions that a user may allow, with their meaning."""

FEWEST_CALIBRATION_IMAGES = 32
"""Under exchangeability the next image exceeds the largest activation of n others with chance 1/(n+1): 3 % here."""


def check_allow(allow: frozenset[str]) -> None:
    """Checks the names of allowed exceptions; the message has the nearest one."""
    for name in sorted(allow - ALLOW.keys()):
        raise DataError(f"nothing is allowed by {name!r}", nearest(name, ALLOW))


def check_not_empty(raw: RawDataset) -> None:
    """Checks that there are images of two classes or more."""
    if not any(len(split) for split in (raw.train, raw.validation) if split is not None):
        what = f"{raw.where} holds no images in class folders"
        raise DataError(what, f"put {' '.join(sorted(EXTENSIONS))} files into one folder per class")
    if len(raw.classes) == 1:
        what = f"{raw.where} holds the one class {raw.classes[0]!r}"
        raise DataError(what, "put each class into a folder of its own")


def check_classes(
    where: str, classes: Sequence[str], splits: Sequence[Split], allow: frozenset[str]
) -> tuple[str, ...]:
    """Checks that every split has images of every class."""
    notes = []
    for split in splits:
        if missing := _absent(classes, split):
            what = f"{where}: {len(missing)} of {len(classes)} classes have no {split.name} images ({_some(missing)})"
            if not len(split) or "missing-classes" not in allow:
                raise DataError(what, "add images, remove the folders, or pass --allow missing-classes")
            notes.append(what)
    return tuple(notes)


def check_identities(where: str, validation: Split) -> tuple[Split, tuple[str, ...]]:
    """The validation images whose identity has another one, which a query is to find; a note on those left out.

    Raises:
        DataError: Fewer than two identities have two images.
    """
    counts = Counter(validation.labels)
    chosen = [index for index, label in enumerate(validation.labels) if counts[label] > 1]
    if len({validation.labels[index] for index in chosen}) < 2:
        what = f"{where}: {sum(count > 1 for count in counts.values())} identities have two validation images or more"
        raise DataError(what, "give a folder for each identity, two of them or more with two images")
    left = len(validation) - len(chosen)
    note = f"{left} validation images are left out, since no other image has their identity"
    return validation.take(chosen), (note,) if left else ()


def check_several(where: str, classes: Sequence[str], validation: Split) -> tuple[str, ...]:
    """A note on classes that no validation image has, which the score leaves out.

    Raises:
        DataError: No validation image has a class.
    """
    rows = validation.annotations
    missing = [name for index, name in enumerate(classes) if not any(row[index] for row in rows)]
    if len(missing) == len(classes):
        raise DataError(f"{where}: no validation image has a class", "name the classes of the validation images")
    what = f"{where}: {len(missing)} of {len(classes)} classes have no validation images ({_some(missing)})"
    return (f"{what}; the score leaves them out",) if missing else ()


def check_calibration(where: str, images: int, wanted: int, allow: frozenset[str]) -> tuple[str, ...]:
    """Checks that there are ``FEWEST_CALIBRATION_IMAGES`` or more; fewer than ``wanted`` are noted."""
    few = images < FEWEST_CALIBRATION_IMAGES
    if images < 1 or (few and "few-images" not in allow):
        what = f"{where}: {images} calibration images ({wanted} asked for), fewer than {FEWEST_CALIBRATION_IMAGES}"
        raise DataError(what, "give more images" if images < 1 else "give more images, or pass --allow few-images")
    notes = [f"{images} calibration images, fewer than {FEWEST_CALIBRATION_IMAGES}, as allowed"] if few else []
    if images < wanted:
        notes.append(f"{images} calibration images, fewer than the {wanted} asked for")
    return tuple(notes)


def check_coverage(where: str, classes: Sequence[str], calibration: Split, allow: frozenset[str]) -> tuple[str, ...]:
    """Checks that every class has calibration images, where labels are known and there are as many images as classes.

    More classes than images are accepted and noted: ranges are those of activations, not of classes.
    """
    missing = _absent(classes, calibration)
    if -1 in calibration.labels or not missing:
        return ()
    what = f"{where}: {len(missing)} of {len(classes)} classes have no calibration images ({_some(missing)})"
    if len(calibration) >= len(classes) and "missing-classes" not in allow:
        raise DataError(what, "add images of them to the calibration folder, or pass --allow missing-classes")
    return (what,)


def check_labels(split: Split) -> tuple[str, ...]:
    """A note on images of one content under different classes, one of which is wrong.

    Only images with equal fingerprints are read completely.
    """
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for index, image in enumerate(split.images):
        alike[image.fingerprint].append(index)
    first: dict[str, int] = {}
    pairs = []
    for members in alike.values():
        if len({split.labels[index] for index in members}) > 1:
            for index in members:
                other = first.setdefault(split.images[index].sha256, index)
                pairs += [(index, other)] if split.labels[index] != split.labels[other] else []
    if not pairs:
        return ()
    one, two = (split.images[index].where for index in pairs[0])
    return (f"{len(pairs)} {split.name} images have the content of one in another class: {one} is {two}",)


def check_head(classes: Sequence[str], head: int) -> None:
    """Checks that the network's classifier has one output for each class of the data."""
    if len(classes) == head:
        return
    way = "use weights trained on these classes, or remove the folders of classes the head does not know"
    if len(classes) < head:
        way = "say which outputs they are, with --classes MAP (a CSV of folder,output), or use weights trained on them"
    raise DataError(f"the data has {len(classes)} classes, the network's head has {head}", way)


def check_apart(calibration: Split, validation: Split, allow: frozenset[str]) -> tuple[str, ...]:
    """Checks that user-chosen calibration images are no validation images; the message names both files of a pair."""
    if not (pairs := shared(calibration, validation)):
        return ()
    first, second = calibration.images[pairs[0][0]].where, validation.images[pairs[0][1]].where
    what = f"{len(pairs)} calibration images are also validation images ({first} is {second})"
    if "overlap" not in allow:
        raise DataError(what, "take them out of either, or pass --allow overlap")
    return (what,)


def shared(split: Split, other: Split) -> tuple[tuple[int, int], ...]:
    """Pairs of an index into ``split``, ascending, and the first index into ``other`` with the same content.

    Only images with equal fingerprints are read completely, so that large disjoint splits are compared quickly.
    """
    candidates: dict[Hashable, list[int]] = defaultdict(list)
    for index, image in enumerate(other.images):
        candidates[image.fingerprint].append(index)
    pairs = []
    for index, image in enumerate(split.images):
        alike = candidates.get(image.fingerprint, ())
        equal = next((second for second in alike if other.images[second].sha256 == image.sha256), None)
        if equal is not None:
            pairs.append((index, equal))
    return tuple(pairs)


def without(split: Split, pairs: Sequence[tuple[int, int]]) -> Split:
    """The split less the images that ``shared`` found."""
    gone = {index for index, _ in pairs}
    return split.take([index for index in range(len(split)) if index not in gone])


def _absent(classes: Sequence[str], split: Split) -> list[str]:
    present = set(split.labels)
    return [name for label, name in enumerate(classes) if label not in present]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
