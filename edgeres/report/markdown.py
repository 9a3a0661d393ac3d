"""``report.md``: the report as GitHub Flavored Markdown, for a pull request; all text is escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.latency.benchmark.conclusions import sentences
from edgeres.report.benchmark import HEADS as BENCHMARK_HEADS
from edgeres.report.benchmark import cells as benchmark_cells
from edgeres.report.benchmark import footnotes
from edgeres.report.candidates import HEADS, divergence, folded, next_step, recovery_rows
from edgeres.report.escape import block, bullets, code, prose, table, whole
from edgeres.report.select import (
    confusions,
    fate,
    noisiest,
    reference_float,
    speedup,
    tuned_float,
    worst_first,
)
from edgeres.runs.figures import (
    OUTLOOKS,
    WEIGHTED,
    between,
    compared,
    confidence,
    how_come,
    line_title,
    millis,
    number,
    origin,
    percent,
    points,
    predicted_text,
    relation,
    scaled,
    seconds,
    share,
    short,
)
from edgeres.runs.remedy import drop_cause, int8_slowness, measuring, remedies
from edgeres.runs.verdict import headline, outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.artifacts.budget_check import BudgetCheck
    from edgeres.latency.benchmark.result import BenchmarkResult
    from edgeres.runs.run import Run

_ICONS = {"passed": "\u2705 passed", "failed": "\u274c failed", "unmeasured": "\u2754 unmeasured"}
_VERDICT = {"passed": "\u2705", "failed": "\u274c", "incomplete": "\u2754", "error": "\u274c"}
FLIPS_LISTED, TENSORS_LISTED = 20, 12
"""Listed flips and tensors: a GitHub comment holds at most 65,536 characters; ``report.json`` has all of them."""


def markdown(run: Run) -> str:
    """The Markdown report, equal for equal runs."""
    parts = [
        f"# {_VERDICT[outcome(run)]} {prose(headline(run))}",
        *_opening(run),
        "## Budget",
        _budget(run.every_line),
        "## Stage by stage",
        _stages(run),
        "## What was tried to keep the accuracy",
        _recovery(run),
        "## Accuracy",
        _accuracy(run),
        "## Speed",
        _speed(run),
        "## What runs in integers",
        _integers(run),
        "## Confusion matrix",
        _confusion(run),
        "## Images answered differently than by float",
        _flips(run),
        "## Calibration",
        _calibration(run),
        "## Provenance",
        _provenance(run),
        "## How to reproduce",
        block(run.command, "sh"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _missing(why: str) -> str:
    return f"{_ICONS['unmeasured']}: {prose(why)}"


def _opening(run: Run) -> list[str]:
    found = [f"{prose(run.model)} for {prose(run.target.title)}, {prose(run.target.runtime)}."]
    if run.error:
        hint = f" **Hint:** {prose(run.error.hint)}" if run.error.hint else ""
        found.append(f"> **{prose(run.error.kind)}:** {prose(run.error.what)}{hint}")
    hints = (*(("What helps", text) for text in remedies(run)), ("Next", measuring(run)))
    return [*found, *(f"> **{label}:** {prose(text)}" for label, text in hints if text), bullets(run.notes)]


def _budget(lines: Sequence[BudgetCheck]) -> str:
    if not lines:
        return _missing("The run ended before a budget line was checked.")
    rows = []
    for line in lines:
        value, limit = compared(line)
        title = prose(line_title(line.name))
        rounds = " (rounds to the limit)" if relation(line) == "rounds to" else ""
        status, how = whole(_ICONS[line.status]), how_come(line)
        if line.predicted:
            status, how = f"{status}, {OUTLOOKS[line.predicted_status]}", f"{how}; {line.predicted.basis}"
        shown = f"{value}{rounds}" if value else predicted_text(line) or "-"
        rows.append((title, status, shown, limit, prose(how), prose(origin(line))))
    return table(("Line", "Status", "Value", "At most", "How", "Limit from"), rows, 2, 2)


def _stages(run: Run) -> str:
    if not run.stages and not run.error:
        return _missing("No stage finished.")
    rows = []
    for index, row in enumerate(run.stages):
        time = run.time_of(index)
        rows.append(
            (
                prose(row.stage),
                "-" if row.top1 is None else percent(row.top1),
                "-" if row.macs is None else scaled(row.macs),
                "-" if row.parameters is None else scaled(row.parameters),
                "-" if row.mib is None else f"{number(row.mib)} MiB",
                "-" if time is None else "cached" if time.cached else seconds(time.seconds),
            )
        )
    if run.error:
        rows.append((prose(run.error.stage or "start"), "-", "-", "-", "-", "stopped here"))
    notes = bullets(f"{row.stage}: {note}" for row in run.stages for note in row.notes)
    listed = table(("Stage", "Top-1", "MACs", "Parameters", "Size", "Time"), rows)
    return f"{listed}\n\n{notes}" if notes else listed


def _recovery(run: Run) -> str:
    rows = recovery_rows(run)
    if not rows:
        return "No quantization technique was searched."
    cells = []
    for row in folded(rows):
        name, *figures, what = row.cells("-")
        cells.append((f"**{prose(name)}**" if row.technique.chosen else prose(name), *figures, prose(what)))
    worst = sorted(run.sensitivity, key=lambda layer: -layer.kl)[:5]
    named = ", ".join(f"{code(layer.layer)} {divergence(layer.kl)}" for layer in worst)
    noise = f"\n\nMost sensitive layers (KL to float, alone in integers): {named}." if worst else ""
    return f"{table(HEADS, cells, 2, 1)}\n\nBold: chosen. {prose(tuned_float(run))} {prose(next_step(run))}{noise}"


def _accuracy(run: Run) -> str:
    a = run.accuracy
    if a is None:
        return _missing("The run ended before the deployed network was evaluated.")
    interval = f"{confidence(a.level)} interval {between(a.low_pp, a.high_pp)}"
    return (
        f"{percent(a.deployed_top1)} deployed, {percent(a.float_top1)} float: a drop of **{points(a.drop_pp)}** "
        f"({interval}) on {a.n:,} images.\n"
        f"{a.b:,} were right before and are wrong now, {a.c:,} the other way round; "
        f"{percent(a.agreement)} get the same answer as by float.\n{prose(reference_float(run))}\n{prose(a.method)}"
        + (f"\n\n{prose(lost)}" if (lost := drop_cause(run)) else "")
    )


def _speed(run: Run) -> str:
    rows, everywhere = run.timings.latency, _everywhere(run.timings.bench) if run.timings.bench else ""
    if not rows:
        return _missing(run.timings.unmeasured or "The latency was not measured.") + everywhere
    cells = [
        (
            prose(row.variant),
            prose(row.runtime),
            str(row.batch),
            str(row.threads),
            millis(row.p50_ms),
            f"{number(row.low_ms)} to {millis(row.high_ms)}",
            millis(row.p90_ms),
            millis(row.p99_ms),
            f"{row.n:,}",
        )
        for row in rows
    ]
    listed = table(("Variant", "Runtime", "Batch", "Threads", "p50", "95 % interval", "p90", "p99", "Calls"), cells, 2)
    faster = speedup(rows)
    ratio = [f"At p50, int8 is {number(faster)} times as fast as float32."] if faster else []
    if slow := int8_slowness(rows):
        ratio = [slow]
    return f"{listed}\n\n{bullets((*ratio, *dict.fromkeys(row.how for row in rows)))}{everywhere}"


def _everywhere(result: BenchmarkResult) -> str:
    """The benchmark: conclusions, table and footnotes."""
    rows = [tuple(map(prose, row)) for row in benchmark_cells(result)]
    listed = table(BENCHMARK_HEADS, rows, 1)
    return f"\n\n### Benchmark\n\n{bullets(sentences(result))}\n\n{listed}\n\n{bullets(footnotes(result))}"


def _integers(run: Run) -> str:
    k = run.kernels
    counted = _missing("Integer layers were not counted.")
    if k:
        counted = f"**{k.integer} of {k.weighted}** {WEIGHTED}. {prose(k.how)}"
        if k.counts:
            counted += "\n\n" + table(
                ("Kernel", "Executed"), [(code(name), f"{k.counts[name]:,}") for name in sorted(k.counts)]
            )
    return f"{counted}\n\nProven on this host:\n\n{bullets(run.evidence)}" if run.evidence else counted


def _confusion(run: Run) -> str:
    if run.confusion is None:
        return _missing("The run ended before the deployed network was evaluated.")
    worst = confusions(run.confusion)
    if not worst:
        return "No errors."
    rows = [(prose(run.class_name(true)), prose(run.class_name(guess)), f"{count:,}") for true, guess, count in worst]
    return f"Most frequent errors:\n\n{table(('True', 'Predicted', 'Images'), rows, 2)}"


def _flips(run: Run) -> str:
    if run.accuracy is None:
        return _missing("The run ended before the deployed network was evaluated.")
    if not run.flips:
        return "None."
    rows = [
        (
            str(flip.index),
            fate(flip),
            prose(run.class_name(flip.label)),
            _answer(run, flip.float_prediction, flip.float_confidence),
            _answer(run, flip.deployed_prediction, flip.deployed_confidence),
            code(short(flip.sha256)),
        )
        for flip in worst_first(run.flips)[:FLIPS_LISTED]
    ]
    rest = f"; the worst {FLIPS_LISTED} here" if len(run.flips) > FLIPS_LISTED else ""
    listed = table(("Image", "", "True", "Float", "Deployed", "sha256"), rows, 6)
    return f"<details><summary>{len(run.flips):,} images{rest}</summary>\n\n{listed}\n\n</details>"


def _answer(run: Run, answer: int, surely: float | None) -> str:
    """A predicted class with its confidence."""
    name = prose(run.class_name(answer))
    return name if surely is None else f"{name}, {share(surely)}"


def _calibration(run: Run) -> str:
    c = run.calibration
    if c is None or not c.tensors:
        return "No calibration: the network stays in float, or the run ended before it."
    scales = [tensor.scale for tensor in c.tensors]
    summary = (
        f"{len(scales)} activation tensors, scales {min(scales):.3g} to {max(scales):.3g}, {prose(c.calibrator)} over "
        f"{c.images:,} images ({code(short(c.data))})."
    )
    worst = noisiest(c.tensors, TENSORS_LISTED)
    if not worst:
        return summary
    rows = [
        (
            code(row.tensor),
            f"{row.sqnr_db:.1f} dB",
            "-" if row.clipped is None else share(row.clipped),
            "-" if row.low is None or row.high is None else f"{number(row.low)} to {number(row.high)}",
            f"{row.scale:.4g}",
        )
        for row in worst
    ]
    listed = table(("Tensor", "SQNR", "Cut off", "Values", "Scale"), rows)
    return f"{summary}\n\n<details><summary>The {len(rows)} tensors that lose most</summary>\n\n{listed}\n\n</details>"


def _provenance(run: Run) -> str:
    files = table(
        ("File", "sha256", "Bytes"),
        [(code(name), code(short(run.files[name].sha256)), f"{run.files[name].size:,}") for name in sorted(run.files)],
        2,
    )
    made = f"<details><summary>Files</summary>\n\n{files}\n\n</details>" if run.files else ""
    p = run.provenance
    if p is None:
        return "\n\n".join(part for part in ("The run ended before its inputs were known.", made) if part)
    facts = [
        f"- edgeres {prose(run.edgeres)}, Python {prose(p.python)}, {prose(p.platform)}, {prose(p.cpu)}"
        f"{'' if p.cores is None else f' ({p.cores} cores)'}, seed {p.seed}",
        *([f"- code: {code(p.code)}"] if p.code else []),
        f"- weights: {code(p.weights) if p.weights else 'trained in this run'}",
        *([f"- scales: taken from a calibration table, {code(p.scales)}"] if p.scales else []),
        f"- data: {prose(p.data)}",
        *(f"  - {prose(split.name)}: {split.images:,} images, {code(short(split.digest))}" for split in p.splits),
        f"- {', '.join(f'{prose(name)} {prose(p.packages[name])}' for name in sorted(p.packages))}",
    ]
    recipe = f"<details><summary>Recipe</summary>\n\n{block(p.recipe, 'yaml')}\n\n</details>"
    return "\n\n".join(part for part in ("\n".join(facts), recipe, made) if part)
