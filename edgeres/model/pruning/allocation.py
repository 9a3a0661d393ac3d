"""Allocation of channels to coupling groups: greedy removal down to a number of MACs.

Each step removes the least important units of one group, as many as bring its channels to the target's next multiple,
in the group that loses the least importance per MAC saved, which depends on the widths around it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import ceil, gcd, inf, lcm
from typing import TYPE_CHECKING

import numpy as np

from edgeres.model.cost import layer_macs
from edgeres.model.graph import graph
from edgeres.model.pruning.coupling import CouplingGroup, coupling_groups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgeres.data.size import Size
    from edgeres.model.spec import ResNetSpec


@dataclass(frozen=True, slots=True)
class Allocation:
    """Kept units: ascending indices by name of the group; groups that are kept whole are absent.

    ``macs`` are those of the pruned network, ``dense`` of the original one; ``lost`` is the importance of the removed
    units.
    """

    keep: dict[str, tuple[int, ...]]
    macs: int
    dense: int
    lost: float


class _Layers:
    """MACs of every weighted operation at present widths: ``c * fan_in * c_out``, c per operation."""

    def __init__(self, spec: ResNetSpec, height: int, width: int) -> None:
        self.width: dict[str, list[int]] = {}
        self.unit: dict[str, int] = {}
        groups_of: dict[str, int] = {}
        dense = layer_macs(graph(spec), height, width)
        for op in (graph(spec)[name] for name in dense):
            # A grouped convolution keeps its channels per group, as do blurs: only its outputs change.
            groups_of[op.name] = op.groups if op.kind in ("conv", "linear") else op.c_in
            fan_in = op.c_in if groups_of[op.name] == 1 else 1
            self.width[op.name] = [fan_in, op.c_out]
            self.unit[op.name] = dense[op.name] // (fan_in * op.c_out)
        assert {name: self.macs(name) for name in self.unit} == dense
        self.touched = {group.name: _touched(group, groups_of) for group in coupling_groups(spec)}

    def macs(self, name: str, less_in: int = 0, less_out: int = 0) -> int:
        """MACs of one operation with fewer input and output channels."""
        fan_in, out = self.width[name]
        return self.unit[name] * (fan_in - less_in) * (out - less_out)

    def saved(self, group: str, units: int) -> int:
        """MACs saved by removing units of a group."""
        return sum(
            self.macs(name) - self.macs(name, units * span_in, units * span_out)
            for name, (span_in, span_out) in self.touched[group].items()
        )

    def remove(self, group: str, units: int) -> None:
        """Removes units of a group."""
        for name, (span_in, span_out) in self.touched[group].items():
            self.width[name][0] -= units * span_in
            self.width[name][1] -= units * span_out


def _touched(group: CouplingGroup, groups_of: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Channels that each weighted operation loses with one unit, as ``(in, out)``; a grouped one counts no inputs."""
    spans: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for member in group.members:
        if member.op in groups_of and (member.axis == "out" or groups_of[member.op] == 1):
            spans[member.op][member.axis == "out"] = member.span
    return {name: (spans[name][0], spans[name][1]) for name in spans}


def is_stream(group: CouplingGroup, spec: ResNetSpec) -> bool:
    """Whether a group is a residual stream rather than a width inside a block."""
    return any(graph(spec)[tensor].kind == "add" for tensor in group.tensors)


def steps(group: CouplingGroup, multiple: int, minimum: float) -> tuple[int, ...]:
    """Possible widths of a group in units, widest first, its present width included.

    Channels of every member stay multiples of ``multiple``; ``minimum`` is the least share of the units that is kept.
    """
    grain = lcm(*(multiple // gcd(multiple, member.span) for member in group.members))
    least = max(grain, ceil(minimum * group.width / grain) * grain)
    first = (group.width - 1) // grain * grain
    return (group.width, *range(first, least - 1, -grain))


class _Plan:
    """The widths that a group can still take, and the importance ``[units]`` of its units.

    Units are removed in the order of their importance; of equal ones, the first goes first.
    """

    def __init__(self, group: CouplingGroup, importance: NDArray[np.float64], multiple: int, minimum: float) -> None:
        self.group = group
        self.widths = list(steps(group, multiple, minimum))
        self.order = np.argsort(importance, kind="stable")
        self.lost = np.concatenate([[0.0], np.cumsum(importance[self.order])])

    @property
    def units(self) -> int:
        """Units that the next step removes; 0 at the smallest width."""
        return self.widths[0] - self.widths[1] if len(self.widths) > 1 else 0

    @property
    def loss(self) -> float:
        """Importance of the units that the next step removes."""
        gone = self.group.width - self.widths[0]
        return float(self.lost[gone + self.units] - self.lost[gone])


def allocate(
    spec: ResNetSpec,
    importance: Mapping[str, NDArray[np.float64]],
    *,
    image: Size,
    macs: int,
    multiple: int,
    minimum: float,
    most: float = inf,
) -> Allocation:
    """The first allocation at or below ``macs``; the smallest possible one where that cannot be reached.

    ``importance`` has that of each unit ``[units]``, by name of the prunable groups; ``most`` is the largest total of
    removed units. ``image`` is the size of the input. See ``steps`` for ``multiple`` and ``minimum``.
    """
    layers = _Layers(spec, *image)
    dense = left = sum(layers.macs(name) for name in layers.unit)
    plans = {
        group.name: _Plan(group, importance[group.name], multiple, minimum)
        for group in coupling_groups(spec)
        if group.name in importance
    }
    spent = 0.0
    while left > macs:
        rates = {
            name: plan.loss / layers.saved(name, plan.units)
            for name, plan in plans.items()
            if plan.units and spent + plan.loss <= most
        }
        best = min(rates, key=rates.__getitem__, default=None)
        if best is None or rates[best] == inf:
            break
        units = plans[best].units
        spent += plans[best].loss
        left -= layers.saved(best, units)
        layers.remove(best, units)
        del plans[best].widths[0]
    kept = {
        name: tuple(sorted(plan.order[plan.group.width - plan.widths[0] :].tolist()))
        for name, plan in plans.items()
        if plan.widths[0] < plan.group.width
    }
    return Allocation(kept, left, dense, spent)
