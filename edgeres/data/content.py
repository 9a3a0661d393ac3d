"""``Content``: the bytes of one encoded image: a file, a part of a file (a member of a tar), or the cell of a table."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path


Stream = io.BufferedReader | io.BytesIO


class Content(Protocol):
    """Bytes that are read on demand, and their source ``where`` for messages."""

    @property
    def where(self) -> str:
        """Path, and the place in that file, as UTF-8."""

    def open(self) -> Stream:
        """A seekable stream of the bytes."""


@dataclass(frozen=True, slots=True)
class WholeFile:
    """All bytes of a file."""

    path: Path

    @property
    def where(self) -> str:
        """The path as UTF-8."""
        return utf8(self.path)

    def open(self) -> Stream:
        """The file."""
        return self.path.open("rb")


@dataclass(frozen=True, slots=True)
class FilePart:
    """``length`` bytes of a file from ``offset`` on, under a name of their own."""

    path: Path
    name: str
    offset: int
    length: int

    @property
    def where(self) -> str:
        """The path and the name."""
        return f"{utf8(self.path)}: {self.name}"

    def open(self) -> Stream:
        """The part, read as a whole; it ends earlier where the file does."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.length))


def utf8(path: Path) -> str:
    """A path as UTF-8; other bytes become replacement characters."""
    return os.fsencode(path).decode("utf-8", errors="replace")
