"""Recovery report: one ``TechniqueResult`` per technique, and notes for the user."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING

from edgeres.artifacts.results import TechniqueResult
from edgeres.gate.paired_test import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.recovery.context import Candidate
    from edgeres.recovery.evaluation import Evaluation
    from edgeres.recovery.search import Search, Tried


def rows(search: Search[Candidate], order: Sequence[str]) -> tuple[TechniqueResult, ...]:
    """Every technique, tried or not, in order."""
    tried = {one.technique: one for one in search.tried}
    found = []
    for name in order:
        if name in tried:
            found.append(_row(tried[name], chosen=tried[name] is search.chosen))
        elif name in search.skipped:
            found.append(TechniqueResult(name=name, note=search.skipped[name].note))
    return tuple(found)


def _row(one: Tried[Candidate], *, chosen: bool) -> TechniqueResult:
    settings = dict(one.candidate.settings)
    return row(one.technique, one.evaluation, chosen=chosen, settings=settings, note=applied(one))


def row(
    name: str, evaluation: Evaluation, *, chosen: bool, settings: dict[str, object] | None = None, note: str = ""
) -> TechniqueResult:
    """Metrics of one candidate as a ``TechniqueResult``.

    Args:
        name: Name of the technique.
        evaluation: Its metrics on the tuning images.
        chosen: Whether this candidate is kept.
        settings: Applied settings.
        note: The settings in words.
    """
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


def applied(one: Tried[Candidate]) -> str:
    """Description of the applied settings."""
    mine = one.candidate.settings.get(one.technique)
    facts = mine if isinstance(mine, dict) else {}
    match one.technique:
        case "calibrate":
            variants = facts.get("kl_of_variants", {})
            nearest = f", nearest to float of {len(variants)} variants" if variants else ""
            return f"{facts['calibrator']}, weights {facts['weights']}{nearest}"
        case "mixed_precision" | "first_layer":
            layers, share = facts["float_layers"], facts["float_share_of_macs"]
            return f"in float: {', '.join(layers)} ({100 * share:.1f} % of the MACs)"
        case _:
            plain = {key: value for key, value in facts.items() if not isinstance(value, dict)}
            return ", ".join(f"{key} {value}" for key, value in plain.items())


def notes(search: Search[Candidate], margin: float | None, images: int) -> tuple[str, ...]:
    """Notes on the choice; layers left in float are always listed."""
    chosen, evaluation = search.chosen, search.chosen.evaluation
    chain = " + ".join(chosen.candidate.settings)
    found = [
        f"{chain}: {applied(search.tried[0])}, on {images:,} calibration images; KL to float {evaluation.kl:.2g} nats"
    ]
    best = search.best
    if best is not chosen:
        found.append(
            f"{chosen.technique} was asked for and is kept; on the tuning images it is not nearer to float than "
            f"{best.technique} beyond noise: KL {evaluation.kl:.2g} against {best.evaluation.kl:.2g} nats"
        )
    for name in ("first_layer", "mixed_precision"):
        if name in chosen.candidate.settings:
            found.append(f"mixed precision: {applied(replace(chosen, technique=name))}")
    if margin is None:
        found.append("no accuracy limit is set: the candidate nearest to float was kept")
    elif evaluation.outcome is Outcome.INCONCLUSIVE:
        found.append(_too_few(evaluation, margin))
    elif evaluation.outcome is Outcome.FAIL:
        found.append(
            f"the limit of {margin:g} pp is not met on {evaluation.n:,} tuning images "
            f"(drop {evaluation.drop_pp:.2f} pp): "
            "train with quantization in the loop (recipe qat), or raise --time-budget where techniques were left out"
        )
    return tuple(found)


def _too_few(evaluation: Evaluation, margin: float) -> str:
    needed = f"; a PASS takes about {evaluation.needed:,}" if evaluation.needed else ""
    return f"{evaluation.n:,} tuning images do not settle whether the drop stays below {margin:g} pp{needed}"
