"""Mixed precision: the fewest layers in float that meet the accuracy gate."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, log2
from typing import TYPE_CHECKING, ClassVar

from edgeres.gate.paired_test import Outcome
from edgeres.model.cost import share_of_macs
from edgeres.quant.algorithms.mixed_precision import fewest, left_in_float
from edgeres.recovery.evaluator import SCREENED
from edgeres.recovery.layer_sensitivity import layer_noise, most_sensitive, passes
from edgeres.recovery.rounding import unrounded
from edgeres.recovery.search import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.artifacts.results import LayerSensitivity
    from edgeres.recovery.context import Candidate, QuantizationContext
    from edgeres.recovery.evaluation import Evaluation
    from edgeres.recovery.search import Effort, Tried

_QUANTIZED = 2.0
"""Cost of a pass with Q/DQ, in float passes."""


def _questions(layers: int) -> int:
    """Number of evaluations that find one layer among so many."""
    return 3 + ceil(log2(max(2, layers)))


@dataclass(slots=True)
class MixedPrecision:
    """Returns layers to float, the most sensitive first, until the gate is met; unnecessary ones are quantized again.

    Attributes:
        context: Network, images and evaluator.
        noise: Sensitivity of each layer, once measured.
    """

    name: ClassVar[str] = "mixed_precision"
    effort: ClassVar[Effort] = "default"
    remedy: ClassVar[bool] = True

    context: QuantizationContext
    noise: tuple[LayerSensitivity, ...] = field(default=(), init=False)

    def predicted(self) -> float:
        """Predicted seconds: the sensitivities, and an evaluation for each step of the search for few layers.

        The search ends after twice as many.
        """
        context = self.context
        layers, tuning = context.placement().weighted, len(context.evaluator.split)
        branches = passes(context.spec, layers, context.preprocess.crop) * min(SCREENED, tuning)
        return context.evaluator.pass_s * (branches + _questions(len(layers)) * tuning * _QUANTIZED)

    def candidate(self, tried: Sequence[Tried[Candidate]], best: Tried[Candidate] | None) -> Candidate | Refusal:
        """The best candidate so far with as few layers in float as needed, or why none is enough."""
        assert best is not None
        base = best.candidate
        # Sensitivities are those of rounding to nearest and do not hold for learned rounding.
        self.noise = layer_noise(unrounded(tried), self.context.evaluator)
        order = most_sensitive(self.noise)
        ceiling = self._evaluation(base, order)

        def meets(names: tuple[str, ...]) -> bool:
            return self._meets(ceiling if names == order else self._evaluation(base, names), ceiling)

        layers = fewest(order, meets, 2 * _questions(len(order)))
        if layers is None:
            return Refusal("not even every layer in float meets the limit on the tuning images")
        return self._with(base, tuple(row.layer for row in self.noise if row.layer in layers))

    def _with(self, base: Candidate, layers: tuple[str, ...]) -> Candidate:
        share = share_of_macs(self.context.spec, layers, self.context.preprocess.crop)
        settings = {**base.settings, self.name: {"float_layers": list(layers), "float_share_of_macs": share}}
        return replace(base, quantized=left_in_float(base.quantized, base.reference, layers), settings=settings)

    def _evaluation(self, base: Candidate, layers: tuple[str, ...]) -> Evaluation:
        return self.context.evaluator.evaluation(self._with(base, layers).quantized, f"{len(layers)} layers in float")

    def _meets(self, trial: Evaluation, ceiling: Evaluation) -> bool:
        """Whether a candidate's outcome is as good as with every layer in float, and keeps the limit.

        A few tuning images may not give PASS even to that; then a drop within the limit is enough.
        """
        if trial.outcome is None or ceiling.outcome is None:
            return True
        if ceiling.outcome is Outcome.PASS:
            return trial.outcome is Outcome.PASS
        assert self.context.evaluator.margin is not None
        return trial.outcome is not Outcome.FAIL and trial.drop_pp <= self.context.evaluator.margin
