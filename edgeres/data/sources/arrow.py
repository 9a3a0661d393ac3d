"""Arrow and Parquet files as tables: columns of text and labels, and cells that hold encoded images.

``pyarrow`` is an optional dependency. Arrow streams are memory-mapped; of Parquet a few row groups are in memory at a
time. Every table is validated before its cells are read.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING, Any

from edgeres.data.content import utf8
from edgeres.errors import BackendUnavailable, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_GROUPS = 4  # row groups of Parquet files in memory
_BATCH = 4096  # rows of text read at a time


def import_pyarrow(path: Path) -> Any:
    """The ``pyarrow`` package, to read ``path``; ``BackendUnavailable`` without it."""
    if find_spec("pyarrow") is None:
        what = f"{path} is read with pyarrow, which is not installed"
        raise BackendUnavailable(what, "pip install 'edgeres[arrow]'")
    import pyarrow as module

    return module


class RowGroups:
    """The last few row groups of images of all Parquet files, for threads that decode."""

    def __init__(self) -> None:
        self._groups: OrderedDict[tuple[Path, int], Any] = OrderedDict()
        self._lock = Lock()

    def read(self, table: ParquetTable, group: int) -> Any:
        """The column of encoded images of one row group."""
        with self._lock:
            key = (table.path, group)
            if key not in self._groups:
                self._groups[key] = table.read_group(group)
                if len(self._groups) > _GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(key)
            return self._groups[key]


class ImageTable(ABC):
    """A table with a column of images: their bytes, or a structure of ``bytes`` and ``path``, or paths alone."""

    path: Path
    schema: Any

    @abstractmethod
    def column(self, name: str) -> list[Any]:
        """The values of one column, such as the labels."""

    @abstractmethod
    def encoded(self, row: int) -> bytes | None:
        """The encoded image of one row; None where there is none."""

    @property
    def features(self) -> dict[str, Any]:
        """The columns' types as Hugging Face's ``datasets`` writes them into the schema; empty without."""
        return stated_features((self.schema.metadata or {}).get(b"huggingface", b""))

    @property
    def image_column(self) -> str | None:
        """Name of the column of images: the first that is declared as one, or whose type holds encoded images."""
        declared = [name for name, kind in self.features.items() if kind.get("_type") == "Image"]
        typed = [field.name for field in self.schema if _encoded(field.type)]
        return next((name for name in (*declared, *typed) if name in self.schema.names), None)


class ArrowTable(ImageTable):
    """An Arrow stream as ``datasets`` writes it, memory-mapped."""

    def __init__(self, path: Path) -> None:
        pa = import_pyarrow(path)
        self.path = path
        with refusing(path):
            source = pa.memory_map(str(path))
            try:
                table = pa.ipc.open_stream(source).read_all()
            except pa.ArrowInvalid:
                source.seek(0)
                table = pa.ipc.open_file(source).read_all()
            table.validate(full=True)
        self.schema, self._table, self._images = table.schema, table, None
        if (name := self.image_column) is not None:
            self._images = _bytes_of(pa, table.column(name))

    def column(self, name: str) -> list[Any]:
        """The values of one column."""
        return list(self._table.column(name).to_pylist())

    def encoded(self, row: int) -> bytes | None:
        """The encoded image of one row."""
        assert self._images is not None
        buffer = self._images[row].as_buffer()
        return None if buffer is None else buffer.to_pybytes()


class ParquetTable(ImageTable):
    """A Parquet file whose row groups of images are read on access."""

    def __init__(self, path: Path, groups: RowGroups) -> None:
        import_pyarrow(path)
        import pyarrow.parquet

        self.path, self._groups = path, groups
        with refusing(path):
            self._file = pyarrow.parquet.ParquetFile(str(path))
            self.schema = self._file.schema_arrow
            metadata = self._file.metadata
            counts = (metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
            self._starts = [0, *accumulate(counts)]

    def column(self, name: str) -> list[Any]:
        """The values of one column."""
        with refusing(self.path):
            return list(self._file.read(columns=[name]).column(0).to_pylist())

    def read_group(self, group: int) -> Any:
        """The column of encoded images of one row group."""
        name = self.image_column
        with refusing(self.path):
            column = self._file.read_row_group(group, columns=[name]).column(0)
            column.validate(full=True)
            return _bytes_of(import_pyarrow(self.path), column)

    def encoded(self, row: int) -> bytes | None:
        """The encoded image of one row."""
        group = bisect_right(self._starts, row) - 1
        value = self._groups.read(self, group)[row - self._starts[group]].as_py()
        return value if isinstance(value, bytes) else None


@dataclass(frozen=True, slots=True)
class Cell:
    """The encoded image of one row of a table."""

    table: ImageTable
    row: int

    @property
    def where(self) -> str:
        """The path and the row."""
        return f"{utf8(self.table.path)} row {self.row}"

    def open(self) -> io.BytesIO:
        """The image's bytes."""
        content = self.table.encoded(self.row)
        if content is None:
            raise DataError(f"{self.where} has no image", "remove the row")
        return io.BytesIO(content)


def holds_images(path: Path) -> bool:
    """Whether a Parquet file has a column of encoded images, rather than of paths."""
    return ParquetTable(path, RowGroups()).image_column is not None


def text_rows(path: Path, wanted: Sequence[str]) -> Iterator[tuple[object, ...]]:
    """The rows of some columns of a Parquet file, which hold text or whole numbers."""
    pa = import_pyarrow(path)
    import pyarrow.parquet

    with refusing(path):
        file = pyarrow.parquet.ParquetFile(str(path))
        for name in wanted:
            kind = file.schema_arrow.field(name).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
                raise DataError(f"{path}: column {name!r} is of type {kind}", "write text or whole numbers into it")
        for batch in file.iter_batches(_BATCH, columns=list(wanted)):
            yield from zip(*(batch.column(name).to_pylist() for name in wanted), strict=True)


def column_names(path: Path) -> tuple[str, ...]:
    """Names of the columns of a Parquet file."""
    return tuple(ParquetTable(path, RowGroups()).schema.names)


def stated_features(text: bytes) -> dict[str, Any]:
    """The ``features`` of Hugging Face's metadata, as JSON; empty where there are none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    content = content.get("info", content) if isinstance(content, dict) else {}
    features = content.get("features") if isinstance(content, dict) else None
    return {k: v for k, v in features.items() if isinstance(v, dict)} if isinstance(features, dict) else {}


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Converts exceptions of pyarrow for damaged files to ``DataError``."""
    pa = import_pyarrow(path)
    try:
        yield
    except (pa.ArrowException, OSError) as failure:
        raise DataError(f"{path} cannot be read: {failure}", "fetch or write the file again") from failure


def _encoded(kind: Any) -> bool:
    """Whether a type holds encoded images: bytes, or a structure with bytes."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _encoded(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _bytes_of(pa: Any, column: Any) -> Any:
    """The bytes in a column of images, of nulls where it has paths alone."""
    import pyarrow.compute

    if pa.types.is_struct(column.type):
        return pyarrow.compute.struct_field(column, "bytes")
    return column if _encoded(column.type) else pa.chunked_array([pa.nulls(len(column), pa.binary())])
