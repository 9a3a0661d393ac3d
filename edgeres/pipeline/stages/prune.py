"""Prune: structured removal of whole channels, which gives a narrower dense network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from edgeres.artifacts.results import StageMetrics
from edgeres.errors import RecipeError, StageError
from edgeres.model import cost
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.pruning.allocation import Allocation, allocate, is_stream
from edgeres.model.pruning.coupling import CouplingGroup, Member, channels, coupling_groups, sliced
from edgeres.pipeline.stages.stage import Context, Stage
from edgeres.quant.algorithms.fisher_information import softmax_direction
from edgeres.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.artifacts.artifact import Checkpoint
    from edgeres.model.operation import Op
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights

    Importance = dict[str, NDArray[np.float64]]

_BATCH = 16
_PER_KL = 2.0
"""``fisher`` is twice the KL divergence of a removal."""
_WORTH = 0.5
"""Least share of the requested saving for which a network is pruned and recovered."""


@settings
class Prune(Stage):
    """Structured pruning of coupled channels, by importance per saved MAC.

    ``fisher`` puts a gate of one on every channel that a convolution reads and takes ``mean_n (dL_n / dgate)^2``, the
    diagonal of the Gauss-Newton matrix: twice the loss a removal costs, to second order (Molchanov et al. 2019, arXiv
    1906.10771; Liu et al. 2021, arXiv 2108.00708). The curvature is that of the softmax, drawn at random (Hutchinson
    1990), so no labels are needed. ``l2`` needs no images: the share of each coupled weight's energy that is removed
    (after DepGraph, Fang et al. 2023, arXiv 2301.12900).

    Attributes:
        macs: Largest share of the MACs that is kept.
        importance: Importance criterion of a channel.
        minimum: Least share of a width that is kept.
        residual: Whether residual streams are pruned too, or only widths inside blocks.
        compensate: Whether the next bias absorbs the mean contribution of removed channels, ``W mean(x)`` (He et
            al. 2017, arXiv 1707.06168, solve for weights; the bias alone is the closed form). Exact on average but for
            the border pixels, where padding leaves part of a kernel without input.
        images: Number of calibration images, spread over the split.
        max_kl: Largest estimated loss of the removal before recovery, by ``fisher``: mean KL divergence of the
            predictions in nats. Fewer MACs are removed than requested where more would exceed it, and none where less
            than half of the requested saving would remain, since recovery takes as long for a small one. None for no
            limit.
    """

    name = "prune"
    version = 2
    reads = ("scheme", "calibration", "seed")

    macs: Annotated[float, Field(gt=0, le=1)] = 0.65
    importance: Literal["fisher", "l2"] = "fisher"
    minimum: Annotated[float, Field(ge=0, le=1)] = 0.25
    residual: bool = True
    compensate: bool = True
    images: Annotated[int, Field(ge=1)] = 64
    max_kl: Annotated[float, Field(gt=0)] | None = None

    def __call__(self, artifact: Checkpoint, context: Context) -> Checkpoint:
        """Removes channels until at most ``macs`` of the multiply-accumulates are left.

        The unpruned network is kept as ``teacher``.

        Raises:
            RecipeError: ``max_kl`` with an importance that does not estimate it.
            StageError: The network is quantized already, or so few MACs cannot be reached.
        """
        if self.max_kl is not None and self.importance != "fisher":
            raise RecipeError("prune.max_kl is estimated by importance: fisher alone", "leave either out")
        if artifact.quant is not None:
            raise StageError("prune: the network is quantized, its scales would not fit", "prune before quantize")
        survey, weights = self._survey(artifact, context), artifact.weights
        allocation, notes = self._allocation(artifact, context, survey)
        if self.compensate:
            weights = weights.replaced(compensation(artifact.spec, weights, survey.means, allocation.keep))
        spec, weights = sliced(artifact.spec, weights, allocation.keep)
        teacher = artifact.teacher or artifact
        metrics = StageMetrics(
            macs=allocation.macs,
            parameters=cost.parameters(graph(spec)),
            macs_removed=1 - allocation.macs / allocation.dense,
        )
        step = self.step(metrics, (self._widths(artifact.spec, allocation), *notes), notes)
        metadata = artifact.metadata.after(step)
        return replace(artifact, metadata=metadata, spec=spec, weights=weights, teacher=teacher)

    def _allocation(self, artifact: Checkpoint, context: Context, survey: Survey) -> tuple[Allocation, tuple[str, ...]]:
        """The kept channels, and why fewer are removed than requested."""
        spec, image, scheme = artifact.spec, artifact.metadata.preprocess.crop, context.target.scheme
        dense, multiple = cost.macs(graph(spec), *image), scheme.channel_multiple if scheme else 8
        importance, wanted = self._importance(artifact, survey), int(self.macs * dense)
        bounded_by = partial(
            allocate, spec, importance, image=image, macs=wanted, multiple=multiple, minimum=self.minimum
        )
        whole = bounded_by()
        if self.max_kl is None:
            if whole.macs > self.macs * dense:
                raise StageError(
                    f"prune: {self.macs:.3g} of the MACs is out of reach, {whole.macs / dense:.3f} is the least at "
                    f"minimum {self.minimum:g}",
                    "raise macs, lower minimum, or set residual: true",
                )
            return whole, ()
        bounded = bounded_by(most=_PER_KL * self.max_kl)
        if bounded.macs <= wanted:
            return bounded, ()
        if dense - bounded.macs < _WORTH * (dense - wanted):
            bounded = Allocation({}, dense, dense, 0.0)
        return bounded, (
            f"{self.macs:.0%} of the MACs were asked for: {whole.macs / dense:.1%} would cost about "
            f"{whole.lost / _PER_KL:.2g} nats before recovery, and max_kl allows {self.max_kl:g} "
            "(prune.max_kl=null prunes all the same)",
        )

    def _survey(self, artifact: Checkpoint, context: Context) -> Survey:
        if self.importance != "fisher" and not self.compensate:
            return Survey()
        split = context.calibration
        count = min(self.images, len(split))
        if not count:
            raise StageError(
                "prune: there are no calibration images to weigh channels with", "set importance: l2, compensate: false"
            )
        chosen = split.take([index * len(split) // count for index in range(count)])
        with context.progress.task("weigh channels", count) as advance:

            def batches() -> Iterator[Tensor]:
                for images, _ in chosen.batches(artifact.metadata.preprocess, _BATCH):
                    yield torch.from_numpy(images)
                    advance(len(images))

            return look(artifact.spec, artifact.weights, batches(), context.seed, curvature=self.importance == "fisher")

    def _importance(self, artifact: Checkpoint, survey: Survey) -> Importance:
        spec = artifact.spec
        importance = survey.fisher if self.importance == "fisher" else magnitude(spec, artifact.weights)
        pruned = [group for group in coupling_groups(spec) if self.residual or not is_stream(group, spec)]
        return {group.name: importance[group.name] for group in pruned}

    def _widths(self, spec: ResNetSpec, allocation: Allocation) -> str:
        before = {group.name: group.width for group in coupling_groups(spec)}
        narrower = [f"{name} {before[name]} to {len(units)}" for name, units in allocation.keep.items()]
        return f"kept {allocation.macs / allocation.dense:.1%} of the MACs; {', '.join(narrower) or 'nothing removed'}"


@dataclass(frozen=True, slots=True)
class Survey:
    """Importance per unit by coupling group, and mean activation per channel by the operation that reads it."""

    fisher: Importance = field(default_factory=dict)
    means: dict[str, NDArray[np.float64]] = field(default_factory=dict)


class _Gated(Network):
    """A network with a gate of one on every removable channel, wherever a convolution or the classifier reads it.

    A grouped convolution has none on its input: its outputs are the same units and are gated where they are read.
    """

    def __init__(self, spec: ResNetSpec, weights: Weights) -> None:
        super().__init__(graph(spec), weights)
        self.requires_grad_(requires_grad=False).eval()
        self.readers = {op.name: (group, member.span) for group, member, op in _readers(spec)}
        self.gates: dict[str, Tensor] = {}
        self.sums = {name: torch.zeros(self.graph[name].c_in, dtype=torch.float64) for name in self.readers}

    def read(self, op: Op, index: int, values: dict[str, Tensor]) -> Tensor:
        """Gates the input of an operation, and accumulates its mean."""
        x = super().read(op, index, values)
        if op.name not in self.readers:
            return x
        group, span = self.readers[op.name]
        self.sums[op.name] += (
            x.detach().double().flatten(2).mean(2).sum(0) if x.ndim == 4 else x.detach().double().sum(0)
        )
        gate = self.gates[group.name].repeat_interleave(span, dim=1)
        return x * gate.reshape(*gate.shape, *[1] * (x.ndim - 2))


def _readers(spec: ResNetSpec) -> list[tuple[CouplingGroup, Member, Op]]:
    """Every weighted operation that reads a group channel by channel."""
    ops = {op.name: op for op in graph(spec).ops}
    return [
        (group, member, ops[member.op])
        for group in coupling_groups(spec)
        for member in group.members
        if member.axis == "in" and ops[member.op].groups == 1
    ]


def look(spec: ResNetSpec, weights: Weights, batches: Iterator[Tensor], seed: int, *, curvature: bool) -> Survey:
    """Channel statistics of a network on calibration images ``[N,C,H,W]``.

    ``curvature`` computes ``fisher``, by backward passes along random directions of the softmax's curvature.
    """
    network, generator = _Gated(spec, weights), torch.Generator().manual_seed(seed)
    groups, count = coupling_groups(spec), 0
    fisher = {group.name: np.zeros(group.width) for group in groups}
    for images in batches:
        count += len(images)
        network.gates = {group.name: torch.ones(len(images), group.width, requires_grad=curvature) for group in groups}
        logits = network(images)
        if not curvature or not groups:
            continue
        signs = torch.randint(0, 2, logits.shape, generator=generator) * 2.0 - 1
        (logits * softmax_direction(logits.detach(), signs)).sum().backward()
        for name, gate in network.gates.items():
            if gate.grad is not None:
                fisher[name] += gate.grad.double().square().sum(0).numpy()
    return Survey(
        {name: values / max(count, 1) for name, values in fisher.items()},
        {name: (values / max(count, 1)).numpy() for name, values in network.sums.items()},
    )


def magnitude(spec: ResNetSpec, weights: Weights) -> Importance:
    """Share of the squared weights of each unit, summed over the weighted members of its group, by group."""
    ops = {op.name: op for op in graph(spec).weighted}
    shares = {group.name: np.zeros(group.width) for group in coupling_groups(spec)}
    for group in coupling_groups(spec):
        for member in group.members:
            if member.op in ops and (member.axis == "out" or ops[member.op].groups == 1):
                energy = np.square(weights[f"{member.op}.weight"], dtype=np.float64)
                rows = np.moveaxis(energy, int(member.axis == "in"), 0).reshape(group.width, -1).sum(1)
                shares[group.name] += rows / max(rows.sum(), np.finfo(np.float64).tiny)
    return shares


def compensation(
    spec: ResNetSpec, weights: Weights, means: Mapping[str, NDArray[np.float64]], keep: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[np.float32]]:
    """Biases, or running means of the norms behind, that absorb the mean contribution of removed channels.

    A convolution with neither (the last one of a pre-activation block) is unchanged. The network is the one before
    pruning, ``means`` are those of ``Survey``, ``keep`` are the kept units by name of the group.
    """
    changes: dict[str, NDArray[np.float32]] = {}
    for group, member, op in _readers(spec):
        if group.name not in keep:
            continue
        gone = np.ones(op.c_in, dtype=bool)
        gone[channels(keep[group.name], member.span)] = False
        kernel = weights[f"{op.name}.weight"].astype(np.float64).reshape(op.c_out, op.c_in, -1).sum(2)
        share = kernel[:, gone] @ means[op.name][gone]
        norms = [user.name for user, _ in graph(spec).consumers(op.name) if user.kind == "norm"]
        if op.bias:
            changes[f"{op.name}.bias"] = (weights[f"{op.name}.bias"] + share).astype(np.float32)
        elif len(norms) == len(graph(spec).consumers(op.name)) == 1:
            key = f"{norms[0]}.running_mean"
            changes[key] = (weights[key] - share).astype(np.float32)
    return changes
