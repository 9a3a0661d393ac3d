"""The climb: which rungs are tried, in which order, and which candidate is kept. It knows nothing of networks.

Rungs are tried from the cheapest to the dearest until the gate is met on tuning images. Where these leave it open, only
rungs that cost seconds are tried, unless the drop itself is over the limit on images that could show a better one: what
a dearer rung wins could not be seen. None at all is tried where every image is answered as by float already. A rung
starts only if its predicted time fits into what is left of the time budget. The best candidate is kept whatever came
later.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isnan
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from edgeres.errors import StageError
from edgeres.gate import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
S = TypeVar("S")

NOT_NEEDED = "not needed: the accuracy limit is met on the tuning images"
AS_FLOAT = "not needed: every tuning image is answered as by float, so that nothing could be seen to improve"
UNSEEN = "left out: the tuning images are too few to show what it wins"
NO_LIMIT = "left out: no accuracy limit is set, and it costs more than seconds"
OUT_OF_TIME = "left out: named in skip, or beyond the time budget"

_RANK = {Outcome.FAIL: 0, Outcome.INCONCLUSIVE: 1, Outcome.PASS: 2}


@dataclass(frozen=True, slots=True)
class Trial:
    """What the tuning images say of a candidate.

    Attributes:
        n: Images.
        top1: Accuracy in percent.
        drop_pp: Float accuracy less this one.
        low_pp: Lower end of the gate's interval of the drop.
        high_pp: Upper end of it.
        agreement: Predictions equal to float's, in percent.
        kl: Mean divergence of the softmax from float's, in nats.
        sqnr_db: Signal to noise of the logits in decibels.
        integer: Weighted layers that are integers.
        outcome: What the gate says; None where no drop is too large.
        doubtful: Whether the verdict is open with a drop over the limit, on images that would say PASS of a network
            without one.
        needed: Images on which a network without any drop would pass with a chance of 0.8.
    """

    n: int
    top1: float
    drop_pp: float
    low_pp: float
    high_pp: float
    agreement: float
    kl: float
    sqnr_db: float
    integer: int
    outcome: Outcome | None
    doubtful: bool
    needed: int | None

    def better(self, other: Trial) -> bool:
        """Whether this candidate is the better one: the better verdict, then the lower divergence."""
        return self._key() > other._key()

    def _key(self) -> tuple[int, float]:
        rank = 0 if self.outcome is None else _RANK[self.outcome]
        return rank, -inf if isnan(self.kl) else -self.kl


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a rung has no candidate, one sentence."""

    why: str


@dataclass(frozen=True, slots=True)
class Tried(Generic[T]):
    """A rung that was climbed."""

    rung: str
    candidate: T
    trial: Trial


@dataclass(frozen=True, slots=True)
class Climb(Generic[T]):
    """A finished climb.

    Attributes:
        tried: Candidates in the order of the rungs.
        skipped: Rungs that were not tried, and why.
        chosen: The one that goes on.
    """

    tried: tuple[Tried[T], ...]
    skipped: dict[str, str]
    chosen: Tried[T]


class Rung(Protocol[S]):
    """One way to a better candidate."""

    @property
    def name(self) -> str:
        """What it is called in recipes and reports."""

    @property
    def quick(self) -> bool:
        """Whether it costs seconds."""

    def predicted(self) -> float:
        """Seconds it will take, from what earlier rungs took."""

    def candidate(self, tried: Sequence[Tried[S]]) -> S | Refusal:
        """A candidate that builds on the earlier ones, or why there is none."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How far to climb.

    Attributes:
        forced: Climb every rung that is not in ``skip``, gate or no gate, for as long as it takes, and keep the last.
        skip: Rungs to leave out.
        budget_s: Seconds for the whole climb; None for no limit.
    """

    forced: bool = False
    skip: frozenset[str] = frozenset()
    budget_s: float | None = None

    def reason_to_skip(self, rung: Rung[T], best: Trial | None, left_s: float) -> str:
        """Why a rung is not climbed; empty where it is. The first rung always is: without it there is no network."""
        if best is None:
            return ""
        if self.forced:
            return OUT_OF_TIME if rung.name in self.skip else ""
        reasons = {
            NOT_NEEDED: best.outcome is Outcome.PASS,
            AS_FLOAT: best.agreement == 100,
            OUT_OF_TIME: rung.name in self.skip,
            NO_LIMIT: not rung.quick and best.outcome is None,
            UNSEEN: not rung.quick and best.outcome is Outcome.INCONCLUSIVE and not best.doubtful,
        }
        why = next((reason for reason, holds in reasons.items() if holds), "")
        return why or (OUT_OF_TIME if rung.predicted() > left_s else "")


def climb(
    rungs: Sequence[Rung[T]],
    judge: Callable[[T], Trial],
    policy: Policy,
    *,
    clock: Callable[[], float],
    took: Callable[[str, float], None],
) -> Climb[T]:
    """Climbs.

    Args:
        rungs: From the cheapest to the dearest; the first one needs no other.
        judge: Judges a candidate on tuning images.
        policy: How far.
        clock: Seconds that pass.
        took: Told of each rung's seconds.

    Raises:
        StageError: No rung has a candidate.
    """
    begun = clock()
    tried: list[Tried[T]] = []
    skipped: dict[str, str] = {}
    best: Tried[T] | None = None
    for rung in rungs:
        start = clock()
        left = inf if policy.budget_s is None else policy.budget_s - (start - begun)
        why = policy.reason_to_skip(rung, best.trial if best else None, left)
        if why:
            skipped[rung.name] = why
            continue
        candidate = rung.candidate(tried)
        if isinstance(candidate, Refusal):
            skipped[rung.name] = candidate.why
            took(rung.name, clock() - start)
            continue
        tried.append(Tried(rung.name, candidate, judge(candidate)))
        if best is None or tried[-1].trial.better(best.trial):
            best = tried[-1]
        took(rung.name, clock() - start)
    if best is None:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise StageError(f"no rung gives a network: {reasons}", "force another rung, or none")
    return Climb(tuple(tried), skipped, tried[-1] if policy.forced else best)


def best_of(tried: Sequence[Tried[T]]) -> Tried[T]:
    """The best candidate so far; of equals the earlier one."""
    best = tried[0]
    for other in tried[1:]:
        if other.trial.better(best.trial):
            best = other
    return best
