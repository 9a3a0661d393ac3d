"""``StatedClasses``: the ``--classes`` file, which has the outputs' names in order or the output of each folder."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeres.data.class_map import NUMBER, ClassMap, named_outputs, some, spellings
from edgeres.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_HEADERS = ({"folder", "class"}, {"folder", "output"}, {"folder", "index"}, {"folder", "name"})


@dataclass(frozen=True, slots=True)
class StatedClasses:
    """Content of a ``--classes`` file: the names of the outputs in their order, or the output of each folder."""

    where: str
    order: tuple[str, ...] = ()
    outputs: Mapping[str, str | int] | None = None

    def mapped(self, folders: Sequence[str], names: Sequence[str]) -> ClassMap:
        """The map of the class folders onto a network whose outputs have ``names``, which an order replaces.

        Raises:
            DataError: A folder without an output, an output without a folder, or one that two folders have.
        """
        if self.outputs is None:
            return _in_stated_order(self.order, folders, self.where)
        if missing := sorted(set(folders) - set(self.outputs)):
            raise DataError(f"{self.where} lacks {some(missing)}", f"the class folders are {some(sorted(folders))}")
        if unknown := sorted(set(self.outputs) - set(folders)):
            what = f"{self.where} has {some(unknown)}, which are no folders"
            raise DataError(what, f"the class folders are {some(sorted(folders))}")
        places = named_outputs(names)
        outputs = [self._output(folder, self.outputs[folder], places, names) for folder in folders]
        _check_distinct(outputs, folders, self.where)
        return ClassMap.of(outputs, folders, names)

    def _output(self, folder: str, value: str | int, places: Mapping[str, set[int]], names: Sequence[str]) -> int:
        if isinstance(value, str) and (exact := [index for index, name in enumerate(names) if name == value]):
            found = set(exact)
        elif isinstance(value, int) or NUMBER.fullmatch(value):
            found = {int(value)} & set(range(len(names)))
        else:
            found = set().union(*(places.get(variant, set()) for variant in spellings(value)))
        if len(found) != 1:
            which = "several outputs" if found else "no output"
            what = f"{self.where}: {value!r} of the folder {folder!r} is {which} of the network's {len(names)}"
            raise DataError(what, "write its number, from 0 on")
        return found.pop()


def read_classes(path: Path) -> StatedClasses:
    """Reads a ``--classes`` file, in UTF-8.

    * Text: the names of all outputs, one a line; empty lines are ignored.
    * ``.csv`` and ``.tsv``, or a text with a tab in every line: ``folder,output``, with a number or a name.
    * ``.json``: a list of names, or an object from folder to output.

    Raises:
        DataError: It cannot be read, or states nothing.
    """
    where = f"--classes {path}"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as failure:
        raise DataError(f"{where} cannot be read: {failure.strerror}", "check the path") from failure
    except UnicodeDecodeError as failure:
        raise DataError(f"{where} is no UTF-8 text", "write one folder name a line") from failure
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{where} is empty", "write one folder name a line")
    if path.suffix.lower() == ".json":
        return _from_json(where, text)
    if path.suffix.lower() in (".csv", ".tsv") or all("\t" in line for line in lines):
        return _from_table(where, text, max(",;\t", key=lines[0].count))
    return StatedClasses(where, tuple(lines))


def _from_json(where: str, text: str) -> StatedClasses:
    hint = 'write ["first", "second"], or {"folder": output}'
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as failure:
        raise DataError(f"{where} is no JSON: {failure}", hint) from failure
    if isinstance(content, list) and content and all(isinstance(name, str) for name in content):
        return StatedClasses(where, tuple(content))
    if isinstance(content, dict) and content and all(type(value) in (int, str) for value in content.values()):
        return StatedClasses(where, outputs=content)
    raise DataError(f"{where} is neither a list of names nor an object of outputs", hint)


def _from_table(where: str, text: str, delimiter: str) -> StatedClasses:
    outputs: dict[str, str | int] = {}
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) if any(row)]
    except csv.Error as failure:
        raise DataError(f"{where} is no table: {failure}", "write folder,output in each line") from failure
    if {cell.strip().lower() for cell in rows[0]} in _HEADERS:
        swapped = rows[0][-1].strip().lower() == "folder"
        rows = [row[::-1] if swapped else row for row in rows[1:]]
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            raise DataError(f"{where}, row {number} has not two columns", "write folder,output in each line")
        if row[0].strip() in outputs:
            raise DataError(f"{where} has {row[0].strip()!r} more than once", "name each class folder once")
        outputs[row[0].strip()] = row[1].strip()
    if not outputs:
        raise DataError(f"{where} has no rows", "write folder,output in each line")
    return StatedClasses(where, outputs=outputs)


def _in_stated_order(names: Sequence[str], folders: Sequence[str], where: str) -> ClassMap:
    """The map of a stated order, which may have more names than there are folders."""
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if list(names).count(name) > 1})
        raise DataError(f"{where} has {some(twice)} more than once", "name each class folder once")
    missing, unknown = sorted(set(folders) - set(names)), sorted(set(names) - set(folders))
    if missing:
        parts = [f"lacks {some(missing)}"]
        parts += [f"has {some(unknown)}, which are no folders"] if unknown else []
        raise DataError(f"{where} {' and '.join(parts)}", f"the class folders are {some(sorted(folders))}")
    return ClassMap.of([list(names).index(folder) for folder in folders], folders, names)


def _check_distinct(outputs: Sequence[int], folders: Sequence[str], where: str) -> None:
    seen: dict[int, str] = {}
    for output, folder in zip(outputs, folders, strict=True):
        if (other := seen.setdefault(output, folder)) != folder:
            what = f"{where}: the folders {other!r} and {folder!r} are both output {output}"
            raise DataError(what, "put their images into one folder")
