"""Recovery report: one ``TechniqueResult`` per technique, and notes for the user."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from edgeres.artifacts.results import TechniqueResult
from edgeres.gate.paired_test import Outcome
from edgeres.recovery.context import FloatLayers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue

    from edgeres.recovery.context import Tried
    from edgeres.recovery.evaluator import Evaluation
    from edgeres.recovery.search import Search


def rows(search: Search, order: Sequence[str]) -> tuple[TechniqueResult, ...]:
    """Every technique, tried or not, in order."""
    tried = {one.technique: one for one in search.tried}
    results = []
    for name in order:
        if name in tried:
            one = tried[name]
            chosen, settings = one is search.chosen, one.candidate.records
            results.append(row(name, one.evaluation, chosen=chosen, settings=settings, note=_applied(one)))
        elif name in search.skipped:
            results.append(TechniqueResult(name=name, note=search.skipped[name].note))
    return tuple(results)


def row(
    name: str,
    evaluation: Evaluation,
    *,
    chosen: bool,
    settings: dict[str, JsonValue] | None = None,
    note: str = "",
) -> TechniqueResult:
    """Metrics of the candidate of a technique on the tuning images as a ``TechniqueResult``."""
    divergence = evaluation.divergence
    known = isfinite(divergence.mean)
    return TechniqueResult(
        name=name,
        settings=settings or {},
        top1=evaluation.top1,
        drop_pp=evaluation.drop_pp,
        low_pp=evaluation.low_pp,
        high_pp=evaluation.high_pp,
        agreement=evaluation.agreement,
        kl=divergence.mean if known else None,
        kl_low=divergence.low if known and isfinite(divergence.low) else None,
        kl_high=divergence.high if known and isfinite(divergence.high) else None,
        integer=evaluation.integer,
        verdict=str(evaluation.outcome) if evaluation.outcome else "",
        chosen=chosen,
        note=note,
    )


def _applied(one: Tried) -> str:
    """The settings of a candidate's own technique in words; empty for a technique without settings."""
    settings = one.candidate.settings.get(one.technique)
    return settings.note if settings else ""


def notes(search: Search, margin: float | None, images: int) -> tuple[str, ...]:
    """Notes on the choice; layers left in float are always listed."""
    chosen, evaluation = search.chosen, search.chosen.evaluation
    chain = " + ".join(chosen.candidate.settings)
    first = _applied(search.tried[0])
    lines = [f"{chain}: {first}, on {images:,} calibration images; KL to float {evaluation.kl:.2g} nats"]
    best = search.best
    if best is not chosen:
        lines.append(
            f"{chosen.technique} was asked for and is kept; on the tuning images it is not nearer to float than "
            f"{best.technique} beyond noise: KL {evaluation.kl:.2g} against {best.evaluation.kl:.2g} nats"
        )
    for settings in chosen.candidate.settings.values():
        if isinstance(settings, FloatLayers):
            lines.append(f"mixed precision: {settings.note}")
    if margin is None:
        lines.append("no accuracy limit is set: the candidate nearest to float was kept")
    elif evaluation.outcome is Outcome.INCONCLUSIVE:
        needed = f"; a PASS takes about {evaluation.needed:,}" if evaluation.needed else ""
        lines.append(f"{evaluation.n:,} tuning images do not settle whether the drop stays below {margin:g} pp{needed}")
    elif evaluation.outcome is Outcome.FAIL:
        lines.append(
            f"the limit of {margin:g} pp is not met on {evaluation.n:,} tuning images "
            f"(drop {evaluation.drop_pp:.2f} pp): "
            "train with quantization in the loop (recipe qat), or raise --time-budget where techniques were left out"
        )
    return tuple(lines)
