"""Tables of images with any number of classes each: CSV of a path and a column of 0 and 1 for each class, or of names.

The first row names the columns. One is the path, relative to the table's folder; one may be the split. A column
``labels`` holds the names of an image's classes with ``|`` or ``;`` between them; without it, every other column is a
class, in the order of the network's outputs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.data.content import WholeFile
from edgeres.data.sources.source import TRAIN, VALIDATION, RawDataset, all_refused, probed, split_name, within
from edgeres.data.sources.table import LABELS, PATHS, SPLITS, delimited
from edgeres.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.data.split import Split
    from edgeres.progress import Progress

_LISTED = ("labels", "classes", "tags")
_HINT = "the first line names a column of the path and one of 0 and 1 for each class, or one of 'labels'"


@dataclass(frozen=True, slots=True)
class _Row:
    """An image of a table: its place for messages, its file, the split that is named, and its classes by name."""

    place: str
    path: Path
    split: str
    names: frozenset[str]


def is_label_table(path: Path) -> bool:
    """Whether a path is a CSV file whose first line has a column of paths and no column of one label."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    columns = [name.strip().lower() for name in _header(path)]
    return any(name in columns for name in PATHS) and not any(name in columns for name in LABELS)


def label_table(path: Path, progress: Progress) -> RawDataset:
    """Reads a table, and the header of every image that it names.

    Raises:
        DataError: It is no CSV file, a cell is not 0 or 1, a path is not below its folder or is not an image.
    """
    if path.suffix.lower() != ".csv" or not path.is_file():
        raise DataError(f"{path} is no table of labels", f"pass --data FILE.csv: {_HINT}")
    names = [name.strip() for name in _header(path)]
    rows, classes = _rows(path, names)
    if not rows:
        raise DataError(f"{path} has no rows", "write one image a line below the names of the columns")
    counts = Counter(name for row in rows for name in row.names)
    splits: dict[str, Split] = {}
    refused: list[DataError] = []
    for name in dict.fromkeys(row.split for row in rows):
        splits[name] = _split(
            name, [row for row in rows if row.split == name], classes, counts, progress=progress, refused=refused
        )
    if refused:
        raise all_refused(path, refused, len(rows))
    return RawDataset(
        path.resolve().stem,
        str(path),
        tuple(classes),
        splits.get("train"),
        splits.get("validation"),
        splits.get("calibration"),
        kind="table of several labels",
    )


def _split(
    name: str,
    rows: Sequence[_Row],
    classes: Sequence[str],
    counts: Counter[str],
    *,
    progress: Progress,
    refused: list[DataError],
) -> Split:
    """The images of some rows; the label of each is its rarest class, so that splits are balanced by that."""
    places = {one: index for index, one in enumerate(classes)}
    rarest = [min(row.names, key=lambda one: (counts[one], places[one]), default="") for row in rows]
    labels = [places.get(one, len(classes)) for one in rarest]
    annotations = tuple(tuple(int(one in row.names) for one in classes) for row in rows)
    split = probed(name, [WholeFile(row.path) for row in rows], labels, progress, refused)
    return split if refused else replace(split, annotations=annotations)


def _header(path: Path) -> list[str]:
    return next(delimited(path))[1]


def _rows(path: Path, names: list[str]) -> tuple[list[_Row], list[str]]:
    """The rows of a table, and its classes in order."""
    plain = [name.lower() for name in names]

    def column(known: Sequence[str]) -> int | None:
        return next((plain.index(name) for name in known if name in plain), None)

    at, split, listed = column(PATHS), column(SPLITS), column(_LISTED)
    if at is None:
        raise DataError(f"{path} has no column of the path: its first line names {', '.join(names) or 'none'}", _HINT)
    taken = {at, split, listed}
    classes = [] if listed is not None else [name for index, name in enumerate(names) if index not in taken]
    rows: list[_Row] = []
    seen: dict[Path, str] = {}
    for place, cells in islice(delimited(path), 1, None):
        if len(cells) != len(names):
            raise DataError(f"{place} has {len(cells)} columns, and the first line {len(names)}", _HINT)
        image = _below(path, cells[at], place)
        if (other := seen.setdefault(image, place)) is not place:
            raise DataError(f"{place} names {cells[at]} again, after {other}", "name each image once")
        own = _names(cells[listed]) if listed is not None else _ones(place, cells, names, classes)
        rows.append(_Row(place, image, _split_of(cells, at, split, place), own))
    if listed is not None:
        classes = sorted(set().union(*(row.names for row in rows))) if rows else []
    if len(set(classes)) < len(classes) or len(classes) < 2:
        raise DataError(f"{path} names {len(classes)} classes: {', '.join(classes)}", f"name each once; {_HINT}")
    return rows, classes


def _names(cell: str) -> frozenset[str]:
    return frozenset(name.strip() for part in cell.split("|") for name in part.split(";") if name.strip())


def _ones(place: str, cells: list[str], names: list[str], classes: list[str]) -> frozenset[str]:
    by_name = dict(zip(names, (cell.strip() for cell in cells), strict=True))
    for name in classes:
        if by_name[name] not in ("0", "1"):
            raise DataError(f"{place}: class {name!r} is {by_name[name]!r}, not 0 or 1", "write 1 for a class it has")
    return frozenset(name for name in classes if by_name[name] == "1")


def _below(table: Path, name: str, place: str) -> Path:
    """The image of a row, in the table's folder or below it."""
    path = within(table.parent, name.strip(), place)
    if not path.is_file():
        raise DataError(f"{place} names {name}, which is not there", "paths are relative to the table's own folder")
    return path


def _split_of(cells: list[str], at: int, split: int | None, place: str) -> str:
    """The split of a row, by its column or else by the first folder of its path; training where neither says it."""
    word = cells[split] if split is not None else Path(cells[at]).parts[0] if cells[at] else ""
    found = split_name(word)
    if found is None and split is not None:
        raise DataError(f"{place}: the split {word!r} is unknown", f"write one of {', '.join((*TRAIN, *VALIDATION))}")
    return found or "train"
