"""Empirical bias correction: removes the mean error that quantization adds to each channel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeres.model.network import Network
from edgeres.quant.algorithms.bias_correction import empirical_bias
from edgeres.recovery.context import Images
from edgeres.recovery.technique import Technique

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.recovery.context import Candidate, Tried

_IMAGES = 256  # images whose means correct biases; each has as many values of a channel as the channel has pixels


class BiasCorrection(Technique):
    """Empirical bias correction, after all other quick techniques."""

    name = "bias_correction"
    order = 50
    effort = "quick"
    reserved = True

    def predicted(self) -> float:
        """Predicted seconds: a float and a quantized pass for every candidate that is corrected, at most three."""
        return 12 * self.context.evaluator.pass_s * self.images(_IMAGES)

    def candidate(self, tried: Sequence[Tried], best: Tried | None) -> Candidate:
        """The best candidate so far or a later one, whichever is nearest to float with corrected biases.

        Other ranges and channel scales move the means of channels, so their gain is visible only after the correction.
        """
        assert best is not None
        bases = {one.technique: one.candidate for one in (best, *tried[-2:])}
        return self.context.nearest({name: self._corrected(base) for name, base in bases.items()}, self.name)

    def _corrected(self, base: Candidate) -> Candidate:
        context, images = self.context, self.images(_IMAGES)
        reference = Network(context.graph, base.reference).eval()
        split = context.calibration.take(range(images))
        with context.progress.task("correct biases", images) as advance:
            corrected = empirical_bias(reference, base.quantized, lambda: context.evaluator.images(split), advance)
        settings = {**base.settings, self.name: Images(images=images)}
        return replace(base, quantized=corrected, settings=settings)


TECHNIQUE = BiasCorrection
