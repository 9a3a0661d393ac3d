"""What the table says of each goal, computed and not written by hand.

Ours is the rung that is nearest to float on held-out training images, of those with as many seeds as any rung has;
nothing is chosen on the validation images, on which it is then judged against the best of the peers, for each figure
the one that is best at it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, sqrt
from typing import TYPE_CHECKING

from benchmarks.contenders import QUANTIZERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.means import Mean, Spread

DROP_PP = 0.03
SHARE = 0.5
MINUTES = 5.0
_Z = 1.96
_TIMED = ("edgeres-adaround", "edgeres-reconstruct")


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal under one scheme.

    Attributes:
        name: What is wanted.
        met: Whether it is; None where nothing can be said.
        told: The figures behind it.
    """

    name: str
    met: bool | None
    told: str

    def line(self) -> str:
        """As a list shows it."""
        word = "no verdict" if self.met is None else "met" if self.met else "missed"
        return f"* {self.name}: **{word}**; {self.told}"


def best(found: Sequence[Mean], figure: Callable[[Mean], float]) -> Mean | None:
    """The contender with the smallest figure, of those that have figures."""
    return min((one for one in found if not one.failure), key=figure, default=None)


def goals(found: Sequence[Mean]) -> tuple[Goal, ...]:
    """Every goal for the contenders of one task and scheme."""
    most = max((one.seeds for one in found if one.ours), default=0)
    ours = best([one for one in found if one.ours and one.seeds == most], lambda one: one.kl_held_out.mean)
    peers = [one for one in found if not one.ours]
    if ours is None:
        return (Goal("anything", None, "no rung has figures"),)
    drop = ours.drop_pp.mean
    away = "" if drop <= DROP_PP else f", {drop - DROP_PP:.3f} pp too much"
    return (
        Goal(f"mean drop <= {DROP_PP} pp", drop <= DROP_PP, f"{_name(ours)} {drop:+.3f} pp{away}"),
        _halved("changed predictions", ours, peers, lambda one: one.changed, 1, " %"),
        _halved("KL to float", ours, peers, lambda one: one.kl, 1e3, "e-3"),
        _never_behind(ours, peers),
        _quick(found),
    )


def _name(one: Mean) -> str:
    return QUANTIZERS[one.quantizer].title


def _halved(
    name: str, ours: Mean, peers: Sequence[Mean], figure: Callable[[Mean], Spread], factor: float, unit: str
) -> Goal:
    wanted = f"{name} <= half of the best peer's"
    peer = best(peers, lambda one: figure(one).mean)
    if peer is None:
        return Goal(wanted, None, "no peer has figures")
    mine, theirs = factor * figure(ours).mean, factor * figure(peer).mean
    times = f", {mine / theirs:.2f} of it" if theirs else ""
    told = f"{_name(ours)} {mine:.2f}{unit}, {_name(peer)} {theirs:.2f}{unit}{times}"
    return Goal(wanted, mine <= SHARE * theirs, told)


def _never_behind(ours: Mean, peers: Sequence[Mean]) -> Goal:
    """Drop, changed predictions and KL against every peer.

    Noise of a drop is the paired interval's, that of a share of predictions a binomial's; both are of the same images,
    so the noise of a difference is smaller than what is allowed here. Noise of a KL is what seeds show.
    """
    behind = []
    for peer in peers:
        if peer.failure:
            continue
        noises = (
            ("drop", ours.drop_pp.mean - peer.drop_pp.mean, hypot(_half(ours), _half(peer))),
            ("changed predictions", ours.changed.mean - peer.changed.mean, _binomial(ours, peer)),
            ("KL", ours.kl.mean - peer.kl.mean, _Z * hypot(_error(ours.kl, ours.seeds), _error(peer.kl, peer.seeds))),
        )
        behind += [f"{name} of {_name(peer)}" for name, excess, noise in noises if excess > noise]
    measured = sum(not peer.failure for peer in peers)
    told = f"behind in {', '.join(behind)}" if behind else f"{measured} of {len(peers)} peers measured"
    return Goal("never behind any peer beyond noise", None if not measured else not behind, told)


def _half(one: Mean) -> float:
    return (one.high_pp - one.low_pp) / 2


def _binomial(*both: Mean) -> float:
    shares = [(one.changed.mean / 100, one.images) for one in both]
    return 100 * _Z * sqrt(sum(share * (1 - share) / images for share, images in shares))


def _error(spread: Spread, seeds: int) -> float:
    return spread.deviation / sqrt(seeds)


def _quick(found: Sequence[Mean]) -> Goal:
    name = f"AdaRound or reconstruction in <= {MINUTES:g} minutes"
    timed = [one for one in found if one.quantizer in _TIMED and not one.failure]
    if not timed:
        return Goal(name, None, "neither has figures")
    told = ", ".join(f"{_name(one)} {one.seconds.mean / 60:.1f} min at a load of {one.load:.1f}" for one in timed)
    return Goal(name, min(one.seconds.mean for one in timed) <= 60 * MINUTES, told)
