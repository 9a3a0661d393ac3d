"""``edgeres quantize``: the quantizing stage of a finished run again, and with ``--explain`` what its search tried."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.cli._compilation import add_stage_parser, changed_request, compile_and_print, compiled
from edgeres.cli._options import Commands, Options, add_search, search_changes
from edgeres.errors import UsageError

if TYPE_CHECKING:
    from edgeres.cli._console import Screen
    from edgeres.report.candidates import CandidateRow
    from edgeres.runs.run import Run

PLACE = 30


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres quantize``."""
    command = add_stage_parser(commands, "quantize", "calibrate and quantize a finished run again")
    add_search(command)
    explain = "print every candidate with its worth and its price; runs nothing when nothing is changed"
    command.add_argument("--explain", action="store_true", help=explain)


def run(options: Options, screen: Screen) -> int:
    """Quantizes a finished run again, or with ``--explain`` prints the candidates of its search."""
    if not options.explain:
        request = changed_request(options, *search_changes(options))
        return compile_and_print(request, Path(options.out or options.run), options, screen)
    from edgeres.report.candidates import recovery_rows

    explained = _explained_run(options, screen)
    rows = recovery_rows(explained)
    if not rows and not explained.error:
        what = "tried no techniques: it stayed in float, or stopped before 'quantize'"
        raise UsageError(f"{options.run} {what}", "compile a preset with --recipe int8")
    if options.json:
        screen.json(_document(explained, rows))
    elif explained.error:
        screen.err.out(f"{explained.error.what}: {explained.error.hint}", highlight=False)
    else:
        _print(explained, rows, screen)
    return explained.error.exit_code if explained.error else 0


def _explained_run(options: Options, screen: Screen) -> Run:
    """The finished run as it is, or quantized again where an option changes it."""
    from edgeres.runs import document

    changes = search_changes(options)
    if options.changes or options.budget or options.out or changes or options.strict:
        request = changed_request(options, *changes)
        return compiled(request, Path(options.out or options.run), options, screen).run
    return document.load(Path(options.run))


def _notes(explained: Run) -> list[str]:
    return [note for row in explained.stages if row.techniques for note in row.notes]


def _print(explained: Run, rows: tuple[CandidateRow, ...], screen: Screen) -> None:
    from edgeres.report.candidates import folded, heads, next_step

    table = []
    for row in folded(rows):
        name, *rest = row.cells("-")
        table.append((f"{'* ' if row.technique.chosen else '  '}{name}", *rest))
    screen.table(heads(explained), table)
    for line in ("", "* went on; judged on the tuning images", *_notes(explained), next_step(explained)):
        screen.command(line)


def _document(explained: Run, rows: tuple[CandidateRow, ...]) -> dict[str, Any]:
    from edgeres.report.candidates import next_step
    from edgeres.settings import plain

    techniques = [
        {**plain(row.technique), "seconds": row.seconds, "predicted_seconds": row.predicted_s}
        | {"latency_ms": row.latency_ms, "latency_expected": row.expected if row.latency_ms is not None else None}
        for row in rows
    ]
    chosen = next((row.technique.name for row in rows if row.technique.chosen), None)
    document = {"techniques": techniques, "chosen": chosen, "notes": _notes(explained)}
    return {**document, "next": next_step(explained), "error": explained.error}
