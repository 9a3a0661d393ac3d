"""``edgeres gate``: what a finished run's answers amount to, for people, for CI and for machines."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli.console import Screen
from edgeres.errors import StoreError, UsageError
from edgeres.gate.judgement import DEFAULT_MARGIN_PP, MLPERF_SHARE, PairedPredictions, judge
from edgeres.report.github import workflow_commands
from edgeres.report.junit import junit
from edgeres.report.sarif import sarif
from edgeres.runs import document
from edgeres.runs.finished import read_finished
from edgeres.settings import plain

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.gate.judgement import Judgement
    from edgeres.runs.finished import FinishedRun


def gate_command(options: Namespace, given: list[str]) -> int:
    """Reads a finished run, judges it, writes what was asked for; changes nothing in either run."""
    folder = Path(options.run)
    ours = read_finished(folder)
    theirs = read_finished(Path(options.baseline)) if options.baseline else None
    found = _judged(ours, theirs, options)
    name = f"{ours.run.model}-{ours.run.target.name}"
    report = folder if folder.name == document.JSON else folder / document.JSON
    if options.junit:
        _write(options.junit, junit(found, name))
    if options.sarif:
        _write(options.sarif, sarif(found, _relative(report)))
    if options.json:
        print(json.dumps(plain(found), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        screen = Screen(quiet=False)
        for line in _lines(found):
            screen.line(line)
    if options.github:
        # The runner reads both streams; JSON stays alone on the one it is on.
        print("\n".join(workflow_commands(found, name)), file=sys.stderr if options.json else sys.stdout)
    return found.exit_code


def _judged(ours: FinishedRun, theirs: FinishedRun | None, options: Namespace) -> Judgement:
    if theirs:
        comparison = PairedPredictions.with_baseline(ours.answers, theirs.answers)
    else:
        comparison = PairedPredictions.with_float(ours.answers)
    margin = options.margin or _budgeted(ours)
    warnings: tuple[str, ...] = ()
    if options.mlperf:
        # Without a right answer there is no accuracy to take a share of; a positive margin keeps the tests defined.
        margin = MLPERF_SHARE * max(comparison.reference_top1, 1.0)
        if ours.retrained:
            stages = ", ".join(dict.fromkeys(ours.retrained))
            warnings = (
                f"MLPerf's closed division allows no retraining; behind its float baseline this run did {stages}",
            )
    found = judge(comparison, margin, alpha=options.alpha, seed=options.seed if options.sequential else None)
    return replace(found, warnings=(*found.warnings, *warnings))


def _budgeted(ours: FinishedRun) -> float:
    """The margin that the run's own budget sets.

    Raises:
        UsageError: It is not above zero: no number of images shows that nothing at all was lost.
    """
    margin = ours.margin_pp
    if margin is not None and margin <= 0:
        raise UsageError(f"the run's budget accuracy_drop_pp={margin:g} leaves no margin to test", "pass --margin PP")
    return DEFAULT_MARGIN_PP if margin is None else margin


def _lines(found: Judgement) -> tuple[str, ...]:
    """The judgement for people."""
    return (
        found.sentence,
        f"top-1 {found.deployed_top1:.2f} % deployed, {found.reference_top1:.2f} % {found.reference}; "
        f"{found.changed} of {found.n} images answered differently",
        f"p values: drop of {found.margin_pp:.3g} pp or more {found.p_margin:.3g} (score test), no drop "
        f"{found.p_worse:.3g} (one-sided mid-p McNemar), equal accuracy {found.p_changed:.3g} (two-sided)",
        f"power: a network without a drop passes on {found.n} images with a chance of {found.power:.0%}; "
        f"80 % takes {found.n_needed}",
        *(f"warning: {text}" for text in found.warnings),
    )


def _relative(path: Path) -> str:
    """A path below the working directory as others see it; any other as it is."""
    whole, here = path.resolve(), Path.cwd()
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) else whole.as_posix()


def _write(place: str, text: str) -> None:
    try:
        Path(place).write_text(text, encoding="utf-8", newline="\n")
    except OSError as failure:
        raise StoreError(
            f"cannot write {place}: {failure.strerror}", "name a file in a folder that exists"
        ) from failure
