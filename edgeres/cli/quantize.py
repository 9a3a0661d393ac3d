"""``edgeres quantize``: the quantizing stage of a finished run again, and with ``--explain`` what its search tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.cli.again import add_stage_parser, changed_request
from edgeres.cli.compilation import compile_and_print, compiled
from edgeres.cli.options import add_search, search_changes
from edgeres.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.cli.command_line import Commands
    from edgeres.cli.console import Screen
    from edgeres.report.candidates import BillRow
    from edgeres.runs.run import Run


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres quantize``."""
    command = add_stage_parser(commands, "quantize", "calibrate and quantize a finished run again")
    command.set_defaults(function=run)
    add_search(command)
    command.add_argument(
        "--explain",
        action="store_true",
        help="print every candidate with its worth and its price; runs nothing when nothing is changed",
    )


def run(options: Namespace, screen: Screen, arguments: list[str]) -> int:
    """Quantizes a finished run again, or with ``--explain`` prints the candidates of its search."""
    if not options.explain:
        request = changed_request(options, *search_changes(options))
        return compile_and_print(request, Path(options.out or options.run), options, screen, arguments)
    explained = _explained_run(options, screen, arguments)
    _print_candidates(explained, options, screen)
    return explained.error.exit_code if explained.error else 0


def _explained_run(options: Namespace, screen: Screen, arguments: list[str]) -> Run:
    """The finished run as it is, or quantized again where an option changes it.

    Raises:
        UsageError: It has no candidates.
    """
    from edgeres.report.candidates import bill
    from edgeres.runs import document

    changes = search_changes(options)
    if options.changes or options.budget or options.out or changes or options.strict:
        request, out = changed_request(options, *changes), Path(options.out or options.run)
        explained = compiled(request, out, options, screen, arguments).run
    else:
        explained = document.load(Path(options.run))
    if not bill(explained) and not explained.error:
        raise UsageError(
            f"{options.run} tried no techniques: it stayed in float, is an imported graph, or stopped before "
            "'quantize'",
            "compile a preset with --recipe int8",
        )
    return explained


def _print_candidates(explained: Run, options: Namespace, screen: Screen) -> None:
    """Prints one row per candidate, the chosen one marked with a star."""
    from edgeres.report.candidates import HEADS, bill, folded, next_step

    rows = bill(explained)
    if options.json:
        screen.out.out(json.dumps(_document(explained, rows), indent=2))
        return
    if explained.error:
        screen.err.out(f"{explained.error.what}: {explained.error.hint}", highlight=False)
        return
    shown = folded(rows)
    marks = ["* " if row.technique.chosen else "  " for row in shown]
    cells = [row.cells("-") for row in shown]
    screen.table(HEADS, [(f"{mark}{name}", *rest) for mark, (name, *rest) in zip(marks, cells, strict=True)])
    for line in ("", "* went on; judged on the tuning images", *_notes(explained), next_step(explained)):
        screen.out.out(line, highlight=False)


def _document(explained: Run, rows: tuple[BillRow, ...]) -> dict[str, Any]:
    """The candidates for ``--json``."""
    from edgeres.report.candidates import next_step
    from edgeres.settings import plain

    return {
        "techniques": [
            {
                **plain(row.technique),
                "seconds": row.seconds,
                "predicted_seconds": row.predicted_s,
                "latency_ms": row.latency_ms,
                "latency_expected": row.expected if row.latency_ms is not None else None,
            }
            for row in rows
        ],
        "chosen": next((row.technique.name for row in rows if row.technique.chosen), None),
        "notes": _notes(explained),
        "next": next_step(explained),
        "error": plain(explained.error) if explained.error else None,
    }


def _notes(explained: Run) -> list[str]:
    """The notes of the stages that tried techniques."""
    return [note for row in explained.stages if row.techniques for note in row.notes]
