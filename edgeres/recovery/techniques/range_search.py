"""Range search: activation ranges of least expected KL divergence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeres.quant.algorithms.range_search import refined
from edgeres.recovery.context import Images
from edgeres.recovery.technique import NO_GRADIENT, Refusal, Technique

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.recovery.context import Candidate, Tried

_IMAGES = 128  # images on which candidate ranges are compared


class RangeSearch(Technique):
    """Activation ranges of least expected KL divergence."""

    name = "range_search"
    order = 40
    effort = "quick"
    changes_scales = True

    def predicted(self) -> float:
        """Predicted seconds: a forward and a backward pass over a few images for all candidate ranges."""
        return 12 * self.context.evaluator.pass_s * self.images(_IMAGES)

    def candidate(self, tried: Sequence[Tried], best: Tried | None) -> Candidate | Refusal:
        """The last candidate with other activation scales; their gain is compared once biases are corrected."""
        context, base, images = self.context, tried[-1].candidate, self.images(_IMAGES)
        if not context.graph.differentiable:
            return Refusal(NO_GRADIENT)
        with context.progress.task("refine activation ranges", images) as advance:
            quantized = refined(
                base.quantized,
                context.images,
                limit=images,
                seed=context.seed,
                direction=context.evaluator.task.direction,
                advance=advance,
            )
        settings = {**base.settings, self.name: Images(images=images)}
        return replace(base, quantized=quantized, settings=settings)


TECHNIQUE = RangeSearch
