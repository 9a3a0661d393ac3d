"""What the pages pick out of a run: series to draw, the worst confusions, what became of a flipped image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edgeres.report.figures import number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeres.report.findings import Confusion, Flip, TensorScale
    from edgeres.report.run import LatencyRow, Run, StageRow

DRAWN_CLASSES = 24
"""Above this many classes a confusion matrix is no longer drawn."""
FLIPS_SHOWN = 24
"""Flipped images on the page; ``report.json`` has them all."""
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
    """Limit of a budget line, None where there is no such line."""
    return next((line.limit for line in run.every_line if line.name == name), None)


def culprit(run: Run) -> str:
    """What an accuracy drop over its limit came from, pruning or INT8, and what helps; empty where nobody can tell."""
    limited = (line for line in run.every_line if line.name == "accuracy_drop_pp")
    failed, accuracy, narrow = any(line.status == "failed" for line in limited), run.accuracy, _narrow_top1(run)
    if not failed or accuracy is None or narrow is None:
        return ""
    narrowed, rounded = accuracy.float_top1 - narrow, narrow - accuracy.deployed_top1
    if narrowed > rounded:
        return (
            f"{number(narrowed)} pp went before INT8, with the channels that pruning removed: a higher prune.macs "
            "removes less, more recover.epochs repair more, a recipe without prune removes nothing"
        )
    return (
        f"{number(rounded)} pp went into INT8: 'edgeres quantize RUN --explain' lists what was tried against it, a "
        "higher --time-budget tries more, --recipe qat trains with quantization in the loop"
    )


def _narrow_top1(run: Run) -> float | None:
    """Accuracy in float of what was quantized; None where nothing was, or nobody measured it behind pruning."""
    stages = [row.stage for row in run.stages]
    if run.accuracy is None or "quantize" not in stages:
        return None
    if "prune" not in stages:
        return run.accuracy.float_top1
    between = run.stages[stages.index("prune") : stages.index("quantize")]
    return next((row.top1 for row in reversed(between) if row.top1 is not None), None)


def reference_float(run: Run) -> str:
    """Which float network the accuracy section compares with, one sentence."""
    stages = [row.stage for row in run.stages]
    if "evaluate" not in stages:
        return "Float is the network as it was given, before anything was changed."
    behind = stages[stages.index("evaluate") :]
    changed = list(dict.fromkeys(name for name in ("prune", "recover") if name in behind))
    before = f", before {' and '.join(changed)}" if changed else ""
    return f"Float is the network that the first 'evaluate' measured{before}; all figures are of validation images."


def tuned_float(run: Run) -> str:
    """Which float network the candidates of quantization are compared with, one sentence."""
    stages = [row.stage for row in run.stages]
    before = stages[: stages.index("quantize")] if "quantize" in stages else stages
    changed = next((name for name in reversed(before) if name in ("prune", "recover")), "")
    which = f"the float network that was quantized, behind '{changed}'" if changed else "the float network"
    return f"Same answer and KL compare with {which}, on tuning images."


def confusions(confusion: Confusion, count: int = 8) -> list[tuple[int, int, int]]:
    """The most frequent errors as ``(true, predicted, images)``, most frequent first, ties by class index."""
    errors = [cell for cell in confusion.cells if cell[0] != cell[1]]
    return sorted(errors, key=lambda cell: (-cell[2], cell[0], cell[1]))[:count]


def fate(flip: Flip) -> Literal["lost", "gained", "both wrong"]:
    """Whether deployment turned a right answer wrong, a wrong one right, or one wrong answer into another."""
    if flip.float_prediction == flip.label:
        return "lost"
    return "gained" if flip.deployed_prediction == flip.label else "both wrong"


def worst_first(flips: Iterable[Flip]) -> list[Flip]:
    """Lost images before gained ones before those both get wrong; of each, what float was surest of first."""
    return sorted(flips, key=lambda flip: (_FATES.index(fate(flip)), -(flip.float_confidence or 0.0), flip.index))


def noisiest(tensors: Iterable[TensorScale], count: int) -> list[TensorScale]:
    """The tensors of least signal to quantization noise, the worst first; those without a figure are left out."""
    known = [(row.sqnr_db, place, row) for place, row in enumerate(tensors) if row.sqnr_db is not None]
    return [row for _, _, row in sorted(known, key=lambda entry: entry[:2])[:count]]


def speedup(rows: Sequence[LatencyRow]) -> float | None:
    """How many times faster int8 is than float32 at p50, same runtime, batch and threads; None without both."""
    pair = _pair(rows)
    return pair[0].p50_ms / pair[1].p50_ms if pair else None


def slowness(rows: Sequence[LatencyRow]) -> str:
    """What to say where int8 is not faster than float32 beyond noise; empty where it is, or where one is missing.

    Beyond noise: the 95 % intervals of the two medians have nothing in common.
    """
    pair = _pair(rows)
    if pair is None or pair[1].high_ms < pair[0].low_ms:
        return ""
    ratio = pair[0].p50_ms / pair[1].p50_ms
    how = "slower than float32" if pair[1].low_ms > pair[0].high_ms else "not faster than float32 beyond noise"
    return (
        f"INT8 is {how} on {pair[1].runtime} here ({ratio:.2f} times as fast): 'edgeres bench RUN' says where its time "
        "goes, 'edgeres compile --variant fastest' ships the faster one, --variant float ships float"
    )


def _pair(rows: Sequence[LatencyRow]) -> tuple[LatencyRow, LatencyRow] | None:
    """float32 and int8 on the same runtime, batch and threads."""
    for deployed in rows:
        if deployed.variant != "int8" or not deployed.p50_ms:
            continue
        alike = (deployed.runtime, deployed.batch, deployed.threads)
        for row in rows:
            if row.variant == "float32" and (row.runtime, row.batch, row.threads) == alike:
                return row, deployed
    return None
