"""GPTQ: weights rounded by error feedback, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeres.quant.algorithms import gptq
from edgeres.recovery.context import TechniqueSettings, unrounded
from edgeres.recovery.technique import Technique

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.model.graph import Graph
    from edgeres.recovery.context import Candidate, Tried

_PASSES = 6.0  # float passes over the calibration images that GPTQ amounts to


def solving(graph: Graph) -> float:
    """MACs of the search for codes: a factorization of ``[d,d]`` per layer and group, and a few passes over it."""
    total = 0.0
    for op in graph.weighted:
        total += op.groups * op.reads**3 / 6 + 2 * op.c_out * op.reads**2
    return total


@dataclass(frozen=True, kw_only=True)
class GptqSettings(TechniqueSettings):
    """Seed of the output pixels that each image contributes."""

    seed: int


class Gptq(Technique):
    """GPTQ: rounding by error feedback, layer by layer."""

    name = "gptq"
    order = 70
    effort = "default"
    reserved = True

    def predicted(self) -> float:
        """Predicted seconds: the covariance of every layer's input, and the search for codes."""
        evaluator = self.context.evaluator
        covariances = _PASSES * evaluator.pass_s * len(self.context.calibration)
        return covariances + solving(self.context.graph) / evaluator.macs_per_s

    def candidate(self, tried: Sequence[Tried], best: Tried | None) -> Candidate:
        """The scales of the best candidate so far, with learned codes."""
        context, base = self.context, unrounded(tried)
        with context.progress.task("learn rounding by layer", gptq.steps(base.quantized)) as advance:
            quantized = gptq.gptq_rounded(
                base.reference, base.quantized, context.images, seed=context.seed, advance=advance
            )
        settings = {**base.settings, self.name: GptqSettings(seed=context.seed)}
        return replace(base, quantized=quantized, settings=settings, rounded=True)


TECHNIQUE = Gptq
