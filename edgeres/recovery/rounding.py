"""Techniques that choose every weight's rounding by what the network answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, ClassVar

from edgeres.model.cost import parameters
from edgeres.model.graph import graph
from edgeres.quant.algorithms import block_reconstruction, gptq
from edgeres.quant.algorithms.layerwise import BATCH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.model.spec import ResNetSpec
    from edgeres.recovery.context import Candidate, QuantizationContext
    from edgeres.recovery.search import Effort, Tried

    Earlier = Sequence[Tried[Candidate]]
    Best = Tried[Candidate] | None

_ADAROUND_PASSES = 6.0
"""Float passes over the calibration images that layer-wise rounding amounts to."""

_STEP_PASSES = 4.0
"""Float passes over its images that one step of block reconstruction amounts to: forwards and backwards."""

_UPDATING = 1.1e3
"""MACs for each weight that one step's rounding and update amount to, as ResNet-18 took."""


def solving(spec: ResNetSpec) -> float:
    """MACs of the search for codes: a factorisation of ``[d,d]`` per layer and group, and a few sweeps over it."""
    found = 0.0
    for op in graph(spec).weighted:
        reads = prod(op.parameters[f"{op.name}.weight"][1:])
        found += op.groups * reads**3 / 6 + 2 * op.c_out * reads**2
    return found


def unrounded(tried: Earlier) -> Candidate:
    """The best of the candidates whose weights are not on their grid yet; rounding starts from there."""
    first, *others = [one for one in tried if not one.candidate.rounded]
    for one in others:
        if one.evaluation.better_than(first.evaluation):
            first = one
    return first.candidate


@dataclass(frozen=True, slots=True)
class Gptq:
    """Rounding learned layer by layer."""

    name: ClassVar[str] = "gptq"
    effort: ClassVar[Effort] = "default"
    remedy: ClassVar[bool] = False

    context: QuantizationContext

    def predicted(self) -> float:
        """Moments of every layer's input, and the search for codes."""
        evaluator = self.context.evaluator
        return (
            _ADAROUND_PASSES * evaluator.pass_s * len(self.context.calibration)
            + solving(self.context.spec) / evaluator.macs_per_s
        )

    def candidate(self, tried: Earlier, best: Best) -> Candidate:
        """The scales of the best candidate so far, with learned codes."""
        context, base = self.context, unrounded(tried)
        with context.progress.task("learn rounding by layer", gptq.steps(base.quantized)) as advance:
            made = gptq.gptq_rounded(base.reference, base.quantized, context.images, seed=context.seed, advance=advance)
        settings = {**base.settings, self.name: {"seed": context.seed}}
        return replace(base, quantized=made, settings=settings, rounded=True)


@dataclass(frozen=True, slots=True)
class BlockReconstruction:
    """Rounding learned block by block."""

    name: ClassVar[str] = "block_reconstruction"
    effort: ClassVar[Effort] = "max"
    remedy: ClassVar[bool] = False

    context: QuantizationContext

    def predicted(self) -> float:
        """Layer by layer first, then a batch through its block for every iteration."""
        evaluator = self.context.evaluator
        step = (
            _STEP_PASSES * BATCH * evaluator.pass_s + _UPDATING * parameters(self.context.spec) / evaluator.macs_per_s
        )
        return block_reconstruction.ITERATIONS * step + Gptq(self.context).predicted()

    def candidate(self, tried: Earlier, best: Best) -> Candidate:
        """The scales of the best candidate so far, refined, with learned codes."""
        context, base = self.context, unrounded(tried)
        with context.progress.task("reconstruct block by block", block_reconstruction.steps(base.quantized)) as advance:
            made = block_reconstruction.reconstructed(
                base.reference, base.quantized, context.images, seed=context.seed, advance=advance
            )
        settings = {**base.settings, self.name: {"seed": context.seed, "iterations": block_reconstruction.ITERATIONS}}
        return replace(base, quantized=made, settings=settings, rounded=True)
