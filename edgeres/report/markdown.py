"""``report.md``: the report as GitHub Flavored Markdown, for a pull request; all text is escaped."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgeres.latency.benchmark.result import sentences
from edgeres.report import benchmark, candidates, select
from edgeres.runs import figures
from edgeres.runs.verdict import drop_cause, headline, measuring, outcome, remedies
from edgeres.tasks.registry import task_kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeres.latency.benchmark.result import BenchmarkResult
    from edgeres.runs.run import Run

_ICONS = {"passed": "\u2705 passed", "failed": "\u274c failed", "unmeasured": "\u2754 unmeasured"}
_VERDICT = {"passed": "\u2705", "failed": "\u274c", "incomplete": "\u2754", "error": "\u274c"}
FLIPS_LISTED, TENSORS_LISTED = 20, 12
"""Listed flips and tensors: a GitHub comment holds at most 65,536 characters; ``report.json`` has all of them."""
_SPECIAL = re.compile(r"([\\`*\[\]~|#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")  # inside a word "_" is literal
_FEW = 26
"""Most characters of a cell that never wraps."""


def markdown(run: Run) -> str:
    """The Markdown report, equal for equal runs."""
    sections = {
        "Budget": _budget(run),
        "Stage by stage": _stages(run),
        "What was tried to keep the accuracy": _recovery(run),
        "Accuracy": _accuracy(run),
        "Speed": _speed(run),
        "What runs in integers": _integers(run),
        "Confusion matrix": _confusion(run),
        "Images answered differently than by float": _flips(run),
        "Calibration": _calibration(run),
        "Provenance": _provenance(run),
        "How to reproduce": block(run.command, "sh"),
    }
    title = f"# {_VERDICT[outcome(run)]} {prose(headline(run))}"
    return _paragraphs(title, *_opening(run), *(f"## {name}\n\n{text}" for name, text in sections.items())) + "\n"


def prose(value: str) -> str:
    """Plain text as one line of Markdown without HTML, emphasis or table cells."""
    line = " ".join(value.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line).replace("@", "@\u200b")


def code(value: str) -> str:
    """Text as an inline code span; backticks and pipes in it are escaped."""
    line = " ".join(value.split()).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if "`" in line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _digest(sha256: str) -> str:
    return code(figures.short(sha256))


def block(value: str, language: str) -> str:
    """Text as a fenced code block; the fence is longer than any in the text."""
    fence = "`" * (1 + max(map(len, re.findall("`{3,}", value)), default=2))
    return f"{fence}{language}\n{value.rstrip()}\n{fence}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1, last: int = 0) -> str:
    """A Markdown table of escaped cells; columns between the first ``words`` and the ``last`` ones hold figures.

    Figures are right-aligned and do not wrap between number and unit.
    """
    numeric = range(words, len(heads) - last)
    ruler = ["---:" if index in numeric else "---" for index in range(len(heads))]
    solid = [[_whole(cell) if index in numeric else cell for index, cell in enumerate(row)] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ruler, *solid))


def _prose_table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    return _table(heads, [[prose(cell) for cell in row] for row in rows], words)


def _whole(words: str) -> str:
    """Words joined by non-breaking spaces where the text is short: ``98.33 %``."""
    return words.replace(" ", "\u00a0") if len(words) <= _FEW else words


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {prose(item)}" for item in items)


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{content}\n\n</details>"


def _missing(why: str) -> str:
    return f"{_ICONS['unmeasured']}: {prose(why)}"


def _opening(run: Run) -> list[str]:
    parts = [f"{prose(run.model)} for {prose(run.target.title)}, {prose(run.target.runtime)}."]
    if run.error:
        hint = f" **Hint:** {prose(run.error.hint)}" if run.error.hint else ""
        parts.append(f"> **{prose(run.error.kind)}:** {prose(run.error.what)}{hint}")
    hints = (*(("What helps", text) for text in remedies(run)), ("Next", measuring(run)))
    return [*parts, *(f"> **{label}:** {prose(text)}" for label, text in hints if text), _bullets(run.notes)]


def _budget(run: Run) -> str:
    if not run.every_line:
        return _missing("The run ended before a budget line was checked.")
    rows = []
    for line in run.every_line:
        value, limit = figures.compared(line)
        rounds = " (rounds to the limit)" if figures.relation(line) == "rounds to" else ""
        status, how = _whole(_ICONS[line.status]), figures.how_come(line)
        if line.predicted:
            status, how = f"{status}, {figures.PREDICTED[line.predicted_status]}", f"{how}; {line.predicted.basis}"
        shown = f"{value}{rounds}" if value else figures.predicted_text(line) or "-"
        title, source = prose(figures.line_title(line.name)), prose(figures.origin(line))
        rows.append((title, status, shown, limit, prose(how), source))
    return _table(("Line", "Status", "Value", "At most", "How", "Limit from"), rows, 2, 2)


def _stages(run: Run) -> str:
    if not run.stages and not run.error:
        return _missing("No stage finished.")
    notes = _bullets(f"{row.stage}: {note}" for row in run.stages for note in row.notes)
    return _paragraphs(_prose_table(select.stage_heads(run), select.stage_cells(run, "-", "stopped here")), notes)


def _recovery(run: Run) -> str:
    rows = candidates.recovery_rows(run)
    if not rows:
        return "No quantization technique was searched."
    cells = []
    for row in candidates.folded(rows):
        name, *measured, what = row.cells("-")
        cells.append((f"**{prose(name)}**" if row.technique.chosen else prose(name), *measured, prose(what)))
    legend = f"Bold: chosen. {prose(select.tuned_float(run))} {prose(candidates.next_step(run))}"
    worst = candidates.most_sensitive(run)
    named = ", ".join(f"{code(layer.layer)} {candidates.divergence(layer.kl)}" for layer in worst)
    noise = f"Most sensitive layers (KL to float, alone in integers): {named}." if worst else ""
    return _paragraphs(_table(candidates.heads(run), cells, 2, 1), legend, noise)


def _accuracy(run: Run) -> str:
    a = run.accuracy
    if a is None:
        return _missing(select.UNVERIFIED)
    moved = "" if a.b is None else f"{a.b:,} were right before and are wrong now, {a.c:,} the other way round; "
    more = "".join(
        f"{prose(text)}\n" for text in (*map(figures.further_text, a.further), *map(figures.output_text, a.outputs))
    )
    measured = (
        f"{figures.percent(a.deployed_score)} deployed, {figures.percent(a.float_score)} float: a drop of "
        f"**{figures.points(a.drop_pp)}** ({figures.drop_interval(a)}) on {a.n:,} images.\n"
        f"{moved}{figures.percent(a.agreement)} get the same answer as by float.\n{more}"
        f"{prose(select.reference_float(run))}\n{prose(a.method)}"
    )
    return _paragraphs(measured, prose(drop_cause(run)))


def _speed(run: Run) -> str:
    rows, result = run.timings.latency, run.timings.bench
    timed = _missing(run.timings.unmeasured or "The latency was not measured.")
    if rows:
        listed = _prose_table(select.LATENCY_HEADS, select.latency_cells(rows), 2)
        notes = (select.int8_conclusion(rows), *dict.fromkeys(row.how for row in rows))
        timed = f"{listed}\n\n{_bullets(filter(None, notes))}"
    return _paragraphs(timed, _benchmark(result) if result else "")


def _benchmark(result: BenchmarkResult) -> str:
    listed = _prose_table(benchmark.HEADS, benchmark.cells(result))
    return f"### Benchmark\n\n{_bullets(sentences(result))}\n\n{listed}\n\n{_bullets(benchmark.footnotes(result))}"


def _integers(run: Run) -> str:
    k, listed = run.kernels, ""
    counted = f"**{k.integer} of {k.weighted}** {figures.WEIGHTED}. {prose(k.how)}" if k else ""
    if k and k.counts:
        listed = _table(("Kernel", "Executed"), [(code(name), f"{k.counts[name]:,}") for name in sorted(k.counts)])
    proven = f"Proven on this host:\n\n{_bullets(run.evidence)}" if run.evidence else ""
    return _paragraphs(counted or _missing("Integer layers were not counted."), listed, proven)


def _confusion(run: Run) -> str:
    if run.confusion is None:
        return _missing(select.NO_CLASSES if run.accuracy else select.UNVERIFIED)
    rows = select.confusion_cells(run)
    listed = _prose_table(("True", "Predicted", "Images"), rows, 2)
    return f"Most frequent errors:\n\n{listed}" if rows else "No errors."


def _flips(run: Run) -> str:
    if run.accuracy is None:
        return _missing(select.UNVERIFIED)
    if not task_kind(run.task).classes:
        return _missing(select.NO_CLASSES)
    if not run.flips:
        return "None."
    rows = []
    for flip in select.worst_first(run.flips)[:FLIPS_LISTED]:
        before = _answer(run, flip.float_prediction, flip.float_confidence)
        after = _answer(run, flip.deployed_prediction, flip.deployed_confidence)
        label, content = prose(run.class_name(flip.label)), _digest(flip.sha256)
        rows.append((str(flip.index), select.fate(flip), label, before, after, content))
    rest = f"; the worst {FLIPS_LISTED} here" if len(run.flips) > FLIPS_LISTED else ""
    listed = _table(("Image", "", "True", "Float", "Deployed", "sha256"), rows, 6)
    return _details(f"{len(run.flips):,} images{rest}", listed)


def _answer(run: Run, answer: int, surely: float | None) -> str:
    name = prose(run.class_name(answer))
    return name if surely is None else f"{name}, {figures.share(surely)}"


def _calibration(run: Run) -> str:
    c = run.calibration
    if c is None or not c.tensors:
        return "No calibration: the network stays in float, or the run ended before it."
    scales = [tensor.scale for tensor in c.tensors]
    summary = (
        f"{len(scales)} activation tensors, scales {min(scales):.3g} to {max(scales):.3g}, {prose(c.calibrator)} over "
        f"{c.images:,} images ({_digest(c.data)})."
    )
    rows = []
    for row in select.noisiest(c.tensors, TENSORS_LISTED):
        clipped = "-" if row.clipped is None else figures.share(row.clipped)
        values = (
            "-" if row.low is None or row.high is None else f"{figures.number(row.low)} to {figures.number(row.high)}"
        )
        rows.append((code(row.tensor), f"{row.sqnr_db:.1f} dB", clipped, values, f"{row.scale:.4g}"))
    listed = _table(("Tensor", "SQNR", "Cut off", "Values", "Scale"), rows)
    return _paragraphs(summary, _details(f"The {len(rows)} tensors that lose most", listed) if rows else "")


def _provenance(run: Run) -> str:
    rows = [(code(name), _digest(file.sha256), f"{file.size:,}") for name, file in sorted(run.files.items())]
    files = _details("Files", _table(("File", "sha256", "Bytes"), rows, 2)) if rows else ""
    p = run.provenance
    if p is None:
        return _paragraphs("The run ended before its inputs were known.", files)
    facts = [
        f"- edgeres {prose(run.edgeres)}, Python {prose(p.python)}, {prose(p.platform)}, {prose(p.cpu)}"
        f"{'' if p.cores is None else f' ({p.cores} cores)'}, seed {p.seed}",
        f"- code: {code(p.code)}" if p.code else "",
        f"- weights: {code(p.weights) if p.weights else 'trained in this run'}",
        f"- scales: taken from a calibration table, {code(p.scales)}" if p.scales else "",
        f"- data: {prose(p.data)}{f' ({prose(p.data_kind)})' if p.data_kind else ''}",
        *(f"  - {prose(split.name)}: {split.images:,} images, {_digest(split.digest)}" for split in p.splits),
        *(f"  - {prose(what.lower())}: {prose(counts)}" for what, counts in (p.census.rows if p.census else ())),
        f"- {', '.join(f'{prose(name)} {prose(version)}' for name, version in sorted(p.packages.items()))}",
    ]
    return _paragraphs("\n".join(filter(None, facts)), _details("Recipe", block(p.recipe, "yaml")), files)
