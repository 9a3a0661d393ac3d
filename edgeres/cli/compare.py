"""``edgeres compare``: two finished runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.cli.command_line import Commands
    from edgeres.cli.console import Screen
    from edgeres.gate.paired_test import Paired
    from edgeres.report.comparison import ComparisonRow, RunComparison
    from edgeres.runs.run import Run

_TITLES = {
    "facts": "",
    "stages": "seconds by stage",
    "recipe": "settings that differ",
    "inputs": "inputs that differ",
    "versions": "versions that differ",
}


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres compare``."""
    command = commands.add_parser("compare", help="set two finished runs side by side")
    command.set_defaults(function=run)
    command.add_argument("first", metavar="A", help="run folder, such as build/resnet18-jetson")
    command.add_argument("second", metavar="B", help="another one")
    command.add_argument("--html", metavar="FILE", help="write it as a page")
    command.add_argument("--json", action="store_true", help="machine-readable output")


def run(options: Namespace, screen: Screen, arguments: list[str]) -> int:
    """Compares two runs: facts, seconds by stage, settings, inputs, versions, and answers on their common images."""
    from edgeres.report.comparison import compare

    folders = [_folder(name) for name in (options.first, options.second)]
    first, second = (_read(folder) for folder in folders)
    comparison = compare(first, second)
    paired, reason = _paired(folders, [first, second])
    notes = (*comparison.notes, _paired_line(paired) if paired else f"not paired: {reason}")
    if options.html:
        from edgeres.artifacts.store import write_beside
        from edgeres.report.comparison import comparison_page

        page = comparison_page((options.first, options.second), (first, second), comparison, notes)
        write_beside(Path(options.html), page.encode())
    if options.json:
        screen.out.out(json.dumps(_document(comparison, paired, reason, options), indent=2))
    else:
        _print(comparison, notes, options, screen)
    return 0


def _document(comparison: RunComparison, paired: Paired | None, reason: str, options: Namespace) -> dict[str, Any]:
    """The comparison for ``--json``."""
    groups = {name: [_plain(row) for row in rows] for name, rows in _groups(comparison).items()}
    counts = {"n": paired.n, "b": paired.b, "c": paired.c} if paired else None
    notes = [*comparison.notes, *filter(None, [reason])]
    return {"runs": [options.first, options.second], **groups, "paired": counts, "notes": notes}


def _print(comparison: RunComparison, notes: tuple[str, ...], options: Namespace, screen: Screen) -> None:
    """Prints one table per group of rows, then the notes."""
    for name, rows in _groups(comparison).items():
        if rows:
            cells = [(row.name, *row.written) for row in rows]
            screen.table((_TITLES[name], options.first, options.second, "change"), cells)
            screen.out.out("")
    if not (comparison.recipe or comparison.inputs or comparison.versions):
        screen.line("same inputs, settings and versions")
    for line in notes:
        screen.line(line)
    if options.html:
        screen.command(f"page: {options.html}")


def _groups(comparison: RunComparison) -> dict[str, tuple[ComparisonRow, ...]]:
    """The rows of each table, under the names of ``_TITLES``."""
    return {
        "facts": comparison.facts,
        "stages": comparison.stages,
        "recipe": comparison.recipe,
        "inputs": comparison.inputs,
        "versions": comparison.versions,
    }


def _folder(name: str) -> Path:
    """The run folder of a name, which may be that of its ``report.json`` too."""
    from edgeres.runs import document

    path = Path(name)
    return path.parent if path.name == document.JSON else path


def _read(folder: Path) -> Run:
    """The run of a folder.

    Raises:
        UsageError: Its report cannot be read.
    """
    from edgeres.runs import document

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
    """Right and wrong answers of both deployed networks on their common images, or why they cannot be paired."""
    from edgeres.gate import predictions
    from edgeres.gate.judgement import PairedPredictions
    from edgeres.gate.paired_test import Paired
    from edgeres.settings import sha256_file

    read = []
    for folder, finished in zip(folders, runs, strict=True):
        path = folder / predictions.NAME
        if not path.is_file():
            return None, f"there is no {path}"
        if predictions.NAME not in finished.files or sha256_file(path) != finished.files[predictions.NAME].sha256:
            return None, f"{path} is not the file that its run reported"
        read.append(predictions.decode(path.read_text(encoding="utf-8"), str(path)))
    try:
        common = PairedPredictions.with_baseline(*read)
    except UsageError as failure:
        return None, failure.what
    return Paired.of(common.after, common.before, common.labels), ""


def _paired_line(paired: Paired) -> str:
    """How many images one network alone answers rightly, in one line."""
    return (
        f"paired on {paired.n:,} images: {paired.b:,} right in the first run alone, {paired.c:,} in the second alone "
        f"('edgeres gate' judges that)"
    )


def _plain(row: ComparisonRow) -> dict[str, Any]:
    return {"name": row.name, "first": row.first, "second": row.second, "change": row.written[2]}
