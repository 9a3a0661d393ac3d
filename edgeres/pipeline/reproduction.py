"""Comparison of two run folders byte by byte, with the differing stage, inputs and versions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgeres.errors import UsageError
from edgeres.pipeline.run_folder import MANIFEST, RECIPE
from edgeres.report.comparison import compare, differing, flat, settings_of
from edgeres.runs import document
from edgeres.settings import sha256_file

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.report.comparison import ComparisonRow
    from edgeres.runs.run import Run

State = Literal["same", "differs", "only before", "only now"]


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Comparison of a run with its repetition.

    Attributes:
        files: State of every reproducible file by name.
        altered: Files of the first run that no longer match its manifest.
        stage: The first stage whose result differs, or empty.
        causes: Inputs, settings and versions that differ.
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
    names = sorted({*first["files"], *second["files"], MANIFEST})
    wanted = {**first["files"], MANIFEST: None}
    sums = {name: _sum(before / name) for name in wanted}
    return Reproduction(
        files={name: _state(sums.get(name), _sum(now / name)) for name in names},
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
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as failure:
        raise UsageError(f"cannot read {path}: {getattr(failure, 'strerror', None) or failure}", hint) from failure
    if not (isinstance(found, dict) and isinstance(found.get("files"), dict) and isinstance(found.get("stages"), list)):
        raise UsageError(f"{path} is no manifest of a run", hint)
    if outside := [name for name in found["files"] if not _inside(folder, name)]:
        raise UsageError(f"{path} names {outside[0]!r}, which is not in its folder", hint)
    return dict(found)


def _inside(folder: Path, name: str) -> bool:
    return (folder / name).resolve().is_relative_to(folder.resolve())


def _sum(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


def _state(before: str | None, now: str | None) -> State:
    if before is None:
        return "only now"
    if now is None:
        return "only before"
    return "same" if before == now else "differs"


def _diverged(first: list[dict[str, str]], second: list[dict[str, str]]) -> str:
    """The first stage with another result; where one list is shorter, the first missing stage."""
    for a, b in zip(first, second, strict=False):
        if a != b:
            return a["stage"]
    longer = max(first, second, key=len)
    return longer[min(len(first), len(second))]["stage"] if len(first) != len(second) else ""


def _causes(before: Path, now: Path, first: dict[str, Any], second: dict[str, Any]) -> tuple[ComparisonRow, ...]:
    """Differences in manifests, recipes and, last, the machines of the reports."""
    apart = ("files", "stages", "recipe")
    facts = [flat({key: value for key, value in content.items() if key not in apart}) for content in (first, second)]
    settings = [_settings(folder / RECIPE) for folder in (before, now)]
    runs = [_report(folder / document.JSON) for folder in (before, now)]
    machine: list[ComparisonRow] = []
    if runs[0] and runs[1]:
        machine = [row for row in compare(runs[0], runs[1]).versions if f"versions.{row.name}" not in facts[0]]
    return (*differing(*facts), *differing(*settings), *machine)


def _settings(path: Path) -> dict[str, str]:
    return settings_of(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _report(path: Path) -> Run | None:
    try:
        return document.decode(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UsageError):  # only the machine's fields
        return None
