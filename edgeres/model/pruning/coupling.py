"""Coupling groups: channels that can only be removed together, from the graph.

A removed channel disappears from the tensor that carries it, so every operation that writes or reads that channel loses
a slice of its weights (DepGraph, Fang et al. 2023, arXiv 2301.12900). Two tensors share their channels when an
operation maps channel to channel: norms, activations, pools, the residual add, the excitation's product. So a residual
stream, with the stem where no projection stands between, is one group, and so is every width inside a block.

* Grouped convolutions lose whole groups: the unit is one group of the convolution, its input and output channels
  together. Thinner groups instead would leave fewer than a vector's worth of channels in each.
* A stream that is zero-padded (option A) is not pruned: padding puts channel i at i + front, front follows from both
  widths, and so removing a channel would move all others against the identity.
* What a group norm or a convolution along channels reads is not pruned: each channel depends on its neighbours. Nor are
  what an attention pool reads and its heads.
* The image and the logits are fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeres.model.graph import graph
from edgeres.model.operation import IMAGE, Op
from edgeres.model.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from edgeres.model.spec import Block, ResNetSpec


@dataclass(frozen=True, slots=True)
class Member:
    """One channel axis of the weights of a convolution, a norm or the classifier.

    ``span`` is the number of channels of this axis per unit of the group.
    """

    op: str
    axis: Literal["in", "out"]
    span: int


@dataclass(frozen=True, slots=True)
class CouplingGroup:
    """Channel axes that lose the same units; named by the first operation that outputs these channels.

    ``width`` is the number of units. Affected axes, and the tensors that carry these channels, are in execution order.
    """

    name: str
    width: int
    members: tuple[Member, ...]
    tensors: tuple[str, ...]


@lru_cache(maxsize=64)
def coupling_groups(spec: ResNetSpec) -> tuple[CouplingGroup, ...]:
    """Every prunable group of a network, in execution order."""
    from scipy.cluster.hierarchy import DisjointSet

    ops, fixed = graph(spec).ops, [IMAGE, graph(spec).output]
    coupled = DisjointSet([IMAGE, *(op.name for op in ops)])
    for op in ops:
        if op.kind == "zeropad":
            fixed += [op.name, *op.inputs]
        elif op.kind in ("groupnorm", "channelconv", "tokens", "attention"):
            for tensor in op.inputs:
                coupled.merge(tensor, op.name)
            fixed.append(op.name)
        elif op.kind not in ("conv", "linear") or op.groups > 1:
            for tensor in op.inputs:
                coupled.merge(tensor, op.name)
    roots = {op.name: coupled[op.name] for op in ops} | {IMAGE: coupled[IMAGE]}
    pinned = {roots[name] for name in fixed}
    prunable = dict.fromkeys(roots[op.name] for op in ops if roots[op.name] not in pinned)
    return tuple(_group(ops, roots, root) for root in prunable)


def _group(ops: tuple[Op, ...], roots: Mapping[str, str], root: str) -> CouplingGroup:
    """The group of the tensors of one root."""
    tensors = tuple(op.name for op in ops if roots[op.name] == root)
    sources = [op for op in ops if op.kind == "conv" and op.name in tensors]
    grouped = {op.groups for op in sources if op.groups > 1}
    assert len(grouped) <= 1, "two grouped convolutions share channels"
    width = grouped.pop() if grouped else sources[0].c_out
    members: list[Member] = []
    for op in ops:
        if op.kind in ("conv", "linear") and roots[op.inputs[0]] == root:
            members.append(Member(op.name, "in", op.c_in // width))
        if op.kind in ("conv", "norm", "prelu", "blur") and roots[op.name] == root:
            members.append(Member(op.name, "out", op.c_out // width))
    return CouplingGroup(sources[0].name, width, tuple(members), tensors)


def channels(units: Sequence[int], span: int) -> NDArray[np.int64]:
    """Channel indices of units, ``span`` neighbours each."""
    return (np.asarray(units, dtype=np.int64)[:, None] * span + np.arange(span)).reshape(-1)


def narrowed(spec: ResNetSpec, keep: Mapping[str, int]) -> ResNetSpec:
    """The spec in which groups have fewer units: ``keep`` by name of the group; other groups are unchanged."""
    widths = {op.name: op.c_out for op in graph(spec).weighted}
    split = {op.name: op.groups for op in graph(spec).weighted}
    for group in coupling_groups(spec):
        count = keep.get(group.name, group.width)
        for member in group.members:
            if member.axis == "out" and member.op in widths:
                widths[member.op] = count * member.span
                if split[member.op] > 1:
                    split[member.op] = count
    names = iter(name for name, _, _ in spec.blocks)
    stages = tuple(tuple(_narrowed(block, next(names), widths, split) for block in stage) for stage in spec.stages)
    *inner, last = (op for op in graph(spec).weighted if op.name.split(".")[0] == "conv1")
    stem = replace(spec.stem, width=widths[last.name], inner=tuple(widths[op.name] for op in inner))
    if "maxpool.0" in widths:
        stem = replace(stem, pool_width=widths["maxpool.0"])
    features, hidden = (widths.get(name, 0) for name in ("final_conv", "hidden"))
    return replace(spec, stem=stem, stages=stages, features=features, hidden=hidden)


def _narrowed(block: Block, name: str, widths: Mapping[str, int], split: Mapping[str, int]) -> Block:
    *inner, out = (widths[f"{name}.conv{number}"] for number in range(1, len(block.inner) + 2))
    groups = split[f"{name}.conv2"] if block.groups > 1 else 1
    squeeze = widths[f"{name}.se.fc1"] if block.squeeze else 0
    return replace(block, inner=tuple(inner), out=out, groups=groups, squeeze=squeeze)


def sliced(spec: ResNetSpec, weights: Weights, keep: Mapping[str, Sequence[int]]) -> tuple[ResNetSpec, Weights]:
    """The narrower spec and weights of the kept units; all shapes are those of ``graph(spec).parameters``.

    ``keep`` has the ascending indices of the kept units, at least one, by name of the group; other groups are kept
    whole. Logits are those of the original network in which the activations of all other channels are zero.
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
