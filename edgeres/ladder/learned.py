"""Rungs that choose every weight's rounding by what the network answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from edgeres.ladder.climb import best_of
from edgeres.quant import adaround, reconstruct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.ladder.climb import Tried
    from edgeres.ladder.workshop import Candidate, Workshop

    Earlier = Sequence[Tried[Candidate]]

_ADAROUND_PASSES = 6.0
"""Float passes over the calibration images that layer-wise rounding amounts to."""

_STEP_PASSES = 4.0
"""Float passes over its images that one step of block reconstruction amounts to: forwards, backwards, the update."""


def unrounded(tried: Earlier) -> Candidate:
    """The best candidate whose weights are not on their grid yet; rounding is learned from there."""
    return best_of([one for one in tried if not one.candidate.rounded]).candidate


@dataclass(frozen=True, slots=True)
class AdaRound:
    """Rounding learned layer by layer."""

    name: ClassVar[str] = "adaround"
    quick: ClassVar[bool] = False

    shop: Workshop

    def predicted(self) -> float:
        """Moments of every layer's input, and the search for codes."""
        return _ADAROUND_PASSES * self.shop.jury.pass_s * len(self.shop.calibration)

    def candidate(self, tried: Earlier) -> Candidate:
        """The scales of the best candidate so far, with learned codes."""
        shop, base = self.shop, unrounded(tried)
        with shop.progress.task("learn rounding by layer", adaround.steps(base.quantized)) as advance:
            made = adaround.adarounded(base.reference, base.quantized, shop.images, seed=shop.seed, advance=advance)
        settings = {**base.settings, self.name: {"seed": shop.seed}}
        return replace(base, quantized=made, settings=settings, rounded=True)


@dataclass(frozen=True, slots=True)
class Reconstruct:
    """Rounding learned block by block."""

    name: ClassVar[str] = "reconstruct"
    quick: ClassVar[bool] = False

    shop: Workshop

    def predicted(self) -> float:
        """The moments first, then a batch of 32 through its block for every iteration."""
        learned = _STEP_PASSES * 32 * reconstruct.ITERATIONS
        return self.shop.jury.pass_s * (learned + _ADAROUND_PASSES * len(self.shop.calibration))

    def candidate(self, tried: Earlier) -> Candidate:
        """The scales of the best candidate so far, refined, with learned codes."""
        shop, base = self.shop, unrounded(tried)
        with shop.progress.task("reconstruct block by block", reconstruct.steps(base.quantized)) as advance:
            made = reconstruct.reconstructed(
                base.reference, base.quantized, shop.images, seed=shop.seed, advance=advance
            )
        settings = {**base.settings, self.name: {"seed": shop.seed, "iterations": reconstruct.ITERATIONS}}
        return replace(base, quantized=made, settings=settings, rounded=True)
