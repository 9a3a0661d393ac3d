"""``RunFolder``: the output folder ``build/<model>-<target>``, locked by one run at a time.

Every file is written to a temporary name and renamed. ``manifest.json`` comes last and lists the sha256 of the
reproducible files; the report, which holds durations, and the request, which holds paths, are not among them.

A folder with a finished run is never modified: its successor is written to a hidden folder beside it, and the two are
exchanged by renaming once the successor is complete. A failed attempt leaves its report in ``<folder>.failed``.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout

from edgeres.artifacts.artifact import Artifact, Checkpoint, Engine, Exported, File, VerificationResult
from edgeres.artifacts.store import reading, write_beside, writing
from edgeres.errors import StoreError, UsageError
from edgeres.gate import predictions
from edgeres.pipeline.request import Request
from edgeres.report import report_files
from edgeres.settings import parse, plain, sha256_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeres.gate.predictions import Answers
    from edgeres.pipeline.recipe import Recipe

MANIFEST, REQUEST, RECIPE = "manifest.json", "request.json", "recipe.lock.yaml"
_LOCK, _WEIGHTS = ".lock", "weights.safetensors"
_NEXT, _BEFORE, _FAILED = ".next", ".before", ".failed"
"""Suffixes of the folders beside a finished run: its unfinished successor, the replaced run, a failed attempt."""


class RunFolder:
    """The output folder of one run; created at the first write."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def finished(self) -> bool:
        """Whether a run was completed here: its manifest exists."""
        return (self.path / MANIFEST).is_file() and (self.path / REQUEST).is_file()

    def check(self) -> None:
        """Checks that the folder is empty or holds a run.

        Raises:
            UsageError: It has files, and none of them is a run's request.
        """
        names: list[str] = []
        with suppress(OSError):  # missing or unreadable: ``held`` raises the error
            names = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))
        if names and not (self.path / REQUEST).is_file():
            raise UsageError(
                f"{self.path} is not a run folder: it holds {', '.join(names[:3])}{', ...' if names[3:] else ''}",
                "choose another --out: a folder that is new, empty, or an earlier run's",
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Locks the folder for one run, and completes or undoes what a killed run left.

        Raises:
            StoreError: Another run holds the lock, or the folder cannot be created.
        """
        lock = FileLock(self.path / _LOCK, timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as failure:
            raise StoreError(f"another run is using {self.path}", "wait for it or choose another --out") from failure
        except OSError as failure:
            raise StoreError(f"cannot write {self.path}: {failure.strerror}", "choose another --out") from failure
        try:
            self._tidy()
            yield
        finally:
            lock.release()

    def attempt(self) -> RunFolder:
        """Folder of the next run: this one, or an empty folder beside a finished run.

        Raises:
            StoreError: No folder can be created beside it, or it is a mount point, which cannot be renamed.
        """
        if not self.finished:
            return self
        staging = self._beside(_NEXT)
        if self.path.is_mount():
            raise StoreError(f"{self.path} is a mount point and holds a finished run", "choose an --out below it")
        with writing(staging):
            staging.mkdir()
        return RunFolder(staging)

    def settle(self, attempt: RunFolder, *, complete: bool) -> Path:
        """Moves a complete attempt here, where it replaces a finished run, a failed one to ``<folder>.failed``.

        Returns the folder with the attempt and its report.

        Raises:
            StoreError: The folders cannot be renamed; the finished run is kept, or restored by the next command.
        """
        failed = RunFolder(self._beside(_FAILED))
        if (failed.path / REQUEST).is_file() and not failed.finished:
            shutil.rmtree(failed.path, ignore_errors=True)
        if attempt.path == self.path:
            return self.path
        if not complete:
            if failed.path.exists():  # a file of the user's
                return attempt.path
            with writing(failed.path):
                attempt.path.rename(failed.path)
            return failed.path
        place, before = self.path.resolve(), self._beside(_BEFORE)
        # The successor is locked before it gets its public name.
        with FileLock(attempt.path / _LOCK, timeout=0), writing(self.path):
            place.rename(before)
            attempt.path.rename(place)
            RunFolder(place)._tidy()
        return self.path

    def _beside(self, ending: str) -> Path:
        place = self.path.resolve()
        return place.with_name(f"{'' if ending == _FAILED else '.'}{place.name}{ending}")

    def _tidy(self) -> None:
        """Removes a killed attempt and the replaced run, except for files that no run wrote.

        Where a kill fell between the two renames, the finished run is restored.
        """
        shutil.rmtree(self._beside(_NEXT), ignore_errors=True)
        before = RunFolder(self._beside(_BEFORE))
        if not before.path.is_dir():
            return
        written = {_LOCK}
        if self.finished:
            written |= {MANIFEST, REQUEST, RECIPE, *report_files.NAMES, *before._listed()}
        with writing(self.path):
            for path in sorted(before.path.rglob("*")):
                name = path.relative_to(before.path)
                if path.is_file() and str(name) not in written and not (self.path / name).exists():
                    (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                    path.rename(self.path / name)
            shutil.rmtree(before.path)

    def begin(self, request: Request, recipe: Recipe) -> None:
        """Writes the request and the recipe, so that a killed run can be repeated."""
        write_beside(self.path / REQUEST, _json(plain(request)))
        self.lock(recipe)

    def lock(self, recipe: Recipe) -> None:
        """Writes the locked recipe with every setting."""
        write_beside(self.path / RECIPE, recipe.text.encode())

    def request(self) -> Request:
        """The request of the folder's run.

        Raises:
            UsageError: The folder has no run.
        """
        path = self.path / REQUEST
        if not path.is_file() and self._beside(_BEFORE).is_dir():  # killed between two renames: the run is restored
            with self.held():
                pass
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as failure:
            hint = "name the folder of one, such as build/resnet18-jetson"
            raise UsageError(f"{self.path} holds no run", hint) from failure
        except (OSError, ValueError) as failure:
            reason = getattr(failure, "strerror", None) or "it is no JSON"
            raise UsageError(f"cannot read {path}: {reason}", "mend it, or compile again") from failure
        return parse(Request, data, str(path))

    def publish(
        self, artifact: Artifact, facts: dict[str, object], place: Literal["engine", "bundle"], answers: Answers | None
    ) -> dict[str, str]:
        """Copies an artifact's files into the folder and writes the manifest.

        Returns sha256 by name of every file that belongs to the run. ``place`` is the subfolder of the engine or of
        the bundle that a device builds it from. ``facts`` are further identity of the run: versions, seed, digests; no
        durations, no paths.
        """
        files = {name: file for name, file in _files(artifact, place).items() if file is not None}
        for name, file in files.items():
            self._copy(file, self.path / name)
        own = [RECIPE]
        if isinstance(artifact, Checkpoint):
            own.append(self._checkpoint(artifact))
        if answers is not None:
            own.append(predictions.NAME)
            write_beside(self.path / predictions.NAME, predictions.encode(answers))
        sums = {name: file.sha256 for name, file in files.items()}
        sums |= {name: sha256_file(self.path / name) for name in own}
        root = self.path.resolve()
        for name in self._listed() - set(sums):  # files of an earlier run that this one does not write
            stale = (self.path / name).resolve()
            if stale.is_relative_to(root):
                stale.unlink(missing_ok=True)
        write_beside(self.path / MANIFEST, _json({**facts, "files": sums}))
        return sums

    def _copy(self, file: File, path: Path) -> None:
        """Copies a file that is not there already, executable where it is."""
        with reading(file.path):
            executable = os.access(file.path, os.X_OK)
            data = None if path.is_file() and sha256_file(path) == file.sha256 else file.path.read_bytes()
        if data is not None:
            write_beside(path, data)
        if executable:
            with writing(path):
                mode = path.stat().st_mode
                path.chmod(mode | (mode & 0o444) >> 2)  # readable by other users

    def _checkpoint(self, artifact: Checkpoint) -> str:
        """Name of a file with the weights of a network that is not exported yet, its spec and its preprocessing."""
        from edgeres.model.weights import save_checkpoint

        path, beside, metadata = self.path / _WEIGHTS, self.path / f".{_WEIGHTS}", artifact.metadata
        with writing(path):
            save_checkpoint(beside, artifact.spec, artifact.weights, metadata.preprocess, metadata.classes)
            beside.replace(path)
        return _WEIGHTS

    def _listed(self) -> set[str]:
        """Names in the folder's manifest; empty where it cannot be read."""
        try:
            return set(map(str, json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))["files"]))
        except (OSError, ValueError, KeyError, TypeError):
            return set()


def _files(artifact: Artifact, place: str) -> dict[str, File | None]:
    match artifact:
        case Exported(model=model, float_model=float_model, scales=scales):
            return {"model.onnx": model, "model.float.onnx": float_model, "calibration.json": scales}
        case Engine():
            return _files(artifact.exported, place) | {f"{place}/{name}": file for name, file in artifact.files.items()}
        case VerificationResult():
            return _files(artifact.engine, place)
        case Checkpoint():
            return {}


def _json(data: object) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
