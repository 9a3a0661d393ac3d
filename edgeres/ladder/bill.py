"""The bill of a climb: one row a rung, and what the user should know, in words."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from edgeres.artifact import Rung
from edgeres.gate import Outcome
from edgeres.ladder.climb import best_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.ladder.climb import Climb, Trial, Tried
    from edgeres.ladder.workshop import Candidate


def rows(climb: Climb[Candidate], order: Sequence[str]) -> tuple[Rung, ...]:
    """Every rung of the ladder, tried or not, in its order."""
    tried = {one.rung: one for one in climb.tried}
    found = []
    for name in order:
        if name in tried:
            found.append(_row(tried[name], chosen=tried[name] is climb.chosen))
        elif name in climb.skipped:
            found.append(Rung(name=name, note=climb.skipped[name]))
    return tuple(found)


def _row(one: Tried[Candidate], *, chosen: bool) -> Rung:
    return row(one.rung, one.trial, chosen=chosen, settings=dict(one.candidate.settings), note=told(one))


def row(name: str, trial: Trial, *, chosen: bool, settings: dict[str, object] | None = None, note: str = "") -> Rung:
    """What the tuning images say of one candidate, as a row.

    Args:
        name: Of the rung.
        trial: What they say.
        chosen: Whether this candidate goes on.
        settings: What was applied.
        note: The same in words.
    """
    return Rung(
        name=name,
        settings=settings or {},
        top1=trial.top1,
        drop_pp=trial.drop_pp,
        low_pp=trial.low_pp,
        high_pp=trial.high_pp,
        agreement=trial.agreement,
        kl=max(0.0, trial.kl) if isfinite(trial.kl) else None,
        integer=trial.integer,
        verdict=str(trial.outcome) if trial.outcome else "",
        chosen=chosen,
        note=note,
    )


def told(one: Tried[Candidate]) -> str:
    """What a rung did, in a few words."""
    mine = one.candidate.settings.get(one.rung)
    facts = mine if isinstance(mine, dict) else {}
    match one.rung:
        case "calibrate":
            variants = facts.get("kl_of_variants", {})
            nearest = f", nearest to float of {len(variants)} variants" if variants else ""
            return f"{facts['calibrator']}, weights {facts['weights']}{nearest}"
        case "mixed":
            layers, share = facts["float_layers"], facts["float_share_of_macs"]
            return f"in float: {', '.join(layers)} ({100 * share:.1f} % of the MACs)"
        case _:
            plain = {key: value for key, value in facts.items() if not isinstance(value, dict)}
            return ", ".join(f"{key} {value}" for key, value in plain.items())


def notes(climb: Climb[Candidate], margin: float | None, images: int) -> tuple[str, ...]:
    """What the user should know of the choice; layers left in float are never passed over."""
    chosen, trial = climb.chosen, climb.chosen.trial
    chain = " + ".join(chosen.candidate.settings)
    found = [f"{chain}: {told(climb.tried[0])}, on {images:,} calibration images; KL to float {trial.kl:.2g} nats"]
    best = best_of(climb.tried)
    if best is not chosen:
        found.append(
            f"{chosen.rung} was asked for and goes on, though {best.rung} is better on the tuning images: KL to float "
            f"{best.trial.kl:.2g} against {trial.kl:.2g} nats"
        )
    if chosen.rung == "mixed":
        found.append(f"mixed precision: {told(chosen)}")
    if margin is None:
        found.append("no accuracy limit is set: nothing was judged, the candidate nearest to float was kept")
    elif trial.outcome is Outcome.INCONCLUSIVE:
        found.append(_too_few(climb, margin))
    elif trial.outcome is Outcome.FAIL:
        found.append(
            f"the limit of {margin:g} pp is not met on {trial.n:,} tuning images (drop {trial.drop_pp:.2f} pp): train "
            "with quantization in the loop (recipe qat), or raise --time-budget where rungs were left out"
        )
    return tuple(found)


def _too_few(climb: Climb[Candidate], margin: float) -> str:
    trial = climb.chosen.trial
    needed = f"; a PASS takes about {trial.needed:,}" if trial.needed else ""
    return f"{trial.n:,} tuning images do not settle whether the drop stays below {margin:g} pp{needed}"
