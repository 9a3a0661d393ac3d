"""What the table says of each goal, computed and not written by hand.

edgeres is judged at its default settings: what ``edgeres compile`` ships. Techniques alone are in the table and in no
verdict, so nothing is chosen on the validation images. The best peer is the best of each figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, sqrt
from typing import TYPE_CHECKING

from benchmarks.contenders import DEFAULT, QUANTIZERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.means import Mean, Spread

DROP_PP = 0.03
WORST_PP = 0.10
SHARE = 0.5
_Z = 1.96


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
    ours = next((one for one in found if one.quantizer == DEFAULT and not one.failure), None)
    peers = [one for one in found if not one.ours]
    if ours is None:
        return (Goal("all goals", None, f"{QUANTIZERS[DEFAULT].title} has no figures"),)
    return (
        _drop(ours, "mean drop", ours.drop_pp.mean, DROP_PP),
        _drop(ours, "largest drop of any seed", ours.worst_pp, WORST_PP),
        _halved("changed predictions", ours, peers, lambda one: one.changed, 1, " %"),
        _halved("KL to float", ours, peers, lambda one: one.kl, 1e3, "e-3"),
        _never_behind(ours, peers),
        _quick(ours, peers),
    )


def _name(one: Mean) -> str:
    return QUANTIZERS[one.quantizer].title


def _drop(ours: Mean, name: str, drop: float, limit: float) -> Goal:
    away = "" if drop <= limit else f", {drop - limit:.3f} pp too much"
    return Goal(f"{name} <= {limit:.2f} pp", drop <= limit, f"{_name(ours)} {drop:+.3f} pp{away}")


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


def _quick(ours: Mean, peers: Sequence[Mean]) -> Goal:
    """Time to quantize against the fastest peer whose KL is no larger."""
    name = "seconds <= half of the fastest peer's that is as near to float"
    peer = best([one for one in peers if one.kl.mean <= ours.kl.mean], lambda one: one.seconds.mean)
    told = f"{_name(ours)} {ours.seconds.mean:.0f} s at a load of {ours.load:.1f}"
    if peer is None:
        measured = any(not one.failure for one in peers)
        return Goal(name, True if measured else None, f"{told}, {'no peer is' if measured else 'no peer has figures'}")
    told += f", {_name(peer)} {peer.seconds.mean:.0f} s at a load of {peer.load:.1f}"
    return Goal(name, ours.seconds.mean <= SHARE * peer.seconds.mean, told)
