"""Search over quantization techniques: their order, the time budget, the candidate that is kept, and the report.

Techniques are tried from the cheapest to the most expensive. A candidate is kept only where it is significantly nearer
to float (``edgeres.recovery.evaluator.nearer``). The search ends where the remaining divergence is negligible or not
distinguishable from zero on these images. A technique starts only where its predicted time fits into the rest of the
time budget, less that reserved for later ones. Remedies are tried only where the accuracy limit is missed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from math import inf, isfinite, sqrt
from typing import TYPE_CHECKING

from edgeres.artifacts.results import TechniqueResult
from edgeres.errors import StageError
from edgeres.gate.paired_test import Outcome
from edgeres.recovery.context import Candidate, FloatLayers, Tried
from edgeres.recovery.evaluator import NEGLIGIBLE, Evaluation
from edgeres.recovery.technique import EFFORTS, Effort, Refusal, Technique

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic import JsonValue


class Reason(StrEnum):
    """Why a technique was not tried."""

    LIMIT_MET = "not needed: the accuracy limit is met on the tuning images"
    NO_LIMIT = "left out: no accuracy limit is set, and it gives up integers"
    OPEN = "left out: the tuning images do not say that the accuracy limit is missed"
    NEGLIGIBLE = "not needed: the divergence that is left is negligible"
    UNSEEN = "left out: the tuning images are too few to distinguish the remaining divergence from zero"
    EFFORT = "left out by --effort"
    TIME = "left out: named in skip, or beyond the time budget"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A technique that was not tried, and why; the note has no times, which differ between machines.

    ``seconds`` is its predicted time; None where time was not the reason.
    """

    reason: Reason
    note: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """A finished search: the tried candidates in order, and the techniques that were not tried.

    ``best`` is the candidate nearest to float; ``chosen`` is kept: the best, or the last where a technique is forced.
    """

    tried: tuple[Tried, ...]
    skipped: dict[str, Skipped]
    best: Tried
    chosen: Tried


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of a search.

    ``effort`` are the techniques to try: those that take seconds, those that take minutes, or all; where the accuracy
    limit is missed, ``default`` tries all as well. ``forced`` tries every technique that is not in ``skip``, whatever
    its time, and keeps the last. ``budget_s`` bounds the whole search; None for no limit.
    """

    effort: Effort = "default"
    forced: bool = False
    skip: frozenset[str] = frozenset()
    budget_s: float | None = None

    def skipped(self, technique: Technique, best: Evaluation | None, left_s: float) -> Skipped | None:
        """Why a technique is not tried; None where it is. The first technique is always tried."""
        if best is None:
            return None
        if technique.name in self.skip:
            return Skipped(Reason.TIME, Reason.TIME)
        if self.forced or technique.ready:
            return None
        reason = _needless(technique, best)
        if reason is not None:
            return Skipped(reason, _words(reason, best))
        seconds = technique.predicted()
        allowed = "max" if self.effort == "default" and best.limit_missed else self.effort
        if EFFORTS.index(technique.effort) > EFFORTS.index(allowed):
            return Skipped(Reason.EFFORT, f"{Reason.EFFORT} {self.effort}", seconds)
        return Skipped(Reason.TIME, Reason.TIME, seconds) if seconds > left_s else None

    def reserved_s(self, later: Sequence[Technique], best: Evaluation | None, left_s: float) -> float:
        """Seconds of ``left_s`` reserved for later techniques, the last first, as far as they fit."""
        if best is None or best.limit_missed:
            return 0.0
        reserved = 0.0
        for technique in reversed(later):
            if technique.reserved and self.skipped(technique, best, left_s - reserved) is None:
                reserved += technique.predicted()
        return reserved


def _needless(technique: Technique, best: Evaluation) -> Reason | None:
    """Why a technique is not worth trying on top of the best candidate."""
    if technique.remedy and not best.limit_missed:
        return {None: Reason.NO_LIMIT, Outcome.PASS: Reason.LIMIT_MET}.get(best.outcome, Reason.OPEN)
    if best.limit_missed:
        return None
    if best.divergence.high < NEGLIGIBLE or best.kl == 0:
        return Reason.NEGLIGIBLE
    if technique.effort != "quick" and best.divergence.low <= 0:
        return Reason.UNSEEN
    return None


def _words(reason: Reason, best: Evaluation) -> str:
    if reason is Reason.NEGLIGIBLE:
        if best.task.divergence != "KL":
            return f"{reason}: {best.task.divergence} to float {best.kl:.1e}{best.task.unit}"
        moved = 100 * sqrt(max(0.0, best.kl) / 2)
        return f"{reason}: KL to float {best.kl:.1e} nats moves at most {moved:.2g} % of the probability"
    if reason is Reason.UNSEEN:
        low, high = best.divergence.low, best.divergence.high
        return f"{reason}: {low:.1e} to {high:.1e}{best.task.unit} on {best.n:,} images"
    return reason


def search(
    techniques: Sequence[Technique],
    evaluate: Callable[[Candidate], Evaluation],
    policy: Policy,
    took: Callable[[str, float], None],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Search:
    """Tries techniques in order and keeps the candidate nearest to float; ``StageError`` where there is none.

    The first technique needs no candidate; ``took`` is called with each technique's name and seconds.
    """
    begun = clock()
    tried: list[Tried] = []
    skipped: dict[str, Skipped] = {}
    best: Tried | None = None
    for index, technique in enumerate(techniques):
        start = clock()
        left = inf if policy.budget_s is None else policy.budget_s - (start - begun)
        known = best.evaluation if best else None
        why = policy.skipped(technique, known, left - policy.reserved_s(techniques[index + 1 :], known, left))
        if why is not None:
            skipped[technique.name] = why
            continue
        candidate = technique.candidate(tried, best)
        if isinstance(candidate, Refusal):
            skipped[technique.name] = Skipped(Reason.REFUSED, candidate.why)
        else:
            tried.append(Tried(technique.name, candidate, evaluate(candidate)))
            if best is None or tried[-1].evaluation.better_than(best.evaluation):
                best = tried[-1]
        took(technique.name, clock() - start)
    if best is None:
        reasons = "; ".join(f"{name}: {one.note}" for name, one in skipped.items())
        raise StageError(f"no technique gives a network: {reasons}", "force another one, or none")
    return Search(tuple(tried), skipped, best, tried[-1] if policy.forced else best)


def technique_results(search: Search, order: Sequence[str]) -> tuple[TechniqueResult, ...]:
    """Every technique, tried or not, in order."""
    tried = {one.technique: one for one in search.tried}
    results = []
    for name in order:
        if name in tried:
            one = tried[name]
            chosen, settings = one is search.chosen, one.candidate.records
            results.append(technique_result(name, one.evaluation, chosen=chosen, settings=settings, note=_applied(one)))
        elif name in search.skipped:
            results.append(TechniqueResult(name=name, note=search.skipped[name].note))
    return tuple(results)


def technique_result(
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
        score=None if evaluation.top1 is not None else evaluation.score,
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
    first, task = _applied(search.tried[0]), evaluation.task
    lines = [
        f"{chain}: {first}, on {images:,} calibration images; {task.divergence} to float {evaluation.kl:.2g}{task.unit}"
    ]
    best = search.best
    if best is not chosen:
        lines.append(
            f"{chosen.technique} was asked for and is kept; on the tuning images it is not nearer to float than "
            f"{best.technique} beyond noise: {task.divergence} {evaluation.kl:.2g} "
            f"against {best.evaluation.kl:.2g}{task.unit}"
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
