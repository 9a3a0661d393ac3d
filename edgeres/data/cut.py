"""Division of a folder's images into four splits with disjoint content."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from edgeres.data.contract import (
    check_apart,
    check_calibration,
    check_classes,
    check_coverage,
    check_not_empty,
    shared,
    without,
)
from edgeres.data.partition import partition, round_robin

if TYPE_CHECKING:
    from edgeres.data.sources import RawDataset
    from edgeres.data.split import Split
    from edgeres.progress import Progress

TUNING = 512
"""Number of tuning images from a training set, at most a tenth of it."""

HELD_OUT = 5
"""One image in ``HELD_OUT`` is held out where only one kind of images is given."""


@dataclass(frozen=True, slots=True)
class Splits:
    """The four splits, with notes on their origin."""

    train: Split
    calibration: Split
    tuning: Split
    validation: Split
    notes: tuple[str, ...]


def cut(found: RawDataset, wanted: int, seed: int, allow: frozenset[str], progress: Progress) -> Splits:
    """Divides the images of a folder into splits.

    Images shared by training and validation are removed from training; the others are split by the rules of
    ``dataset``.

    Args:
        found: The images.
        wanted: Number of calibration images.
        seed: Seed of every choice.
        allow: Names of ``contract.ALLOW``.
        progress: Progress reporter.

    Raises:
        DataError: The data violates the contract.
    """
    check_not_empty(found)
    train, validation, split_notes = _two(found, wanted, seed, progress)
    pool, twin_notes = _apart(train, validation, allow)
    train = train if "overlap" in allow else pool
    class_notes = check_classes(found.where, found.classes, (train, validation), allow)
    apart_notes = check_apart(found.calibration, validation, allow) if found.calibration else ()
    calibration, tuning = _picks(found.calibration, pool, wanted, seed)
    count_notes = check_calibration(found.where, len(calibration), wanted, allow)
    coverage_notes = check_coverage(found.where, found.classes, calibration, allow)
    notes = (*split_notes, *twin_notes, *class_notes, *apart_notes, *count_notes, *coverage_notes)
    return Splits(without(train, shared(train, tuning)), calibration, tuning, validation, notes)


def _two(found: RawDataset, wanted: int, seed: int, progress: Progress) -> tuple[Split, Split, tuple[str, ...]]:
    """Training and validation images; where one kind is missing, a share of every class of the other is taken."""
    if found.train is not None and found.validation is not None:
        return found.train, found.validation, ()
    # Validation takes a fifth of every class; calibration and tuning take their number.
    if found.train is not None:
        whole, missing, limit = found.train, "validation", len(found.train)
    else:
        assert found.validation is not None
        whole, missing, limit = found.validation, "train", ceil((wanted + TUNING) / len(found.classes))
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
    twins = shared(train, validation)
    if not twins:
        return train, ()
    first = f"{train.images[twins[0][0]].where} is {validation.images[twins[0][1]].where}"
    fate = "stay in training, as allowed" if "overlap" in allow else "are left out of training"
    return without(train, twins), (f"{len(twins)} training images are validation images too and {fate}: {first}",)


def _picks(apart: Split | None, pool: Split, wanted: int, seed: int) -> tuple[Split, Split]:
    """Calibration and tuning images.

    Tuning is picked first where both come from training, so that another number of calibration images does not change
    it.
    """
    if apart is None:
        tuning = _tuning(pool, seed)
        return _pick(without(pool, shared(pool, tuning)), wanted, seed, "calibration"), tuning
    calibration = _pick(apart, wanted, seed, "calibration")
    return calibration, _tuning(without(pool, shared(pool, calibration)), seed)


def _tuning(pool: Split, seed: int) -> Split:
    """Tuning images; one image of each class is left for training."""
    order = round_robin(pool.labels, seed)
    last = {pool.labels[index]: index for index in order}
    spare = pool.take([index for index in range(len(pool)) if last[pool.labels[index]] != index])
    return _pick(spare, min(TUNING, len(pool) // 10), seed, "tuning")


def _pick(split: Split, count: int, seed: int, name: str) -> Split:
    """At most ``count`` images of different content, spread over the classes."""
    chosen: dict[str, int] = {}
    for index in round_robin(split.labels, seed):
        if len(chosen) >= count:
            break
        chosen.setdefault(split.images[index].sha256, index)
    return split.take(list(chosen.values()), name)
