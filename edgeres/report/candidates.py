"""Rows of the recovery report: accuracy, latency and time of each quantization technique, for pages and the console."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeres.artifacts.results import TechniqueResult
from edgeres.report.select import metric_title
from edgeres.runs.figures import millis, percent, points, seconds
from edgeres.tasks.registry import task_kind

if TYPE_CHECKING:
    from edgeres.artifacts.results import LayerSensitivity
    from edgeres.runs.run import Run, StageRow

_AGAIN = "quantize"
"""Name of the quantizing stage's own technique: later stages repeat it, and their copy is left out."""


def heads(run: Run) -> tuple[str, ...]:
    """Heads of the table of techniques: score and divergence are those of the run's task."""
    divergence_head = f"{task_kind(run.task).divergence} to float"
    return ("Technique", "Verdict", metric_title(run), "Drop (90 % interval)", "Same answer", divergence_head,
            "Integer layers", "Latency", "Took", "What")  # fmt: skip


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """A quantization technique that was tried, or left out and has no figures but perhaps its predicted duration.

    The latency is of one image on the target's runtime; it is ``expected`` where a roofline predicts it. ``of`` is the
    number of weighted layers of the network.
    """

    technique: TechniqueResult
    seconds: float | None = None
    latency_ms: float | None = None
    expected: bool = False
    of: int | None = None
    predicted_s: float | None = None

    @property
    def tried(self) -> bool:
        """Whether it was evaluated."""
        return self.technique.kl is not None or self.technique.measured is not None

    def cells(self, none: str) -> tuple[str, ...]:
        """One text for each of ``heads``; ``none`` replaces unknown figures."""
        r = self.technique
        interval = "" if r.low_pp is None or r.high_pp is None else f" ({r.low_pp:+.2f} to {r.high_pp:+.2f})"
        speed = none if self.latency_ms is None else millis(self.latency_ms)
        return (
            r.name,
            r.verdict or none,
            none if r.measured is None else percent(r.measured),
            none if r.drop_pp is None else f"{points(r.drop_pp)}{interval}",
            none if r.agreement is None else percent(r.agreement),
            none if r.kl is None else divergence(r.kl),
            none if r.integer is None else f"{r.integer} of {self.of}" if self.of else str(r.integer),
            f"{speed} expected" if self.expected and self.latency_ms is not None else speed,
            none if self.seconds is None else seconds(self.seconds),
            r.note + ("" if self.predicted_s is None else f"; would take about {_rough(self.predicted_s)} more"),
        )


def _rough(time: float) -> str:
    return seconds(float(round(time))) if time < 60 else f"{time / 60:.0f} min"


def divergence(nats: float) -> str:
    """A KL divergence in nats as text: ``1.2e-04``; 0 for equal logits."""
    return f"{nats:.1e}" if nats else "0"


def most_sensitive(run: Run) -> list[LayerSensitivity]:
    """The five layers that lose most where they alone are in integers, the worst first."""
    return sorted(run.sensitivity, key=lambda layer: -layer.kl)[:5]


def recovery_rows(run: Run) -> tuple[CandidateRow, ...]:
    """Every technique of a run, float first; empty where no stage tried any. Only the last choice counts as chosen."""
    listed: list[CandidateRow] = []
    for place, row in enumerate(run.stages):
        time = run.time_of(place)
        timings, whole = (time.timings, time.seconds) if time else ({}, None)
        techniques = [technique for technique in row.techniques if not (listed and technique.name == _AGAIN)]
        if not listed and techniques:
            listed.append(_float(row, timings))
        if any(technique.chosen for technique in techniques):
            listed = [replace(before, technique=replace(before.technique, chosen=False)) for before in listed]
        listed += [_row(each, row, timings, whole if each.name == row.stage else None) for each in techniques]
    return tuple(replace(row, of=run.kernels.weighted if run.kernels else None) for row in listed)


def _row(technique: TechniqueResult, stage: StageRow, timings: dict[str, float], whole: float | None) -> CandidateRow:
    if not CandidateRow(technique).tried:
        return CandidateRow(technique, predicted_s=timings.get(f"predicted {technique.name}"))
    latency, expected = _latency(stage, timings, technique.graph)
    return CandidateRow(technique, timings.get(technique.name, whole), latency, expected)


def _float(stage: StageRow, timings: dict[str, float]) -> CandidateRow:
    """The row of the float reference, which all techniques are compared with."""
    known = (
        (each.top1 is not None, each.measured + each.drop_pp)
        for each in stage.techniques
        if each.measured is not None and each.drop_pp is not None
    )
    ranked, score = next(known, (False, None))
    latency, expected = _latency(stage, timings, "float32")
    note = "what all are compared with"
    technique = TechniqueResult(
        name="float",
        top1=score if ranked else None,
        score=None if ranked else score,
        drop_pp=0.0,
        agreement=100.0,
        kl=0.0,
        integer=0,
        note=note,
    )
    return CandidateRow(technique, latency_ms=latency, expected=expected)


def _latency(stage: StageRow, timings: dict[str, float], kind: str) -> tuple[float | None, bool]:
    """Latency of one image in ms, and whether it is predicted."""
    if (measured := timings.get(f"latency {kind}")) is not None:
        return 1e3 * measured, False
    return stage.metrics.expected_ms.get(kind), True


_NEXT = {
    "PASS": "The limit is met on the tuning images; 'edgeres gate RUN' checks it on the validation images.",
    "FAIL": "The limit is not met: --recipe qat trains with quantization in the loop.",
    "INCONCLUSIVE": "The tuning images do not settle it; 'edgeres gate RUN' checks the deployed network.",
    "": "No accuracy limit is set: --budget accuracy_drop_pp=1 sets one.",
}


def next_step(run: Run) -> str:
    """Recommended next step after quantization, one sentence; empty where no technique was searched."""
    rows = recovery_rows(run)
    chosen = next((row.technique for row in rows if row.technique.chosen), None)
    if chosen is None:
        return ""
    left = [row for row in rows if row.predicted_s is not None]
    table = ", ".join(f"{row.technique.name}, about {_rough(row.predicted_s)} more" for row in left if row.predicted_s)
    if chosen.verdict == "FAIL" and any(row.technique.name == "qat" and row.tried for row in rows):
        return "Training with quantization in the loop did not meet the limit either: loosen it, or change the network."
    if chosen.verdict == "FAIL" and left:
        return f"The limit is not met: --effort max or a higher --time-budget also tries what was left out ({table})."
    if chosen.verdict == "FAIL" and not task_kind(run.task).trained:
        return "The limit is not met: --variant float ships float, --budget accuracy_drop_pp=VALUE sets another limit."
    return f"{_NEXT[chosen.verdict]} Left out for its cost: {table}." if table else _NEXT[chosen.verdict]


def folded(rows: tuple[CandidateRow, ...]) -> tuple[CandidateRow, ...]:
    """The rows, with neighbours that were left out for the same reason merged into one."""
    listed: list[CandidateRow] = []
    for row in rows:
        last = listed[-1] if listed else None
        figures = last and (row.tried or last.tried or row.predicted_s or last.predicted_s)
        if last and not figures and row.technique.note == last.technique.note:
            names = f"{last.technique.name}, {row.technique.name}"
            listed[-1] = replace(last, technique=replace(last.technique, name=names))
        else:
            listed.append(row)
    return tuple(listed)
