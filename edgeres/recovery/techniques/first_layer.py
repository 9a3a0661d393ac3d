"""First layer in float, where it has few of the MACs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeres.model.cost import share_of_macs
from edgeres.recovery.context import FloatLayers
from edgeres.recovery.technique import Refusal, Technique

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.recovery.context import Candidate, Tried

_FEW_MACS = 0.02
"""Largest share of the MACs of a first layer left in float: at a quarter of the speed it takes 6 % of the time."""


class FirstLayer(Technique):
    """The first convolution in float: the noise of the image passes every layer, and its channels share 256 codes."""

    name = "first_layer"
    order = 20
    effort = "quick"
    changes_scales = True

    def predicted(self) -> float:
        """Predicted seconds: nearly none, since no image is read."""
        return 0.0

    def candidate(self, tried: Sequence[Tried], best: Tried | None) -> Candidate | Refusal:
        """The best candidate so far with its first convolution in float, or why it remains in integers."""
        assert best is not None
        base, first = best.candidate, self.context.graph.weighted[0].name
        if first not in base.quantized.table.weights:
            return Refusal(f"left out: {first} is in float already")
        share = share_of_macs(self.context.graph, (first,), self.context.preprocess.crop)
        if share > _FEW_MACS:
            return Refusal(f"left out: {first} has {100 * share:.1f} % of the MACs, more than {100 * _FEW_MACS:.0f} %")
        settings = {**base.settings, self.name: FloatLayers(float_layers=(first,), float_share_of_macs=share)}
        quantized = base.quantized.left_in_float(base.reference, (first,))
        return replace(base, quantized=quantized, settings=settings)


TECHNIQUE = FirstLayer
