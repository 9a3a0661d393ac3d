"""Rounding techniques: GPTQ layer by layer, and block reconstruction."""

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
"""Float passes over the calibration images that GPTQ amounts to."""

_STEP_PASSES = 4.0
"""Float passes over its images that one step of block reconstruction amounts to, forward and backward."""

_UPDATING = 1.1e3
"""MACs per weight of one step's rounding and update, measured on ResNet-18."""


def solving(spec: ResNetSpec) -> float:
    """MACs of the search for codes: a factorization of ``[d,d]`` per layer and group, and a few passes over it."""
    found = 0.0
    for op in graph(spec).weighted:
        reads = prod(op.parameters[f"{op.name}.weight"][1:])
        found += op.groups * reads**3 / 6 + 2 * op.c_out * reads**2
    return found


def unrounded(tried: Earlier) -> Candidate:
    """The best of the candidates whose weights are not on their grid yet, from which rounding starts."""
    first, *others = [one for one in tried if not one.candidate.rounded]
    for one in others:
        if one.evaluation.better_than(first.evaluation):
            first = one
    return first.candidate


@dataclass(frozen=True, slots=True)
class Gptq:
    """GPTQ: rounding by error feedback, layer by layer."""

    name: ClassVar[str] = "gptq"
    effort: ClassVar[Effort] = "default"
    remedy: ClassVar[bool] = False

    context: QuantizationContext

    def predicted(self) -> float:
        """Predicted seconds: the covariance of every layer's input, and the search for codes."""
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
    """Block reconstruction: rounding and activation scales learned block by block."""

    name: ClassVar[str] = "block_reconstruction"
    effort: ClassVar[Effort] = "max"
    remedy: ClassVar[bool] = False

    context: QuantizationContext

    def predicted(self) -> float:
        """Predicted seconds: GPTQ first, then a batch through its block for every iteration."""
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
