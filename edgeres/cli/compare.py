"""``edgeres compare``: two finished runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.errors import UsageError

if TYPE_CHECKING:
    from edgeres.cli._console import Screen
    from edgeres.cli._options import Commands, Options
    from edgeres.report.comparison import RunComparison
    from edgeres.runs.run import Run
    from edgeres.tasks.comparison import Comparison

PLACE = 120

_TITLES = {
    "facts": "",
    "stages": "seconds by stage",
    "recipe": "settings that differ",
    "inputs": "inputs that differ",
    "versions": "versions that differ",
}


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres compare``."""
    add = commands.add_parser("compare", help="set two finished runs side by side").add_argument
    add("first", metavar="A", help="run folder, such as build/resnet18-jetson")
    add("second", metavar="B", help="another one")
    add("--html", metavar="FILE", help="write it as a page")
    add("--json", action="store_true", help="machine-readable output")


def run(options: Options, screen: Screen) -> int:
    """Compares two runs: facts, seconds by stage, settings, inputs, versions, and answers on their common images."""
    from edgeres.report.comparison import compare
    from edgeres.runs import document

    folders = [document.folder_of(Path(name)) for name in (options.first, options.second)]
    hint = "name the folder of a run, such as build/resnet18-jetson"
    first, second = (document.load(folder, hint) for folder in folders)
    comparison = compare(first, second)
    paired, reason = _paired(folders, [first, second])
    notes = (*comparison.notes, f"not paired: {reason}")
    if paired:
        notes = (*comparison.notes, f"paired on {paired.n:,} images: {_counts(paired)} ('edgeres gate' judges that)")
    if options.html:
        from edgeres.artifacts.store import write_beside
        from edgeres.report.comparison import comparison_page

        page = comparison_page((options.first, options.second), (first, second), comparison, notes)
        write_beside(Path(options.html), page.encode())
    if options.json:
        screen.json(_document(comparison, paired, reason, options))
    else:
        _print(comparison, notes, options, screen)
    return 0


def _document(comparison: RunComparison, paired: Comparison | None, reason: str, options: Options) -> dict[str, Any]:
    groups = {
        name: [
            {"name": row.name, "first": row.first, "second": row.second, "change": row.written[2]}
            for row in getattr(comparison, name)
        ]
        for name in _TITLES
    }
    counts = _paired_document(paired) if paired else None
    notes = [*comparison.notes, *filter(None, [reason])]
    return {"runs": [options.first, options.second], **groups, "paired": counts, "notes": notes}


def _counts(comparison: Comparison) -> str:
    """Images that one run alone gets right, or the difference of a metric of all images together."""
    if (paired := comparison.paired) is None:
        return f"the second is {-comparison.drop:+.2f} pp from the first"
    return f"{paired.b:,} right in the first run alone, {paired.c:,} in the second alone"


def _paired_document(comparison: Comparison) -> dict[str, float]:
    if (paired := comparison.paired) is None:
        return {"n": comparison.n, "drop_pp": comparison.drop}
    return {"n": paired.n, "b": paired.b, "c": paired.c}


def _print(comparison: RunComparison, notes: tuple[str, ...], options: Options, screen: Screen) -> None:
    for name, title in _TITLES.items():
        if cells := [(row.name, *row.written) for row in getattr(comparison, name)]:
            screen.table((title, options.first, options.second, "change"), cells)
            screen.out.out("")
    if not (comparison.recipe or comparison.inputs or comparison.versions):
        screen.line("same inputs, settings and versions")
    for line in notes:
        screen.line(line)
    if options.html:
        screen.command(f"page: {options.html}")


def _paired(folders: list[Path], runs: list[Run]) -> tuple[Comparison | None, str]:
    """Answers of both deployed networks on their common images, or why they cannot be paired."""
    from dataclasses import replace

    from edgeres.runs.finished import read_answers
    from edgeres.tasks.judgement import PairedPredictions

    try:
        common = PairedPredictions.with_baseline(*map(read_answers, folders, runs))
    except UsageError as failure:
        return None, failure.what
    return replace(common, before=common.after, after=common.before).comparison, ""
