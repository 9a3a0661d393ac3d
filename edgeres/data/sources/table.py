"""Tables of ``path,label``: CSV, TSV, Parquet of paths, and the ``metadata.csv`` of Hugging Face's image folders.

The first row names the columns: one of ``PATHS`` and one of ``LABELS``, in any case, and perhaps one of ``SPLITS``.
Paths are relative to the table's folder and stay below it.
"""

from __future__ import annotations

import csv
import json
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeres.data.content import WholeFile
from edgeres.data.sources import arrow
from edgeres.data.sources.source import (
    TRAIN,
    VALIDATION,
    RawDataset,
    Samples,
    SourceKind,
    assembled,
    chosen_splits,
    split_name,
    within,
)
from edgeres.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from edgeres.progress import Progress

PATHS = ("path", "image", "file", "filename", "file_name", "filepath", "file_path", "image_path", "img")
LABELS = ("label", "class", "target", "labels", "class_name", "label_name", "category")
SPLITS = ("split", "set", "subset", "partition")

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_DELIMITERS = (",", ";", "\t", "|")
_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
_NAMED = 5  # most rows in a message


class _MissingColumn(DataError):
    """A table without a column of paths or of labels."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: its place for messages, its path, label and split."""

    place: str
    path: str
    label: str
    split: str


def _claims(path: Path) -> bool:
    """Whether a path is a table of paths, or a folder with metadata that labels its images."""
    if path.is_file():
        return path.suffix.lower() in _SUFFIXES and not _holds_images(path)
    return any(_labels_images(file) for file, _ in _metadata_files(path))


def _holds_images(path: Path) -> bool:
    return path.suffix.lower() == ".parquet" and arrow.holds_images(path)


def _labels_images(path: Path) -> bool:
    """Whether the metadata of a folder have a column of labels; captions and boxes alone do not say the class."""
    try:
        next(table_rows(path), None)
    except _MissingColumn:
        return False
    except DataError:
        return True
    return True


def _metadata_files(folder: Path) -> list[tuple[Path, str]]:
    """The metadata of a folder, or of the folder of each split, with the name of that split."""
    whole = [(folder / name, "") for name in _METADATA if (folder / name).is_file()]
    if whole:
        return whole[:1]
    parts = [(folder / split / name, split) for split in (*TRAIN, *VALIDATION) for name in _METADATA]
    return [(file, split) for file, split in parts if file.is_file()]


def read_table(path: Path, progress: Progress) -> RawDataset:
    """Reads a table, and the header of every image that it names.

    Raises:
        DataError: A missing column, label or image, a path outside of the folder, or one that is named twice; the
            message has the line.
    """
    files = [(path, "")] if path.is_file() else _metadata_files(path)
    rows = [(file, replace(row, split=row.split or split)) for file, split in files for row in table_rows(file)]
    where = f"{files[0][0]}"
    if not rows:
        raise DataError(f"{where} has no rows", "write one image a line below the names of the columns")
    splits, notes = chosen_splits(row.split for _, row in rows if row.split)
    samples = {name: Samples.empty() for name in ("train", "validation", "calibration")}
    seen: dict[Path, Row] = {}
    missing: list[str] = []
    for file, row in rows:
        image = _image(file, row, seen)
        if not image.is_file():
            fault = "is a folder" if image.is_dir() else "is not there"
            missing.append(f"{row.place} names {image}, which {fault}")
        elif not row.split or row.split in splits:
            samples[splits.get(row.split, "train")].add(WholeFile(image), row.label)
    if missing:
        more = f"; and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise DataError("; ".join(missing[:_NAMED]) + more, "paths are relative to the table's own folder, with /")
    present = {name: split for name, split in samples.items() if split.labels}
    return assembled(KIND.name, path, present, progress, notes=notes)


def _image(file: Path, row: Row, seen: dict[Path, Row]) -> Path:
    """The image of a row, which no earlier row names."""
    if not row.path:
        raise DataError(f"{row.place} has no path", "name an image, or remove the row")
    if not row.label:
        raise DataError(f"{row.place} has no label", "give the class, or remove the row")
    if row.split and split_name(row.split) is None:
        known = ", ".join((*TRAIN, *VALIDATION))
        raise DataError(f"{row.place}: the split {row.split!r} is unknown", f"write one of {known}")
    image = within(file.parent, row.path, row.place)
    if (other := seen.setdefault(image, row)) is not row:
        raise DataError(f"{row.place} names {row.path} again, after {other.place}", "name each image once")
    return image


def table_rows(file: Path, labels: Sequence[str] = LABELS) -> Iterator[Row]:
    """Rows of a table, whose label is in the first column of those names that it has; ``DataError`` without one."""
    match file.suffix.lower():
        case ".parquet":
            return _arrow_rows(file, labels)
        case ".jsonl":
            return _json_rows(file, labels)
        case _:
            return _csv_rows(file, labels)


def _csv_rows(file: Path, labels: Sequence[str]) -> Iterator[Row]:
    """Rows of a delimited text."""
    lines = delimited(file)
    columns = _columns(file, next(lines)[1], labels)
    yield from (_row(place, cells, columns) for place, cells in lines)


def delimited(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Place and cells of each line of a delimited text in UTF-8 that is not empty, the names of the columns first.

    A first line ``sep=;``, as spreadsheets write it, states the delimiter; else it is the commonest in the names.
    """
    with _readable(file), file.open(encoding="utf-8-sig", newline="") as stream:
        first, line = stream.readline().rstrip("\r\n"), 1
        stated = first[4:] if first.lower().startswith("sep=") and len(first) == 5 else ""
        if stated:
            first, line = stream.readline().rstrip("\r\n"), 2
        delimiter = stated or max(_DELIMITERS, key=first.count)
        yield f"{file} line {line}", next(csv.reader([first], delimiter=delimiter), [])
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield f"{file} line {reader.line_num + line}", cells


def _json_rows(file: Path, labels: Sequence[str]) -> Iterator[Row]:
    """Rows of a text with one JSON object a line."""
    with _readable(file), file.open(encoding="utf-8-sig") as stream:
        for number, text in enumerate(stream, 1):
            place = f"{file} line {number}"
            if not text.strip():
                continue
            try:
                content = json.loads(text)
            except (ValueError, RecursionError) as failure:
                raise DataError(f"{place} is no JSON: {failure}", "write one object a line") from failure
            if not isinstance(content, dict):
                raise DataError(f"{place} is no JSON object", 'write {"file_name": ..., "label": ...}')
            yield _row(place, list(content.values()), _columns(file, list(content), labels))


def _arrow_rows(file: Path, labels: Sequence[str]) -> Iterator[Row]:
    """Rows of a Parquet file of paths."""
    names = arrow.column_names(file)
    path, label, split = _columns(file, names, labels)
    wanted = [names[column] for column in (path, label, split) if column is not None]
    for number, cells in enumerate(arrow.text_rows(file, wanted)):
        yield _row(f"{file} row {number}", cells, (0, 1, None if split is None else 2))


def _row(place: str, cells: Sequence[object], columns: tuple[int, int, int | None]) -> Row:
    if len(cells) <= max(column or 0 for column in columns):
        raise DataError(f"{place} has {len(cells)} columns, fewer than the first line", "quote cells with a delimiter")
    path, label, split = ("" if column is None or cells[column] is None else cells[column] for column in columns)
    return Row(place, str(path).strip(), str(label).strip(), str(split).strip())


def _columns(file: Path, names: Sequence[str], labels: Sequence[str]) -> tuple[int, int, int | None]:
    """Indices of the columns of paths, labels and splits; None without splits."""
    plain = [name.strip().lower() for name in names]

    def place(known: Iterable[str]) -> int | None:
        return next((plain.index(name) for name in known if name in plain), None)

    path, label = place(PATHS), place(labels)
    for index, what, known in ((path, "path", PATHS), (label, labels[0], labels)):
        if index is None:
            listed = ", ".join(names) if any(plain) else "none"
            missing = f"{file} has no column of the {what}: its first line names {listed}"
            raise _MissingColumn(missing, f"name it {known[0]}")
    assert path is not None
    assert label is not None
    return path, label, place(SPLITS)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Converts exceptions of unreadable text to ``DataError``."""
    try:
        yield
    except (OSError, UnicodeDecodeError, csv.Error) as failure:
        raise DataError(f"{file} cannot be read: {failure}", "write it as UTF-8 text, one row a line") from failure


KIND = SourceKind("table of paths", "a CSV, JSONL or Parquet of path,label and split", _claims, read_table)
