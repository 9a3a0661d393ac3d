"""``edgeres gate``: a statistical test of a finished run's accuracy, as text, JSON, JUnit, SARIF and annotations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli._options import Commands, Options, number, sentence, whole
from edgeres.errors import UsageError

if TYPE_CHECKING:
    from edgeres.cli._console import Screen
    from edgeres.runs.finished import FinishedRun
    from edgeres.tasks.judgement import Judgement

PLACE = 110

EXIT_CODES = "exit codes: 0 PASS, 1 error, 2 bad usage or input, 3 FAIL, 5 INCONCLUSIVE (too few images to tell)"
_WRITABLE = "name a file in a folder that exists"


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres gate``."""
    help_text = "judge a finished run's accuracy with statistics, for CI"
    command = commands.add_parser("gate", help=help_text, description=sentence(help_text), epilog=EXIT_CODES)
    add = command.add_argument
    add("run", metavar="RUN", help="run folder, such as build/resnet18-jetson")
    margin = command.add_mutually_exclusive_group()
    points = number(lambda pp: 0 < pp < 100, "not a number of percentage points above 0 and below 100, such as 1")
    drop = "drop that is still acceptable, in percentage points (default the run's accuracy_drop_pp, or 1)"
    margin.add_argument("--margin", type=points, metavar="PP", help=drop)
    margin.add_argument("--mlperf", action="store_true", help="margin of 1 %% of the reference's accuracy")
    level = number(lambda alpha: 0 < alpha < 0.5, "not a level above 0 and below 0.5, such as 0.05")
    add("--alpha", type=level, default=0.05, metavar="A", help="level of either verdict (default 0.05)")
    baseline = "report.json of another run: compare what ships with what ships there, instead of with float"
    add("--baseline", metavar="REPORT", help=baseline)
    add("--sequential", action="store_true", help="stop as soon as an always-valid test knows")
    add("--seed", type=whole(0, "from 0 on"), default=0, metavar="N", help="order of the images for --sequential")
    add("--junit", metavar="FILE", help="write JUnit XML")
    add("--sarif", metavar="FILE", help="write SARIF 2.1.0")
    add("--github", action="store_true", help="print GitHub annotations")
    add("--json", action="store_true", help="print the judgement as JSON")


def run(options: Options, screen: Screen) -> int:
    """Tests a finished run's accuracy drop and writes the files that the options name; no run is changed."""
    from edgeres.cli._console import relative_name, write_file
    from edgeres.report.ci_formats import junit, sarif, workflow_commands
    from edgeres.runs import document
    from edgeres.runs.finished import read_finished

    folder = Path(options.run)
    finished = read_finished(folder)
    baseline = read_finished(Path(options.baseline)) if options.baseline else None
    judgement = _judgement(finished, baseline, options)
    name = f"{finished.run.model}-{finished.run.target.name}"
    report = folder if folder.name == document.JSON else folder / document.JSON
    if options.junit:
        write_file(Path(options.junit), junit(judgement, name).encode(), _WRITABLE)
    if options.sarif:
        write_file(Path(options.sarif), sarif(judgement, relative_name(report)).encode(), _WRITABLE)
    if options.json:
        screen.json(judgement, ascii_only=False)
    else:
        for line in _lines(judgement):
            screen.line(line)
    if options.github:
        # GitHub's runner reads both streams; with --json, standard output holds JSON only.
        print("\n".join(workflow_commands(judgement, name)), file=sys.stderr if options.json else sys.stdout)
    return judgement.exit_code


def _judgement(finished: FinishedRun, baseline: FinishedRun | None, options: Options) -> Judgement:
    """The test of a run against its float network, or against a baseline run.

    The margin is the run's own budget ``accuracy_drop_pp`` where no option states another.
    """
    from dataclasses import replace

    from edgeres.tasks.judgement import DEFAULT_MARGIN_PP, MLPERF_SHARE, PairedPredictions, judge

    if baseline:
        comparison = PairedPredictions.with_baseline(finished.answers, baseline.answers)
    else:
        comparison = PairedPredictions.with_float(finished.answers)
    limit = finished.run.limit_of("accuracy_drop_pp")
    margin = options.margin or (DEFAULT_MARGIN_PP if limit is None else limit)
    if margin <= 0:  # no number of images can show a drop of exactly zero
        raise UsageError(f"the run's budget accuracy_drop_pp={margin:g} leaves no margin to test", "pass --margin PP")
    warnings: tuple[str, ...] = ()
    if options.mlperf:
        # At a reference accuracy of 0 % the share would be 0; the tests are defined for a positive margin only.
        margin = MLPERF_SHARE * max(comparison.reference_score, 1.0)
        if stages := ", ".join(dict.fromkeys(finished.retrained)):
            warning = f"MLPerf's closed division allows no retraining; behind its float baseline this run did {stages}"
            warnings = (warning,)
    judgement = judge(comparison, margin, alpha=options.alpha, seed=options.seed if options.sequential else None)
    return replace(judgement, warnings=(*judgement.warnings, *warnings))


def _lines(judgement: Judgement) -> tuple[str, ...]:
    j, tests = judgement, []
    changed = "" if j.changed is None else f"; {j.changed} of {j.n} images answered differently"
    if j.p_margin is not None:
        tests.append(
            f"p values: drop of {j.margin_pp:.3g} pp or more {j.p_margin:.3g} (score test), no drop "
            f"{j.p_worse:.3g} (one-sided mid-p McNemar), equal accuracy {j.p_changed:.3g} (two-sided)"
        )
    if j.power is not None:
        passes = f"power: a network without a drop passes on {j.n} images with a chance of {j.power:.0%}"
        tests.append(f"{passes}; 80 % takes {j.n_needed}")
    elif j.n_needed is not None:
        tests.append(f"power: a network without a drop passes with a chance of 80 % on {j.n_needed} images")
    return (
        j.sentence,
        f"{j.metric} {j.deployed_score:.2f} % deployed, {j.reference_score:.2f} % {j.reference}{changed}",
        *tests,
        *(f"warning: {text}" for text in j.warnings),
    )
