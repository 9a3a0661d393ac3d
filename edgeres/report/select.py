"""Selections from a run for the report pages: plotted series, most frequent confusions, flipped images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edgeres.runs.remedy import float_and_int8

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeres.runs.findings import Confusion, Flip, TensorScale
    from edgeres.runs.run import LatencyRow, Run
    from edgeres.runs.stage import StageRow

DRAWN_CLASSES = 24
"""Most classes of a confusion matrix that is drawn."""
FLIPS_SHOWN = 24
"""Most flipped images on the page; ``report.json`` has all of them."""
_FATES = ("lost", "gained", "both wrong")


def trail(stages: Sequence[StageRow], field: Literal["top1", "macs"]) -> list[tuple[str, float]]:
    """``(stage, figure)`` of the stages that measured it; MACs only where they changed."""
    found: list[tuple[str, float]] = []
    for row in stages:
        figure = row.top1 if field == "top1" else row.macs
        if figure is not None and not (field == "macs" and found and found[-1][1] == figure):
            found.append((row.stage, float(figure)))
    return found


def limit_of(run: Run, name: str) -> float | None:
    """Limit of a budget line; None where there is no such line."""
    return next((line.limit for line in run.every_line if line.name == name), None)


def reference_float(run: Run) -> str:
    """The float network that the accuracy section compares with, one sentence."""
    stages = [row.stage for row in run.stages]
    if "evaluate" not in stages:
        return "Float is the network as it was given, before anything was changed."
    behind = stages[stages.index("evaluate") :]
    changed = list(dict.fromkeys(name for name in ("prune", "recover") if name in behind))
    before = f", before {' and '.join(changed)}" if changed else ""
    return f"Float is the network that the first 'evaluate' measured{before}; all figures are of validation images."


def tuned_float(run: Run) -> str:
    """The float network that quantization techniques are compared with, one sentence."""
    stages = [row.stage for row in run.stages]
    before = stages[: stages.index("quantize")] if "quantize" in stages else stages
    changed = next((name for name in reversed(before) if name in ("prune", "recover")), "")
    which = f"the float network that was quantized, behind '{changed}'" if changed else "the float network"
    return f"Same answer and KL compare with {which}, on tuning images."


_CONFUSIONS = 8
"""Most listed errors."""


def confusions(confusion: Confusion) -> list[tuple[int, int, int]]:
    """The most frequent errors as ``(true, predicted, images)``, in descending order, ties by class index."""
    errors = [cell for cell in confusion.cells if cell[0] != cell[1]]
    return sorted(errors, key=lambda cell: (-cell[2], cell[0], cell[1]))[:_CONFUSIONS]


def fate(flip: Flip) -> Literal["lost", "gained", "both wrong"]:
    """Whether a flip turned a right prediction wrong, a wrong one right, or changed between wrong ones."""
    if flip.float_prediction == flip.label:
        return "lost"
    return "gained" if flip.deployed_prediction == flip.label else "both wrong"


def worst_first(flips: Iterable[Flip]) -> list[Flip]:
    """Flips sorted: lost images, gained ones, then wrong both times; within each by descending float confidence."""
    return sorted(flips, key=lambda flip: (_FATES.index(fate(flip)), -(flip.float_confidence or 0.0), flip.index))


def noisiest(tensors: Iterable[TensorScale], count: int) -> list[TensorScale]:
    """The tensors of lowest SQNR, in ascending order; those without a figure are left out."""
    known = [(row.sqnr_db, place, row) for place, row in enumerate(tensors) if row.sqnr_db is not None]
    return [row for _, _, row in sorted(known, key=lambda entry: entry[:2])[:count]]


def speedup(rows: Sequence[LatencyRow]) -> float | None:
    """Latency ratio float32 over int8 at p50, of the same runtime, batch and threads; None without both."""
    pair = float_and_int8(rows)
    return pair[0].p50_ms / pair[1].p50_ms if pair else None
