"""Mixed precision: the fewest layers back in float that meet the gate."""

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

    from edgeres.artifacts.candidate import LayerSensitivity
    from edgeres.recovery.context import Candidate, QuantizationContext
    from edgeres.recovery.evaluation import Evaluation
    from edgeres.recovery.search import Effort, Tried

_QUANTIZED = 2.0
"""A pass with Q/DQ, in plain passes."""


def _questions(layers: int) -> int:
    """What finding one layer among so many takes."""
    return 3 + ceil(log2(max(2, layers)))


@dataclass(slots=True)
class MixedPrecision:
    """Layers back in float, the most sensitive first, until the gate is met; then those that prove unnecessary leave.

    Attributes:
        context: What techniques share.
        noise: What each layer disturbs alone, once it has been found out.
    """

    name: ClassVar[str] = "mixed_precision"
    effort: ClassVar[Effort] = "default"
    remedy: ClassVar[bool] = True

    context: QuantizationContext
    noise: tuple[LayerSensitivity, ...] = field(default=(), init=False)

    def predicted(self) -> float:
        """The sensitivities, and a trial for each question of the search when few layers are to blame.

        The search ends after twice as many.
        """
        context = self.context
        layers, tuning = context.placement().weighted, len(context.evaluator.split)
        branches = passes(context.spec, layers, context.preprocess.crop) * min(SCREENED, tuning)
        return context.evaluator.pass_s * (branches + _questions(len(layers)) * tuning * _QUANTIZED)

    def candidate(self, tried: Sequence[Tried[Candidate]], best: Tried[Candidate] | None) -> Candidate | Refusal:
        """The best candidate so far with as few layers in float as it takes, or why none will do."""
        assert best is not None
        base = best.candidate
        # Sensitivities are those of rounding to nearest: where rounding was learned, a layer alone is not what it is.
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
        """Whether a verdict is as good as that of every layer in float, and keeps the limit.

        A few tuning images may not say PASS even of that; then a drop within the limit has to do.
        """
        if trial.outcome is None or ceiling.outcome is None:
            return True
        if ceiling.outcome is Outcome.PASS:
            return trial.outcome is Outcome.PASS
        assert self.context.evaluator.margin is not None
        return trial.outcome is not Outcome.FAIL and trial.drop_pp <= self.context.evaluator.margin
