"""Prune: whole channels go, and what is left is a narrower network, not a mask."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from edgeres.artifact import Checkpoint, Step
from edgeres.errors import StageError
from edgeres.model.allocation import Allocation, allocate, is_stream
from edgeres.model.cost import macs, parameters
from edgeres.model.coupling import coupling_groups, sliced
from edgeres.model.graph import graph
from edgeres.settings import plain, settings
from edgeres.stages.stage import Read

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.model.coupling import CouplingGroup
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights
    from edgeres.stages.stage import Context

_FLOAT_MULTIPLE = 8
"""Channel multiple where the target has no integer scheme to ask."""


@settings
class Prune:
    """Recipe entry ``prune``.

    Attributes:
        macs: Share of the MACs that may stay.
        minimum: Least share of a width that stays.
        residual: Whether residual streams may shrink too, not only widths inside blocks.
    """

    name: ClassVar[str] = "prune"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[Read, ...]] = ("scheme",)

    macs: Annotated[float, Field(gt=0, le=1)] = 0.65
    minimum: Annotated[float, Field(gt=0, le=1)] = 0.25
    residual: bool = True

    def __call__(self, artifact: Checkpoint, context: Context) -> Checkpoint:
        """Removes the least important channels until the MACs are met; the network before becomes the teacher.

        Raises:
            StageError: The MACs cannot be met; the message has the least share that can.
        """
        spec, scheme = artifact.spec, context.target.scheme
        side = artifact.card.preprocess.crop
        importance = {
            group.name: _importance(group, spec, artifact.weights)
            for group in coupling_groups(spec)
            if self.residual or not is_stream(group, spec)
        }
        allocation = allocate(
            spec,
            importance,
            side=side,
            macs=int(self.macs * macs(spec, side, side)),
            multiple=scheme.channel_multiple if scheme else _FLOAT_MULTIPLE,
            minimum=self.minimum,
        )
        self._check(allocation)
        narrow, weights = sliced(spec, artifact.weights, allocation.keep)
        kept = allocation.macs / allocation.dense
        step = Step(
            stage=self.name,
            settings=plain(self),
            metrics={
                "macs": allocation.macs,
                "parameters": parameters(narrow),
                "macs_removed": 1 - kept,
                "groups_pruned": len(allocation.keep),
            },
            notes=(f"{1 - kept:.1%} of the MACs removed, {len(allocation.keep)} of {len(importance)} widths narrower",),
        )
        return replace(artifact, card=artifact.card.after(step), spec=narrow, weights=weights, teacher=artifact)

    def _check(self, allocation: Allocation) -> None:
        reached = allocation.macs / allocation.dense
        if reached > self.macs:
            raise StageError(
                f"prune: macs {self.macs:g} is out of reach, the least is {reached:.3f}",
                "ask for more MACs, or lower prune.minimum",
            )


def _importance(group: CouplingGroup, spec: ResNetSpec, weights: Weights) -> NDArray[np.float64]:
    """Importance of each unit of a group, ``[units]``, 1 on average.

    ``I_u = mean over members of ||W_u||^2 / mean_v ||W_v||^2``: the group norm of DepGraph (Fang et al. 2023,
    arXiv 2301.12900, eq. 5), each member taken relative to its own mean, so that fan-in does not weigh.
    """
    ops = {op.name: op for op in graph(spec).ops}
    found = []
    for member in group.members:
        op = ops[member.op]
        if op.kind == "norm" or (member.axis == "in" and op.groups > 1):
            continue
        weight = np.asarray(weights[f"{op.name}.weight"], dtype=np.float64)
        axis = 0 if member.axis == "out" else 1
        norms = np.moveaxis(weight, axis, 0).reshape(group.width, -1)
        energy = np.sum(norms**2, axis=1)
        found.append(energy / max(float(energy.mean()), np.finfo(np.float64).tiny))
    importance: NDArray[np.float64] = np.mean(found, axis=0)
    return importance
