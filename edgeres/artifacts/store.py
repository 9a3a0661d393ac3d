"""``Store``: content-addressed cache of finished stages, written atomically.

An entry is a folder named by its key: ``artifact.json`` with its seal, ``.safetensors`` where there are weights, and
the stage's files. It is written to a temporary folder and renamed. sha256 sums are checked on reading; an entry that
does not match them is removed and computed again.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING
from uuid import uuid4

from filelock import FileLock
from pydantic import TypeAdapter

from edgeres.artifacts.artifact import Artifact, Step
from edgeres.artifacts.serialization import EntryFolder
from edgeres.errors import StoreError
from edgeres.settings import canonical, plain, settings, sha256_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_RECORD, _SEAL = "artifact.json", "artifact.sha256"
_MORE_SPACE = "free some space or choose another place"


@settings
class _Record:
    """Content of ``artifact.json``: plain data of the artifact, its lineage, sha256 sums by file, and durations."""

    artifact: dict[str, object]
    digest: str
    steps: tuple[Step, ...]
    sums: dict[str, str]
    seconds: float
    timings: dict[str, float]


@cache
def _artifacts() -> TypeAdapter[Artifact]:
    return TypeAdapter(Artifact)


@dataclass(frozen=True)
class Entry:
    """A finished stage: digest and lineage of its artifact, its seconds, and ``timings`` of its parts by name."""

    folder: Path
    digest: str
    seconds: float
    steps: tuple[Step, ...]
    timings: dict[str, float] = field(default_factory=dict)

    def load(self) -> Artifact:
        """The artifact, its weights read back.

        Raises:
            StoreError: The entry was removed since it was found.
        """
        with reading(self.folder):
            return _artifacts().validate_python(_record(self.folder).artifact, context=EntryFolder(self.folder))


class Store:
    """A content-addressed folder; ``root`` is created on first use."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Locks a key, so that two runs never compute the same entry at once."""
        folder = self.root / "locks"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{key}.lock").acquire()
        with lock:
            yield

    def sweep(self) -> None:
        """Removes the workspaces of processes that were killed."""
        for folder in (self.root / "work").glob("*-*"):
            owner = folder.name.partition("-")[0]
            if owner.isdecimal() and not _alive(int(owner)):
                shutil.rmtree(folder, ignore_errors=True)

    def _place(self, key: str) -> Path:
        return self.root / "entries" / key[:2] / key

    def find(self, key: str) -> Entry | None:
        """The entry of a key, or None; an entry whose files do not match their sums is removed."""
        folder = self._place(key)
        if not (folder / _RECORD).is_file():
            return None
        try:
            record = _record(folder)
            sums = {**record.sums, _RECORD: (folder / _SEAL).read_text(encoding="ascii")}
            if all(sha256_file(folder / name) == wanted for name, wanted in sums.items()):
                return Entry(folder, record.digest, record.seconds, record.steps, record.timings)
        except (OSError, ValueError):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        return None

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """An empty folder for one stage, removed afterwards unless it was kept."""
        folder = self.root / "work" / f"{os.getpid()}-{uuid4().hex}"
        with writing(folder):
            folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def scratch(self, key: str) -> Path:
        """Folder of a key's unfinished work, which survives a kill."""
        folder = self.root / "scratch" / key
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def keep(
        self, key: str, artifact: Artifact, workspace: Path, seconds: float, timings: dict[str, float] | None = None
    ) -> Entry:
        """Moves a stage's workspace to the entry of a key; ``timings`` are seconds by part of the stage.

        Raises:
            StoreError: The disk is full or not writable; an earlier entry is unchanged.
        """
        place = self._place(key)
        with writing(place):
            folder = EntryFolder(workspace)
            packed = _artifacts().dump_python(artifact, mode="json", context=folder)
            folder.fill()
            files = sorted(path for path in workspace.rglob("*") if path.is_file())
            record = _Record(
                artifact=packed,
                digest=artifact.digest,
                steps=artifact.metadata.lineage,
                sums={str(path.relative_to(workspace)): sha256_file(path) for path in files},
                seconds=seconds,
                timings=timings or {},
            )
            (workspace / _RECORD).write_text(canonical(plain(record)), encoding="utf-8")
            (workspace / _SEAL).write_text(sha256_file(workspace / _RECORD), encoding="ascii")
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                shutil.rmtree(place)
            workspace.rename(place)
        shutil.rmtree(self.root / "scratch" / key, ignore_errors=True)
        return Entry(place, record.digest, seconds, record.steps, record.timings)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs for another user
        pass
    return True


@contextmanager
def writing(path: Path, hint: str = _MORE_SPACE) -> Iterator[None]:
    """Converts OS errors of writing to a path, such as those of a full disk, to ``StoreError``."""
    try:
        yield
    except OSError as failure:
        reason = failure.strerror or str(failure)
        raise StoreError(f"cannot write {path}: {reason}", hint) from failure


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Converts OS errors of reading a file of the store to ``StoreError``."""
    try:
        yield
    except OSError as failure:
        reason = failure.strerror or str(failure)
        raise StoreError(
            f"cannot read {failure.filename or path}: {reason}", "leave the cache alone while it runs, and run it again"
        ) from failure


def write_beside(path: Path, data: bytes, hint: str = _MORE_SPACE) -> None:
    """Writes a file atomically, by renaming a temporary file; the hint is that of a place that cannot be written."""
    with writing(path, hint):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            with beside.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def _record(folder: Path) -> _Record:
    return TypeAdapter(_Record).validate_json((folder / _RECORD).read_bytes())
