"""``edgeres quantize``: the quantizing stage of a finished run again, and the bill of its recovery ladder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.cli.commands import compiled, requested_again, search_changes, tell
from edgeres.cli.console import Screen
from edgeres.errors import UsageError
from edgeres.report.candidates import HEADS, folded, next_step, recovery_rows
from edgeres.runs import document
from edgeres.runs.verdict import exit_code
from edgeres.settings import plain

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.report.candidates import CandidateRow
    from edgeres.runs.run import Run


def quantize_command(options: Namespace, given: list[str]) -> int:
    """``edgeres quantize``."""
    out = Path(options.out or options.run)
    if not options.explain:
        screen = Screen(quiet=options.quiet)
        done = compiled(requested_again(options, *search_changes(options)), out, options, given, screen)
        tell(done.run, done.folder, options, screen)
        return exit_code(done.run)
    run = _explained(options, given)
    _print(run, options)
    return run.error.exit_code if run.error else 0


def _explained(options: Namespace, given: list[str]) -> Run:
    """The run to explain: as it is, or quantized again where something is changed."""
    changed = options.changes or options.budget or options.out or search_changes(options) or options.strict
    if changed:
        out, screen = Path(options.out or options.run), Screen(quiet=options.quiet)
        run = compiled(requested_again(options, *search_changes(options)), out, options, given, screen).run
    else:
        run = document.load(Path(options.run))
    if not recovery_rows(run) and not run.error:
        raise UsageError(
            f"{options.run} climbed no ladder: it stayed in float, is a foreign graph, or stopped before 'quantize'",
            "compile a preset with --recipe int8",
        )
    return run


def _print(run: Run, options: Namespace) -> None:
    screen, rows = Screen(quiet=options.quiet), recovery_rows(run)
    if options.json:
        screen.out.out(json.dumps(_document(run, rows), indent=2))
        return
    if run.error:
        screen.err.out(f"{run.error.what}: {run.error.hint}", highlight=False)
        return
    shown = folded(rows)
    marks = ["* " if row.technique.chosen else "  " for row in shown]
    cells = [row.cells("-") for row in shown]
    screen.table(HEADS, [(f"{mark}{name}", *rest) for mark, (name, *rest) in zip(marks, cells, strict=True)])
    notes = [note for row in run.stages if row.techniques for note in row.notes]
    for line in ("", "* went on; judged on the tuning images", *notes, next_step(run)):
        screen.out.out(line, highlight=False)


def _document(run: Run, rows: tuple[CandidateRow, ...]) -> dict[str, Any]:
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
        "notes": [note for row in run.stages if row.techniques for note in row.notes],
        "next": next_step(run),
        "error": plain(run.error) if run.error else None,
    }
