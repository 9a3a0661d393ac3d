"""``edgeres compare``: two finished runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.artifacts.store import write_beside
from edgeres.cli.console import Screen
from edgeres.errors import UsageError
from edgeres.gate import predictions
from edgeres.gate.paired_test import Paired
from edgeres.report.comparison import compare
from edgeres.report.comparison_page import comparison_page
from edgeres.runs import document
from edgeres.settings import sha256_file

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.report.comparison import ComparisonRow
    from edgeres.runs.run import Run

_TITLES = {
    "facts": "",
    "stages": "seconds by stage",
    "recipe": "settings that differ",
    "inputs": "inputs that differ",
    "versions": "versions that differ",
}


def compare_command(options: Namespace, given: list[str]) -> int:
    """``edgeres compare``."""
    screen = Screen(quiet=False)
    folders = [_folder(name) for name in (options.first, options.second)]
    runs = [_run(folder) for folder in folders]
    found = compare(*runs)
    paired, why = _paired(folders, runs)
    notes = (*found.notes, _told(paired) if paired else f"not paired: {why}")
    if options.html:
        names = (options.first, options.second)
        write_beside(Path(options.html), comparison_page(names, (runs[0], runs[1]), found, notes).encode())
    groups = {name: getattr(found, name) for name in _TITLES}
    if options.json:
        facts: dict[str, Any] = {name: [_plain(row) for row in rows] for name, rows in groups.items()}
        counts = {"n": paired.n, "b": paired.b, "c": paired.c} if paired else None
        screen.out.out(json.dumps({"runs": [options.first, options.second], **facts, "paired": counts,
                                   "notes": [*found.notes, *filter(None, [why])]}, indent=2))  # fmt: skip
        return 0
    for name, rows in groups.items():
        if rows:
            cells = [(row.name, *row.written) for row in rows]
            screen.table((_TITLES[name], options.first, options.second, "change"), cells)
            screen.out.out("")
    if not (found.recipe or found.inputs or found.versions):
        screen.line("same inputs, settings and versions")
    for line in notes:
        screen.line(line)
    if options.html:
        screen.command(f"page: {options.html}")
    return 0


def _folder(name: str) -> Path:
    path = Path(name)
    return path.parent if path.name == document.JSON else path


def _run(folder: Path) -> Run:
    source = folder / document.JSON
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        reason = getattr(failure, "strerror", None) or failure
        raise UsageError(
            f"cannot read {source}: {reason}", "name the folder of a run, such as build/resnet18-jetson"
        ) from failure
    return document.decode(text, str(source))


def _paired(folders: list[Path], runs: list[Run]) -> tuple[Paired | None, str]:
    """Both deployed networks on the images they share, or why they cannot be paired."""
    read = []
    for folder, run in zip(folders, runs, strict=True):
        place = folder / predictions.NAME
        if not place.is_file():
            return None, f"there is no {place}"
        if predictions.NAME not in run.files or sha256_file(place) != run.files[predictions.NAME].sha256:
            return None, f"{place} is not the file that its run reported"
        read.append(predictions.decode(place.read_text(encoding="utf-8"), str(place)))
    a, b = read
    try:
        common = predictions.shared(a, b)
    except UsageError as failure:
        return None, failure.what
    ours = [a.deployed_predictions[place] for place in common.ours]
    theirs = [b.deployed_predictions[place] for place in common.theirs]
    return Paired.of(ours, theirs, [a.labels[place] for place in common.ours]), ""


def _told(paired: Paired) -> str:
    return (
        f"paired on {paired.n:,} images: {paired.b:,} right in the first run alone, {paired.c:,} in the second alone "
        f"('edgeres gate' judges that)"
    )


def _plain(row: ComparisonRow) -> dict[str, Any]:
    return {"name": row.name, "first": row.first, "second": row.second, "change": row.written[2]}
