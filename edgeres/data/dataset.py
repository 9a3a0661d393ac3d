"""``Dataset``: training, calibration, tuning and validation splits with disjoint content.

Rules, by content and not by file name:

* validation shares no image with the other three;
* tuning, on which candidates are compared, shares no image with training and calibration;
* calibration images of a folder remain training images: calibration uses activations and no labels, so training on
  them does not bias it. The embedded digits keep all four disjoint.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from math import ceil
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from edgeres.data import contract
from edgeres.data.census import Census, MaskCensus
from edgeres.data.sources.digits import DIGITS, digits
from edgeres.data.sources.mask_pairs import mask_pairs
from edgeres.data.sources.multilabel import label_table
from edgeres.data.sources.registry import read_source
from edgeres.data.split import partition, round_robin
from edgeres.errors import DataError
from edgeres.progress import Progress, Silent

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.data.class_map import ClassMap
    from edgeres.data.preprocess import Preprocess
    from edgeres.data.sources.source import RawDataset
    from edgeres.data.split import Split

DIGITS_PER_CLASS = (50, 16, 10)
"""Digits of each class for validation, calibration and tuning; the rest, 1,037, is for training."""

TUNING = 512  # number of tuning images from a training set, at most a tenth of it
LabelKind = Literal["class", "several", "identity", "mask"]
"""What the labels of images are; see ``open_dataset``."""

_READERS = MappingProxyType({"several": label_table, "mask": mask_pairs})
"""What reads the sources of some kinds of labels; ``read_source`` those of the others."""

HELD_OUT = 5  # one image in ``HELD_OUT`` is held out where only one kind of images is given


@dataclass(frozen=True)
class Dataset:
    """The four splits of a data set, with class names in label order and notes on their origin.

    Calibration labels are -1 where unknown. A ``sample`` is the embedded digits. ``suggested`` is the preprocessing
    that the data state, if any. ``turned`` has the number of images of each kind with an EXIF rotation, such as ``400
    of 400 validation images``; kinds without any are left out. ``kind`` is the kind of source. ``subset`` are the
    outputs of the network that have a class of the data, where others have none; empty otherwise. ``census``
    counts all images of the source.
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
    kind: str = "embedded digits"
    subset: tuple[int, ...] = ()
    census: Census | None = None

    def mapped(self, class_map: ClassMap) -> Dataset:
        """The dataset with labels that are indices of a network's outputs, and the names of these as its classes.

        Raises:
            DataError: Images have several classes, and these are some of the network's: the others are not known.
        """
        if class_map.partial and self.validation.annotations:
            few, every = len(self.classes), len(class_map.names)
            way = "name the other outputs in classes.txt too" if self.validation.masks else "give a column for each"
            raise DataError(f"the data has labels of {few} classes, the network has {every}", way)
        moved = {-1: -1} | dict(enumerate(class_map.outputs))
        splits = {name: getattr(self, name) for name in ("train", "calibration", "tuning", "validation")}
        columns = sorted(range(len(self.classes)), key=class_map.outputs.__getitem__)
        renumbered = {
            name: replace(
                split,
                labels=tuple(moved[label] for label in split.labels),
                annotations=tuple(tuple(row[column] for column in columns) for row in split.annotations),
                masks=split.masks and replace(split.masks, outputs=class_map.outputs),
            )
            for name, split in splits.items()
        }
        subset = tuple(sorted(class_map.outputs)) if class_map.partial else ()
        return replace(self, classes=class_map.names, subset=subset, **renumbered)


def open_dataset(
    path: Path | None,
    *,
    seed: int,
    calibration: int,
    allow: frozenset[str],
    labels: LabelKind = "class",
    progress: Progress | None = None,
) -> Dataset:
    """Opens images, checks them and divides them into splits, deterministically for a ``seed``.

    ``path`` is any source of ``sources.registry``; None opens the embedded digits. There may be fewer ``calibration``
    images than asked for. ``allow`` holds names of ``contract.ALLOW``.
    ``labels`` are one class of each image, any number of ``several`` classes, an ``identity``, which need not be the
    same in training, or a ``mask`` with the class of every pixel.

    Raises:
        DataError: A missing source, an unreadable image, too few images, or images shared by disjoint splits.
    """
    contract.check_allow(allow)
    if path is None:
        return _digits(seed, calibration, allow)
    shown = progress or Silent()
    raw = _READERS.get(labels, read_source)(path, shown)
    dataset = _divided(raw, calibration, seed, allow, shown, labels=labels)
    for split in (dataset.calibration, dataset.tuning, dataset.validation):
        split.hash_all(shown)  # their digests are part of every run, so they are read here
    return dataset


def _digits(seed: int, calibration: int, allow: frozenset[str]) -> Dataset:
    whole, where, classes = digits(), "the embedded digits", tuple("0123456789")
    parts = partition(whole.labels, whole.hashes, lambda groups: DIGITS_PER_CLASS, seed)
    names = ("validation", "calibration", "tuning", "train")
    validation, pool, tuning, train = (whole.take(part, name) for part, name in zip(parts, names, strict=True))
    chosen = pool.take(round_robin(pool.labels, seed)[: max(0, calibration)])
    notes = contract.check_calibration(where, len(chosen), calibration, allow) + contract.check_coverage(
        where, classes, chosen, allow
    )
    census = Census.of(image.header for image in whole.images)
    return Dataset("digits", classes, train, chosen, tuning, validation, True, DIGITS, notes, census=census)


def _divided(
    raw: RawDataset, wanted: int, seed: int, allow: frozenset[str], progress: Progress, *, labels: LabelKind
) -> Dataset:
    """Divides the images of a source into splits by the rules above, ``wanted`` of them for calibration."""
    contract.check_not_empty(raw)
    train, validation, split_notes = _train_and_validation(raw, wanted, seed, progress)
    pool, shared_notes = _apart(train, validation, allow)
    train = train if "overlap" in allow else pool
    class_notes: tuple[str, ...] = ()
    if labels == "class":
        class_notes = contract.check_classes(raw.where, raw.classes, (train, validation), allow)
        class_notes += contract.check_labels(train) + contract.check_labels(validation)
    elif labels == "identity":
        validation, class_notes = contract.check_identities(raw.where, validation)
    else:
        class_notes = contract.check_several(raw.where, raw.classes, validation)
    apart_notes = contract.check_apart(raw.calibration, validation, allow) if raw.calibration else ()
    # Tuning is picked first where both come from training, so that another number of calibration images does not
    # change it.
    choose = _tuning_identities if labels == "identity" else _tuning
    if raw.calibration is None:
        tuning = choose(pool, seed)
        calibration = _pick(contract.without(pool, contract.shared(pool, tuning)), wanted, seed, "calibration")
    else:
        calibration = _pick(raw.calibration, wanted, seed, "calibration")
        tuning = choose(contract.without(pool, contract.shared(pool, calibration)), seed)
    count_notes = contract.check_calibration(raw.where, len(calibration), wanted, allow)
    coverage_notes = contract.check_coverage(raw.where, raw.classes, calibration, allow) if labels == "class" else ()
    notes = (*raw.notes, *split_notes, *shared_notes, *class_notes, *apart_notes, *count_notes, *coverage_notes)
    train = contract.without(train, contract.shared(train, tuning))
    turned = tuple(
        f"{count:,} of {len(split):,} {split.name} images"
        for split in (raw.train, raw.validation, raw.calibration)
        if split is not None and (count := sum(image.orientation != 1 for image in split.images))
    )
    kinds = (train, calibration, tuning, validation)
    given = [split for split in (raw.train, raw.validation, raw.calibration) if split is not None]
    census = Census.of((image.header for split in given for image in split.images), MaskCensus.of(raw.classes, given))
    return Dataset(raw.name, raw.classes, *kinds, False, raw.suggested, notes, turned, raw.kind, census=census)


def _train_and_validation(
    raw: RawDataset, wanted: int, seed: int, progress: Progress
) -> tuple[Split, Split, tuple[str, ...]]:
    """Training and validation images; where one kind is missing, a share of every class of the other is taken."""
    if raw.train is not None and raw.validation is not None:
        return raw.train, raw.validation, ()
    # Validation takes a fifth of every class; calibration and tuning take their number.
    if raw.train is not None:
        whole, missing, limit = raw.train, "validation", len(raw.train)
    else:
        assert raw.validation is not None
        whole, missing, limit = raw.validation, "train", ceil((wanted + TUNING) / len(raw.classes))
    held, rest = partition(
        whole.labels,
        whole.hash_all(progress),
        lambda groups: (min(groups - 1, max(1, round(groups / HELD_OUT)), limit),),
        seed,
    )
    note = f"no {missing} images are set apart: {len(held)} of {len(whole)}, chosen by content, take their place"
    train, validation = (rest, held) if missing == "validation" else (held, rest)
    return whole.take(train, "train"), whole.take(validation, "validation"), (note,)


def _apart(train: Split, validation: Split, allow: frozenset[str]) -> tuple[Split, tuple[str, ...]]:
    """The training images that are no validation images, and a note on the removed ones."""
    pairs = contract.shared(train, validation)
    if not pairs:
        return train, ()
    first = f"{train.images[pairs[0][0]].where} is {validation.images[pairs[0][1]].where}"
    fate = "stay in training, as allowed" if "overlap" in allow else "are left out of training"
    return contract.without(train, pairs), (
        f"{len(pairs)} training images are validation images too and {fate}: {first}",
    )


def _tuning(pool: Split, seed: int) -> Split:
    """Tuning images; one image of each class is left for training."""
    order = round_robin(pool.labels, seed)
    last = {pool.labels[index]: index for index in order}
    spare = pool.take([index for index in range(len(pool)) if last[pool.labels[index]] != index])
    return _pick(spare, min(TUNING, len(pool) // 10), seed, "tuning")


def _tuning_identities(pool: Split, seed: int) -> Split:
    """Tuning images for retrieval: all images of some identities, so that a query has an image to find."""
    members: dict[int, list[int]] = defaultdict(list)
    for index in round_robin(pool.labels, seed):
        members[pool.labels[index]].append(index)
    limit, chosen = min(TUNING, max(4, len(pool) // 10)), list[int]()
    for indices in members.values():
        if len(indices) > 1 and len(chosen) < limit:
            chosen += indices[: max(2, limit - len(chosen))]
    return _pick(pool.take(chosen), len(chosen), seed, "tuning")


def _pick(split: Split, count: int, seed: int, name: str) -> Split:
    """At most ``count`` images of different content, spread over the classes."""
    chosen: dict[str, int] = {}
    for index in round_robin(split.labels, seed):
        if len(chosen) >= count:
            break
        chosen.setdefault(split.images[index].sha256, index)
    return split.take(list(chosen.values()), name)
