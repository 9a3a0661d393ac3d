"""Comparison of two run folders byte by byte, with the differing stage, inputs and versions."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

from edgeres.errors import UsageError
from edgeres.pipeline.run_folder import MANIFEST, RECIPE
from edgeres.report.comparison import ComparisonRow, compare, differing, flat, settings_of
from edgeres.runs import document
from edgeres.settings import sha256_file

if TYPE_CHECKING:
    from pathlib import Path


State = Literal["same", "differs", "only before", "only now"]


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Comparison of a run with its repetition: the state of every reproducible file by name.

    ``altered`` are files of the first run that no longer match its manifest, ``stage`` is the first one whose result
    differs, or empty, ``causes`` are inputs, settings and versions that differ.
    """

    files: dict[str, State]
    altered: tuple[str, ...]
    stage: str
    causes: tuple[ComparisonRow, ...]

    @property
    def identical(self) -> bool:
        """Whether every file is identical."""
        return set(self.files.values()) == {"same"}


def reproduction(before: Path, now: Path) -> Reproduction:
    """Compares the manifests of two runs and the files they list, byte for byte.

    Raises:
        UsageError: One of the folders holds no finished run.
    """
    first, second = manifest(before), manifest(now)
    sums = {name: _sum(before / name) for name in (*first["files"], MANIFEST)}
    return Reproduction(
        files={
            name: _state(sums.get(name), _sum(now / name))
            for name in sorted({*first["files"], *second["files"], MANIFEST})
        },
        altered=tuple(name for name, digest in sorted(first["files"].items()) if sums[name] != digest),
        stage=_diverged(first["stages"], second["stages"]),
        causes=_causes(before, now, first, second),
    )


def manifest(folder: Path) -> dict[str, Any]:
    """Reads a folder's manifest.

    Raises:
        UsageError: There is none, or it is malformed.
    """
    path = folder / MANIFEST
    hint = "name the folder of a finished run, such as build/resnet18-jetson"
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as failure:
        raise UsageError(f"cannot read {path}: {getattr(failure, 'strerror', None) or failure}", hint) from failure
    if not (
        isinstance(content, dict) and isinstance(content.get("files"), dict) and isinstance(content.get("stages"), list)
    ):
        raise UsageError(f"{path} is no manifest of a run", hint)
    for name in content["files"]:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"{path} names {name!r}, which is not in its folder", hint)
    return content


def _sum(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


def _state(before: str | None, now: str | None) -> State:
    if before and now:
        return "same" if before == now else "differs"
    return "only before" if before else "only now"


def _diverged(first: list[dict[str, str]], second: list[dict[str, str]]) -> str:
    """The first stage with another result; where one list is shorter, the first missing stage."""
    for a, b in zip_longest(first, second):
        if a != b:
            return str((a or b)["stage"])
    return ""


def _causes(before: Path, now: Path, first: dict[str, Any], second: dict[str, Any]) -> tuple[ComparisonRow, ...]:
    """Differences in manifests, recipes and, last, the machines of the reports."""
    apart = ("files", "stages", "recipe")
    facts = [flat({key: value for key, value in content.items() if key not in apart}) for content in (first, second)]
    recipes = [folder / RECIPE for folder in (before, now)]
    settings = [settings_of(path.read_text(encoding="utf-8")) if path.is_file() else {} for path in recipes]
    machine: list[ComparisonRow] = []
    with suppress(UsageError):  # without a readable report only the machine's fields are missing
        versions = compare(document.load(before), document.load(now)).versions
        machine = [row for row in versions if f"versions.{row.name}" not in facts[0]]
    return (*differing(*facts), *differing(*settings), *machine)
