"""Pairs of an image and a mask of class indices: folders ``images`` and ``masks``, or a table of ``path,mask``.

The two folders stand beside each other, with subfolders ``train`` and ``val`` or without, or both in each of ``train``
and ``val``; a pair has one path below them, but for the suffix. ``classes.txt`` names the classes, one a line, in the
order of the values of a mask.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeres.data.content import WholeFile
from edgeres.data.images import EncodedImage
from edgeres.data.masks import IGNORED, Masks, check_mask, class_pixels
from edgeres.data.sources.class_folders import image_files
from edgeres.data.sources.source import (
    TRAIN,
    VALIDATION,
    RawDataset,
    all_refused,
    check_class_names,
    probed,
    split_name,
    within,
)
from edgeres.data.sources.table import table_rows
from edgeres.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from edgeres.data.split import Split
    from edgeres.progress import Progress

IMAGES = ("images", "JPEGImages")
MASKS = ("masks", "annotations", "labels", "SegmentationClass")
CLASSES = "classes.txt"
_COLUMNS = ("mask", "mask_path", "annotation", "segmentation")
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
_HINT = "give a folder with images/ and masks/ (each with train/ and val/, or not), or a table of path,mask"


@dataclass(frozen=True, slots=True)
class _Pair:
    """An image and its mask, with the split they are of; empty where none is named."""

    image: Path
    mask: Path
    split: str


def is_mask_folder(path: Path) -> bool:
    """Whether a folder has one of images and one of masks, itself or in one of its splits."""
    return any(_both(place) is not None for place in (path, *(path / name for name in (*TRAIN, *VALIDATION))))


def mask_pairs(path: Path, progress: Progress) -> RawDataset:
    """Reads the header of every image and mask, and counts the pixels of every mask.

    Raises:
        DataError: There are no pairs, one has no partner, a mask is not one of its image, or a value is no class.
    """
    pairs = _listed(path) if path.is_file() else _in_folders(path)
    if not pairs:
        raise DataError(f"{path} has no pairs of an image and a mask", _HINT)
    classes = _class_names(path.parent if path.is_file() else path)
    words = {word: split_name(word) or "train" for word in dict.fromkeys(pair.split for pair in pairs)}
    refused: list[DataError] = []
    splits: dict[str, Split] = {}
    for name in dict.fromkeys(words.values()):
        chosen = [pair for pair in pairs if words[pair.split] == name]
        split = _split(name, chosen, classes, progress, refused)
        if split is not None:
            splits[name] = split
    if refused:
        raise all_refused(path, refused, len(pairs))
    kinds = (splits.get("train"), splits.get("validation"), splits.get("calibration"))
    name = path.resolve().stem if path.is_file() else path.resolve().name
    return RawDataset(name, str(path), classes, *kinds, kind="images and masks")


def _split(
    name: str, pairs: Sequence[_Pair], classes: tuple[str, ...], progress: Progress, refused: list[DataError]
) -> Split | None:
    """The images of some pairs with their masks; None where one is refused. Labels are the rarest class of each."""
    before = len(refused)
    split = probed(name, [WholeFile(pair.image) for pair in pairs], [0] * len(pairs), progress, refused)
    if len(refused) > before:
        return None
    files: list[EncodedImage] = []
    rows: list[tuple[int, ...]] = []
    with progress.task(f"count the pixels of the {name} masks", len(pairs)) as advance:
        for pair, image in zip(pairs, split.images, strict=True):
            try:
                mask = EncodedImage.probe(WholeFile(pair.mask))
                check_mask(mask, image)
                rows.append(class_pixels(mask, len(classes)))
                files.append(mask)
            except DataError as failure:
                refused.append(failure)
            advance(1)
    if len(refused) > before:
        return None
    present = Counter(index for row in rows for index, count in enumerate(row) if count)
    rarest = [
        min((i for i, count in enumerate(row) if count), key=lambda i: (present[i], i), default=-1) for row in rows
    ]
    masks = Masks(tuple(files), tuple(range(len(classes))))
    return replace(split, labels=tuple(rarest), annotations=tuple(rows), masks=masks)


def _class_names(folder: Path) -> tuple[str, ...]:
    """The names in ``classes.txt``."""
    file = folder / CLASSES
    hint = f"name the classes in {file}, one a line, in the order of the values of a mask"
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as failure:
        raise DataError(f"{file} cannot be read, so the values of the masks have no names", hint) from failure
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not 2 <= len(set(names)) == len(names) <= IGNORED:
        raise DataError(f"{file} has {len(names)} names, {len(set(names))} different ones", hint)
    check_class_names(file, names)
    return names


def _both(place: Path) -> tuple[Path, Path] | None:
    """The folders of images and of masks in a folder; None where one is missing."""
    images, masks = ([place / name for name in names if (place / name).is_dir()] for names in (IMAGES, MASKS))
    return (images[0], masks[0]) if images and masks else None


def _in_folders(folder: Path) -> list[_Pair]:
    """The pairs of a folder, of the first words for training and validation alone."""
    if (both := _both(folder)) is not None:
        images, masks = both
        splits = [_first(images, names) for names in (TRAIN, VALIDATION)]
        if not any(splits):
            return list(_pairs(images, masks, ""))
        return [pair for name in filter(None, splits) for pair in _pairs(images / name, masks / name, name)]
    places = [_first(folder, names) for names in (TRAIN, VALIDATION)]
    found = [(name, _both(folder / name)) for name in filter(None, places)]
    return [pair for name, both in found if both for pair in _pairs(*both, name)]


def _first(folder: Path, names: Sequence[str]) -> str | None:
    return next((name for name in names if (folder / name).is_dir()), None)


def _pairs(images: Path, masks: Path, split: str) -> Iterator[_Pair]:
    """Each image with the mask of its relative path, but for the suffix."""
    by_stem = [
        {path.relative_to(root).with_suffix("").as_posix(): path for path in image_files(root)}
        for root in (images, masks)
    ]
    alone = [stems[stem] for stems, other in (by_stem, by_stem[::-1]) for stem in stems if stem not in other]
    if alone:
        more = f", and {len(alone) - 1} more" if len(alone) > 1 else ""
        kind, other = ("mask", masks) if alone[0].is_relative_to(images) else ("image", images)
        raise DataError(f"{alone[0]} has no {kind} of that name in {other}{more}", "give each image one mask")
    for stem, image in by_stem[0].items():
        yield _Pair(image, by_stem[1][stem], split)


def _listed(table: Path) -> list[_Pair]:
    """The pairs of a table, whose paths are relative to its folder."""
    if table.suffix.lower() not in _TABLES:
        raise DataError(f"{table} is no table of masks", _HINT)
    pairs: list[_Pair] = []
    seen: dict[Path, str] = {}
    for row in table_rows(table, _COLUMNS):
        image, mask = (within(table.parent, name, row.place) for name in (row.path, row.label))
        for path, name in ((image, row.path), (mask, row.label)):
            if not name or not path.is_file():
                what = f"{row.place} names {name or 'nothing'}, which is not there"
                raise DataError(what, "paths are relative to the table's own folder, with /")
        if row.split and split_name(row.split) is None:
            what = f"{row.place}: the split {row.split!r} is unknown"
            raise DataError(what, f"write one of {', '.join((*TRAIN, *VALIDATION))}")
        if (other := seen.setdefault(image, row.place)) != row.place:
            raise DataError(f"{row.place} names {row.path} again, after {other}", "name each image once")
        pairs.append(_Pair(image, mask, row.split))
    return pairs
