"""``edgeres gate``: a statistical test of a finished run's accuracy, as text, JSON, JUnit, SARIF and annotations."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli.relative_name import relative_name
from edgeres.errors import StoreError, UsageError

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.cli.command_line import Commands
    from edgeres.cli.console import Screen
    from edgeres.gate.judgement import Judgement
    from edgeres.runs.finished import FinishedRun

EXIT_CODES = "exit codes: 0 PASS, 1 error, 2 bad usage or input, 3 FAIL, 5 INCONCLUSIVE (too few images to tell)"


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres gate``."""
    help_text = "judge a finished run's accuracy with statistics, for CI"
    description = f"{help_text[0].upper()}{help_text[1:]}."
    command = commands.add_parser("gate", help=help_text, description=description, epilog=EXIT_CODES)
    command.set_defaults(function=run)
    command.add_argument("run", metavar="RUN", help="run folder, such as build/resnet18-jetson")
    margin = command.add_mutually_exclusive_group()
    margin.add_argument(
        "--margin",
        type=_margin,
        metavar="PP",
        help="drop that is still acceptable, in percentage points (default the run's accuracy_drop_pp, or 1)",
    )
    margin.add_argument("--mlperf", action="store_true", help="margin of 1 %% of the reference's accuracy")
    command.add_argument(
        "--alpha", type=_level, default=0.05, metavar="A", help="level of either verdict (default 0.05)"
    )
    command.add_argument(
        "--baseline",
        metavar="REPORT",
        help="report.json of another run: compare what ships with what ships there, instead of with float",
    )
    command.add_argument("--sequential", action="store_true", help="stop as soon as an always-valid test knows")
    command.add_argument("--seed", type=_seed, default=0, metavar="N", help="order of the images for --sequential")
    command.add_argument("--junit", metavar="FILE", help="write JUnit XML")
    command.add_argument("--sarif", metavar="FILE", help="write SARIF 2.1.0")
    command.add_argument("--github", action="store_true", help="print GitHub annotations")
    command.add_argument("--json", action="store_true", help="print the judgement as JSON")


def run(options: Namespace, screen: Screen, arguments: list[str]) -> int:
    """Tests a finished run's accuracy drop and writes the files that the options name; no run is changed."""
    from edgeres.report.ci_formats import junit, sarif, workflow_commands
    from edgeres.runs import document
    from edgeres.runs.finished import read_finished
    from edgeres.settings import plain

    folder = Path(options.run)
    finished = read_finished(folder)
    baseline = read_finished(Path(options.baseline)) if options.baseline else None
    judgement = _judgement(finished, baseline, options)
    name = f"{finished.run.model}-{finished.run.target.name}"
    report = folder if folder.name == document.JSON else folder / document.JSON
    if options.junit:
        _write(options.junit, junit(judgement, name))
    if options.sarif:
        _write(options.sarif, sarif(judgement, relative_name(report)))
    if options.json:
        print(json.dumps(plain(judgement), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        for line in _lines(judgement):
            screen.line(line)
    if options.github:
        # GitHub's runner reads both streams; with --json, standard output holds JSON only.
        print("\n".join(workflow_commands(judgement, name)), file=sys.stderr if options.json else sys.stdout)
    return judgement.exit_code


def _judgement(finished: FinishedRun, baseline: FinishedRun | None, options: Namespace) -> Judgement:
    """The test of a run against its float network, or against a baseline run."""
    from dataclasses import replace

    from edgeres.gate.judgement import MLPERF_SHARE, PairedPredictions, judge

    if baseline:
        comparison = PairedPredictions.with_baseline(finished.answers, baseline.answers)
    else:
        comparison = PairedPredictions.with_float(finished.answers)
    margin = options.margin or _budgeted_margin(finished)
    warnings: tuple[str, ...] = ()
    if options.mlperf:
        # At a reference accuracy of 0 % the share would be 0; the tests are defined for a positive margin only.
        margin = MLPERF_SHARE * max(comparison.reference_top1, 1.0)
        if finished.retrained:
            stages = ", ".join(dict.fromkeys(finished.retrained))
            warnings = (
                f"MLPerf's closed division allows no retraining; behind its float baseline this run did {stages}",
            )
    judgement = judge(comparison, margin, alpha=options.alpha, seed=options.seed if options.sequential else None)
    return replace(judgement, warnings=(*judgement.warnings, *warnings))


def _budgeted_margin(finished: FinishedRun) -> float:
    """The margin in percentage points of the run's own budget ``accuracy_drop_pp``; 1 where it has none.

    Raises:
        UsageError: It is not above zero: no number of images can show a drop of exactly zero.
    """
    from edgeres.gate.judgement import DEFAULT_MARGIN_PP

    margin = finished.margin_pp
    if margin is not None and margin <= 0:
        raise UsageError(f"the run's budget accuracy_drop_pp={margin:g} leaves no margin to test", "pass --margin PP")
    return DEFAULT_MARGIN_PP if margin is None else margin


def _lines(judgement: Judgement) -> tuple[str, ...]:
    """The printed lines: verdict, accuracies, p values, power, warnings."""
    return (
        judgement.sentence,
        f"top-1 {judgement.deployed_top1:.2f} % deployed, {judgement.reference_top1:.2f} % {judgement.reference}; "
        f"{judgement.changed} of {judgement.n} images answered differently",
        f"p values: drop of {judgement.margin_pp:.3g} pp or more {judgement.p_margin:.3g} (score test), no drop "
        f"{judgement.p_worse:.3g} (one-sided mid-p McNemar), equal accuracy {judgement.p_changed:.3g} (two-sided)",
        f"power: a network without a drop passes on {judgement.n} images with a chance of {judgement.power:.0%}; "
        f"80 % takes {judgement.n_needed}",
        *(f"warning: {text}" for text in judgement.warnings),
    )


def _write(path: str, text: str) -> None:
    """Writes a text file.

    Raises:
        StoreError: It cannot be written.
    """
    try:
        Path(path).write_text(text, encoding="utf-8", newline="\n")
    except OSError as failure:
        raise StoreError(f"cannot write {path}: {failure.strerror}", "name a file in a folder that exists") from failure


def _number(text: str, least: float, most: float, words: str) -> float:
    """A number strictly between two bounds.

    Raises:
        ArgumentTypeError: It is none; ``words`` say what it must be.
    """
    try:
        value = float(text)
    except ValueError:
        value = least
    if not least < value < most:
        raise argparse.ArgumentTypeError(f"{text!r} is not {words}")
    return value


def _margin(text: str) -> float:
    return _number(text, 0, 100, "a number of percentage points above 0 and below 100, such as 1")


def _level(text: str) -> float:
    return _number(text, 0, 0.5, "a level above 0 and below 0.5, such as 0.05")


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)
