"""Block reconstruction: rounding and activation scales learned block by block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeres.model.cost import parameters
from edgeres.quant.algorithms.block_reconstruction import ITERATIONS, reconstructed, steps
from edgeres.quant.algorithms.layerwise import BATCH
from edgeres.recovery.context import TechniqueSettings, unrounded
from edgeres.recovery.technique import NO_GRADIENT, Refusal, Technique
from edgeres.recovery.techniques.gptq import Gptq

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.recovery.context import Candidate, Tried

_STEP_PASSES = 4.0  # float passes over its images that one step amounts to, forward and backward
_UPDATING = 1.1e3  # MACs per weight of one step's rounding and update, measured on ResNet-18


@dataclass(frozen=True, kw_only=True)
class BlockReconstructionSettings(TechniqueSettings):
    """Seed of the order of images, and number of batches per block."""

    seed: int
    iterations: int


class BlockReconstruction(Technique):
    """Block reconstruction: rounding and activation scales learned block by block."""

    name = "block_reconstruction"
    order = 80
    effort = "max"

    def predicted(self) -> float:
        """Predicted seconds: GPTQ first, then a batch through its block for every iteration."""
        evaluator = self.context.evaluator
        update = _UPDATING * parameters(self.context.graph) / evaluator.macs_per_s
        step = _STEP_PASSES * BATCH * evaluator.pass_s + update
        return ITERATIONS * step + Gptq(self.context).predicted()

    def candidate(self, tried: Sequence[Tried], best: Tried | None) -> Candidate | Refusal:
        """The scales of the best candidate so far, refined, with learned codes."""
        context, base = self.context, unrounded(tried)
        if not context.graph.differentiable:
            return Refusal(NO_GRADIENT)
        with context.progress.task("reconstruct block by block", steps(base.quantized)) as advance:
            quantized = reconstructed(
                base.reference, base.quantized, context.images, seed=context.seed, advance=advance
            )
        settings = {**base.settings, self.name: BlockReconstructionSettings(seed=context.seed, iterations=ITERATIONS)}
        return replace(base, quantized=quantized, settings=settings, rounded=True)


TECHNIQUE = BlockReconstruction
