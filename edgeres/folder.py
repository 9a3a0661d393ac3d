"""``RunFolder``: what a user finds in ``build/<model>-<target>``, held by one run at a time.

Every file is written beside its place and renamed into it; ``manifest.json`` comes last and has the sha256 of the files
that two equal runs share to the byte. The report holds durations and the request holds paths, so neither is among them.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import yaml
from filelock import FileLock, Timeout

from edgeres import answers as predictions
from edgeres.artifact import Checkpoint, Engine, Exported, Verdict
from edgeres.errors import StoreError, UsageError
from edgeres.request import Request
from edgeres.settings import parse, plain, sha256_file
from edgeres.store import reading, write_beside, writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeres.answers import Answers
    from edgeres.artifact import Artifact, File
    from edgeres.recipe import Recipe

MANIFEST, REQUEST, RECIPE = "manifest.json", "request.json", "recipe.lock.yaml"


class RunFolder:
    """One run's folder.

    Args:
        path: Where it is; made when it is first written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the folder for one run.

        Raises:
            StoreError: Another run holds it, or it cannot be made.
        """
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as failure:
            raise StoreError(f"another run is using {self.path}", "wait for it or choose another --out") from failure
        except OSError as failure:
            raise StoreError(f"cannot write {self.path}: {failure.strerror}", "choose another --out") from failure
        try:
            yield
        finally:
            lock.release()

    def begin(self, request: Request, recipe: Recipe) -> None:
        """Writes down what is about to run, so that a killed run can be asked for again."""
        write_beside(self.path / REQUEST, _json(plain(request)))
        self.lock(recipe)

    def lock(self, recipe: Recipe) -> None:
        """Writes down the recipe, every setting spelt out."""
        write_beside(self.path / RECIPE, yaml.safe_dump(recipe.entries(), sort_keys=False).encode())

    def request(self) -> Request:
        """What the folder's run was asked.

        Raises:
            UsageError: No run was ever here.
        """
        path = self.path / REQUEST
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as failure:
            raise UsageError(
                f"{self.path} holds no run", "name the folder of one, such as build/resnet18-jetson"
            ) from failure
        except (OSError, ValueError) as failure:
            reason = getattr(failure, "strerror", None) or "it is no JSON"
            raise UsageError(f"cannot read {path}: {reason}", "mend it, or compile again") from failure
        return parse(Request, data, str(path))

    def publish(
        self,
        artifact: Artifact,
        facts: dict[str, object],
        place: Literal["engine", "bundle"],
        answers: Answers | None = None,
    ) -> dict[str, str]:
        """Copies an artifact's files into the folder and seals it with a manifest.

        Args:
            artifact: The last one of the run.
            facts: What else identifies the run: versions, seed, digests; no durations, no paths.
            place: Subfolder of what was built: an engine, or the bundle that a device builds it from.
            answers: What the float and the deployed network answered, of a run that was verified.

        Returns:
            sha256 by name of every file that belongs to the run.
        """
        files = {name: file for name, file in _files(artifact, place).items() if file is not None}
        sums = {name: file.sha256 for name, file in files.items()}
        for name, file in files.items():
            path = self.path / name
            if not (path.is_file() and sha256_file(path) == file.sha256):
                with reading(file.path):
                    data = file.path.read_bytes()
                write_beside(path, data)
        if isinstance(artifact, Checkpoint):
            sums |= self._checkpoint(artifact)
        if answers is not None:
            write_beside(self.path / predictions.NAME, predictions.encode(answers))
            sums[predictions.NAME] = sha256_file(self.path / predictions.NAME)
        self._forget(sums)
        sums[RECIPE] = sha256_file(self.path / RECIPE)
        write_beside(self.path / MANIFEST, _json({**facts, "files": dict(sorted(sums.items()))}))
        return sums

    def _checkpoint(self, artifact: Checkpoint) -> dict[str, str]:
        """A network that is not exported yet: its weights with spec and preprocessing inside."""
        from edgeres.model.zoo import save_checkpoint

        place = self.path / "weights.safetensors"
        beside = self.path / ".weights.safetensors"
        with writing(place):
            save_checkpoint(beside, artifact.spec, artifact.weights, artifact.card.preprocess, artifact.card.classes)
            beside.replace(place)
        return {place.name: sha256_file(place)}

    def _forget(self, sums: dict[str, str]) -> None:
        """Removes files of an earlier run that this one does not make."""
        try:
            before = set(map(str, json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))["files"]))
        except (OSError, ValueError, KeyError, TypeError):
            return
        root = self.path.resolve()
        for name in before - set(sums) - {RECIPE}:
            stale = (self.path / name).resolve()
            if stale.is_relative_to(root):
                stale.unlink(missing_ok=True)


def _files(artifact: Artifact, place: str) -> dict[str, File | None]:
    """Files of an artifact by their name in the run folder."""
    match artifact:
        case Exported():
            return {
                "model.onnx": artifact.model,
                "model.float.onnx": artifact.float_model,
                "calibration.json": artifact.scales,
            }
        case Engine():
            return _files(artifact.exported, place) | {f"{place}/{name}": file for name, file in artifact.files.items()}
        case Verdict():
            return _files(artifact.engine, place)
        case _:
            return {}


def _json(data: object) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
