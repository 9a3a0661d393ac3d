"""Hugging Face ``datasets`` on disk: ``save_to_disk``, its cache of Arrow files, and the hub's Parquet shards.

Files are read with pyarrow; no loading script is executed. Class names are those of the column of type ``ClassLabel``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgeres.data.content import WholeFile
from edgeres.data.sources.arrow import (
    ArrowTable,
    Cell,
    ImageTable,
    ParquetTable,
    RowGroups,
    holds_images,
    stated_features,
)
from edgeres.data.sources.source import (
    RawDataset,
    Samples,
    SourceKind,
    assembled,
    chosen_splits,
    split_name,
    split_word,
    within,
)
from edgeres.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.progress import Progress

LABELS = ("label", "labels", "fine_label", "class", "target", "cls")

_MOST_BYTES = 1 << 24  # longest JSON that is read
_FEWEST = 2  # class names of a data set


def _claims(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() == ".arrow" or (path.suffix.lower() == ".parquet" and holds_images(path))
    names = ("dataset_dict.json", "state.json")
    return any((path / name).is_file() for name in names) or bool(_arrow_files(path) or _parquet_files(path))


def _arrow_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.arrow") if not file.name.startswith("cache-"))


def _parquet_files(folder: Path) -> list[Path]:
    """Shards of images in a folder, in its ``data``, or in the folder of each split."""
    for place in (folder, folder / "data"):
        files = sorted(file for file in place.glob("*.parquet") if file.name != "metadata.parquet")
        files += sorted(file for part in place.glob("*/*.parquet") if split_name(part.parent.name) for file in [part])
        if files and holds_images(files[0]):
            return files
    return []


def read_hugging_face(path: Path, progress: Progress) -> RawDataset:
    """Reads the labels of every row and the header of every image.

    Raises:
        DataError: A damaged or missing file, no column of images or of labels, or images that are not in the files.
        BackendUnavailable: pyarrow is not installed.
    """
    shards = _shards(path)
    splits, notes = chosen_splits(word for word, _ in shards if split_name(word))
    groups, names = RowGroups(), tuple[str, ...]()
    samples = {name: Samples.empty() for name in ("train", "validation", "calibration")}
    used = [(word, file) for word, file in shards if word in splits or split_name(word) is None]
    with progress.task("read the tables", len(used)) as advance:
        for word, file in used:
            table = ParquetTable(file, groups) if file.suffix.lower() == ".parquet" else ArrowTable(file)
            stated = _add(table, samples[splits.get(word, "train")])
            if names and stated != names:
                raise DataError(f"{file} has other class names than the shards before it", "use shards of one data set")
            names = stated
            advance(1)
    present = {name: split for name, split in samples.items() if split.labels}
    hidden = [name for name, split in present.items() if set(split.labels) == {-1}]
    for name in hidden:
        notes = (*notes, f"the {len(present.pop(name).labels)} {name} images have no labels and are not used")
    if not present:
        raise DataError(f"{path} has no labelled rows", "save a data set with images and labels")
    return assembled(KIND.name, path, present, progress, names=names, notes=notes)


def _shards(path: Path) -> list[tuple[str, Path]]:
    """Files of the data set with the word for their split."""
    if path.is_file():
        return [(split_word(path), path)]
    if (path / "dataset_dict.json").is_file():
        words = _json(path / "dataset_dict.json").get("splits")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DataError(f"{path / 'dataset_dict.json'} lists no splits", "save the data set again")
        folders = [(word, within(path, word, str(path / "dataset_dict.json"))) for word in words]
        return [(word, file) for word, folder in folders for file in _saved(folder)]
    if (path / "state.json").is_file():
        return [("train", file) for file in _saved(path)]
    return [(split_word(file), file) for file in _arrow_files(path) or _parquet_files(path)]


def _saved(folder: Path) -> list[Path]:
    """The Arrow files of one split that was saved with ``save_to_disk``."""
    state = _json(folder / "state.json")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(f"{folder} selects rows by an index", "call flatten_indices() and save_to_disk() again")
    listed = state.get("_data_files")
    files = [entry.get("filename") for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    if not files or not all(isinstance(name, str) for name in files):
        raise DataError(f"{folder / 'state.json'} lists no files", "save the data set again")
    paths = [within(folder, str(name), str(folder / "state.json")) for name in files]
    if lost := next((file for file in paths if not file.is_file()), None):
        raise DataError(f"{lost} is missing, and {folder / 'state.json'} lists it", "copy the whole folder")
    return paths


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path} is too long for a description", "save the data set again")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as failure:
        raise DataError(f"{path} cannot be read: {failure}", "save the data set again") from failure
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no object", "save the data set again")
    return content


def _add(table: ImageTable, samples: Samples) -> tuple[str, ...]:
    """Appends the rows of a table; the class names that it states."""
    features = table.features or _described(table.path.parent)
    image, label = table.image_column, _label_column(table, features)
    if image is None:
        what = f"{table.path} has no column of images: {', '.join(table.schema.names)}"
        raise DataError(what, "cast it with datasets.Image() and save again")
    labels = table.column(label)
    names = features.get(label, {}).get("names")
    names = tuple(names) if isinstance(names, list) and len(names) >= _FEWEST else ()
    paths = _paths(table, image) if labels else []
    for row, value in enumerate(labels):
        if value is None or not isinstance(value, int | str) or isinstance(value, bool):
            raise DataError(f"{table.path} row {row} has the label {value!r}", "give it one class, or remove the row")
        path = paths[row] if paths else None
        where = f"{table.path} row {row}"
        samples.add(Cell(table, row) if path is None else WholeFile(within(table.path.parent, path, where)), value)
    return names


def _paths(table: ImageTable, image: str) -> list[str | None]:
    """The path of each image that is not in the table itself; empty where all are."""
    column = table.schema.field(image).type
    if "struct" not in str(column):
        return []
    values = table.column(image) if table.encoded(0) is None else []
    return [value["path"] if value and value["bytes"] is None else None for value in values]


def _described(folder: Path) -> dict[str, Any]:
    file = folder / "dataset_info.json"
    return stated_features(file.read_bytes()) if file.is_file() and file.stat().st_size <= _MOST_BYTES else {}


def _label_column(table: ImageTable, features: dict[str, Any]) -> str:
    """The column of the classes: the only one of type ``ClassLabel``, or the first with a usual name."""
    declared = [name for name, kind in features.items() if kind.get("_type") == "ClassLabel"]
    if len(declared) == 1:
        return declared[0]
    usual = [name for name in LABELS if name in (declared or table.schema.names)]
    if usual:
        return usual[0]
    listed = ", ".join(declared or table.schema.names)
    raise DataError(f"{table.path}: which column has the classes: {listed}?", "rename it to label")


KIND = SourceKind(
    "Hugging Face dataset", "a Hugging Face dataset on disk (Arrow or Parquet)", _claims, read_hugging_face
)
