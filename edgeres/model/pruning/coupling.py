"""Coupling groups: channels that can only be removed together, from the graph.

A removed channel disappears from the tensor that carries it, so every operation that writes or reads that channel loses
a slice of its weights (DepGraph, Fang et al. 2023, arXiv 2301.12900). Two tensors share their channels when an
operation maps channel to channel: norms, activations, pools, the residual add, the excitation's product. So a residual
stream, with the stem where no projection stands between, is one group, and so is every width inside a block.

* Grouped convolutions lose whole groups: the unit of such a coupling group is one group of the convolution, its input
  and output channels together. Thinner groups instead would leave fewer than a vector's worth of channels in each.
* A stream that is zero-padded (option A) is not pruned: padding puts channel i at i + front, front follows from both
  widths, and so removing a channel would move all others against the identity.
* The image and the logits are fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeres.model.graph import IMAGE, Op, graph
from edgeres.model.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from edgeres.model.spec import Block, ResNetSpec


@dataclass(frozen=True, slots=True)
class Member:
    """One channel axis of one operation's weights.

    Attributes:
        op: Name of a convolution, a norm or the classifier.
        axis: ``out`` for output channels, ``in`` for input channels.
        span: Number of channels of this axis per unit of the group.
    """

    op: str
    axis: Literal["in", "out"]
    span: int


@dataclass(frozen=True, slots=True)
class CouplingGroup:
    """Channel axes that lose the same units.

    Attributes:
        name: Name of the first operation that outputs these channels.
        width: Number of units.
        members: Every affected axis, in execution order.
        tensors: Every tensor that carries these channels, in execution order.
    """

    name: str
    width: int
    members: tuple[Member, ...]
    tensors: tuple[str, ...]


class _Sets:
    """Union-find over tensor names."""

    def __init__(self) -> None:
        self.parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        root = name
        while self.parent.setdefault(root, root) != root:
            root = self.parent[root]
        self.parent[name] = root
        return root

    def join(self, *names: str) -> None:
        first = self.find(names[0])
        for name in names[1:]:
            self.parent[self.find(name)] = first


@lru_cache(maxsize=64)
def coupling_groups(spec: ResNetSpec) -> tuple[CouplingGroup, ...]:
    """Every prunable group of a network, in execution order."""
    ops, sets, fixed = graph(spec).ops, _Sets(), {IMAGE, graph(spec).output}
    units: dict[str, int] = {}
    for op in ops:
        if op.kind == "zeropad":
            fixed |= {op.name, *op.inputs}
        elif op.kind == "conv" and op.groups > 1:
            sets.join(*op.inputs, op.name)
            units[op.name] = op.groups
        elif op.kind not in ("conv", "linear"):
            sets.join(*op.inputs, op.name)
    pinned = {sets.find(name) for name in fixed}
    roots = dict.fromkeys(root for op in ops if (root := sets.find(op.name)) not in pinned)
    return tuple(_group(ops, sets, root, units) for root in roots)


def _group(ops: tuple[Op, ...], sets: _Sets, root: str, units: Mapping[str, int]) -> CouplingGroup:
    tensors = tuple(op.name for op in ops if sets.find(op.name) == root)
    makers = [op for op in ops if op.kind == "conv" and op.name in tensors]
    grouped = {units[op.name] for op in makers if op.name in units}
    assert len(grouped) <= 1, "two grouped convolutions share channels"
    width = grouped.pop() if grouped else makers[0].c_out
    members: list[Member] = []
    for op in ops:
        if op.kind in ("conv", "linear") and sets.find(op.inputs[0]) == root:
            members.append(Member(op.name, "in", op.c_in // width))
        if op.kind in ("conv", "norm") and sets.find(op.name) == root:
            members.append(Member(op.name, "out", op.c_out // width))
    return CouplingGroup(makers[0].name, width, tuple(members), tensors)


def channels(units: Sequence[int], span: int) -> NDArray[np.int64]:
    """Channel indices of units, ``span`` neighbours each."""
    return (np.asarray(units, dtype=np.int64)[:, None] * span + np.arange(span)).reshape(-1)


def narrowed(spec: ResNetSpec, keep: Mapping[str, int]) -> ResNetSpec:
    """The spec in which groups have fewer units.

    Args:
        spec: The network.
        keep: Kept units, by name of the group; other groups are unchanged.
    """
    made = {op.name: op.c_out for op in graph(spec).weighted}
    split = {op.name: op.groups for op in graph(spec).weighted}
    for group in coupling_groups(spec):
        count = keep.get(group.name, group.width)
        for member in group.members:
            if member.axis == "out" and member.op in made:
                made[member.op] = count * member.span
                if split[member.op] > 1:
                    split[member.op] = count
    names = iter(name for name, _, _ in spec.blocks)
    stages = tuple(tuple(_narrowed(block, next(names), made, split) for block in stage) for stage in spec.stages)
    return replace(spec, stem=replace(spec.stem, width=made["conv1"]), stages=stages)


def _narrowed(block: Block, name: str, made: Mapping[str, int], split: Mapping[str, int]) -> Block:
    *inner, out = (made[f"{name}.conv{number}"] for number in range(1, len(block.inner) + 2))
    groups = split[f"{name}.conv2"] if block.groups > 1 else 1
    squeeze = made[f"{name}.se.fc1"] if block.squeeze else 0
    return replace(block, inner=tuple(inner), out=out, groups=groups, squeeze=squeeze)


def sliced(spec: ResNetSpec, weights: Weights, keep: Mapping[str, Sequence[int]]) -> tuple[ResNetSpec, Weights]:
    """The network of the kept units.

    Args:
        spec: The network.
        weights: Its weights, with the shapes of ``graph(spec).parameters``.
        keep: Ascending indices of the kept units, at least one, by name of the group; other groups are kept whole.

    Returns:
        The narrower spec, and weights of its shapes; logits are those of the original network in which the activations
        of all other channels are zero.
    """
    ops = {op.name: op for op in graph(spec).ops}
    arrays: dict[str, NDArray[np.float32]] = dict(weights)
    for group in coupling_groups(spec):
        if group.name not in keep:
            continue
        for member in group.members:
            op, chosen = ops[member.op], channels(keep[group.name], member.span)
            if member.axis == "out":
                for key in op.parameters:
                    arrays[key] = np.take(arrays[key], chosen, axis=0)
            elif op.groups == 1:
                # A grouped convolution loses its inputs with its outputs, which are the same rows.
                arrays[f"{op.name}.weight"] = np.take(arrays[f"{op.name}.weight"], chosen, axis=1)
    return narrowed(spec, {name: len(units) for name, units in keep.items()}), Weights(arrays)
