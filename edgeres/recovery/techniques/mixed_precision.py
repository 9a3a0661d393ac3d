"""Mixed precision: the fewest layers in float that meet the accuracy gate."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, log2
from typing import TYPE_CHECKING

from edgeres.gate.paired_test import Outcome
from edgeres.model.cost import share_of_macs
from edgeres.recovery.context import FloatLayers, unrounded
from edgeres.recovery.evaluator import SCREENED
from edgeres.recovery.layer_sensitivity import layer_noise, most_sensitive, passes
from edgeres.recovery.technique import Refusal, Technique

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeres.recovery.context import Candidate, Tried
    from edgeres.recovery.evaluator import Evaluation

_QUANTIZED = 2.0  # cost of a pass with Q/DQ, in float passes


def _evaluations(layers: int) -> int:
    """Number of evaluations that find one layer among so many."""
    return 3 + ceil(log2(max(2, layers)))


class MixedPrecision(Technique):
    """Returns layers to float, most sensitive first, until the gate is met; unneeded ones are quantized again."""

    name = "mixed_precision"
    order = 90
    effort = "default"
    remedy = True

    def predicted(self) -> float:
        """Predicted seconds: the sensitivities, and half of the most evaluations of the search for few layers."""
        context = self.context
        layers, tuning = context.placement().weighted, len(context.evaluator.split)
        branches = passes(context.graph, layers, context.preprocess.crop) * min(SCREENED, tuning)
        return context.evaluator.pass_s * (branches + _evaluations(len(layers)) * tuning * _QUANTIZED)

    def candidate(self, tried: Sequence[Tried], best: Tried | None) -> Candidate | Refusal:
        """The best candidate so far with as few layers in float as needed, or why none is enough."""
        assert best is not None
        base = best.candidate
        # Sensitivities are those of rounding to nearest and do not hold for learned rounding.
        self.sensitivity = layer_noise(unrounded(tried), self.context.evaluator)
        order = most_sensitive(self.sensitivity)
        ceiling = self._evaluation(base, order)

        def meets(names: tuple[str, ...]) -> bool:
            return self._meets(ceiling if names == order else self._evaluation(base, names), ceiling)

        layers = fewest(order, meets, 2 * _evaluations(len(order)))
        if layers is None:
            return Refusal("not even every layer in float meets the limit on the tuning images")
        return self._with(base, tuple(row.layer for row in self.sensitivity if row.layer in layers))

    def _with(self, base: Candidate, layers: tuple[str, ...]) -> Candidate:
        share = share_of_macs(self.context.graph, layers, self.context.preprocess.crop)
        settings = {**base.settings, self.name: FloatLayers(float_layers=layers, float_share_of_macs=share)}
        return replace(base, quantized=base.quantized.left_in_float(base.reference, layers), settings=settings)

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


def fewest(order: Sequence[str], meets: Callable[[tuple[str, ...]], bool], most: int) -> tuple[str, ...] | None:
    """The fewest layers that have to stay in float.

    Bisection finds the shortest prefix of ``order``, most sensitive first, that meets the criterion. Layers of it that
    are not needed are then removed: all but the last at once if possible, else either half, the less sensitive one
    first (Zeller and Hildebrandt 2002, DOI 10.1109/32.988498, section 3), until ``most`` evaluations. None where all
    layers are not enough.
    """
    asked: dict[tuple[str, ...], bool] = {}

    def enough(layers: Sequence[str]) -> bool:
        if tuple(layers) not in asked:
            asked[tuple(layers)] = meets(tuple(layers))
        return asked[tuple(layers)]

    if not enough(order):
        return None
    too_few, run = 0, len(order)
    while run - too_few > 1:
        middle = (run + too_few) // 2
        too_few, run = (too_few, middle) if enough(order[:middle]) else (middle, run)
    layers = list(order[:run])
    blocks = [layers[:-1]]  # the last one of the prefix is needed: without it the criterion is not met
    while blocks and len(asked) < most:
        block = blocks.pop()
        rest = [layer for layer in layers if layer not in block]
        if block and enough(rest):
            layers = rest
        elif len(block) > 1:
            blocks += [block[: len(block) // 2], block[len(block) // 2 :]]
    return tuple(layers)


TECHNIQUE = MixedPrecision
