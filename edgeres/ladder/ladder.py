"""The ladder: every rung there is, the chain behind each forced one, and one climb over them."""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from edgeres.ladder.climb import Climb, Policy, climb
from edgeres.ladder.learned import AdaRound, Reconstruct
from edgeres.ladder.mixed import MixedPrecision
from edgeres.ladder.nncf import Nncf
from edgeres.ladder.reuse import Reuse
from edgeres.ladder.rungs import Calibrate, CorrectBias, Equalize, Refine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeres.artifact import LayerNoise
    from edgeres.ladder.climb import Rung, Trial
    from edgeres.ladder.workshop import CalibratorName, Candidate, WeightMethod, Workshop
    from edgeres.quant.calibration_table import CalibrationTable

RungName = Literal["calibrate", "equalize", "refine", "bias", "nncf", "adaround", "reconstruct", "mixed"]
RUNGS: tuple[RungName, ...] = ("calibrate", "equalize", "refine", "bias", "nncf", "adaround", "reconstruct", "mixed")
"""From the cheapest to the dearest."""

QUICK: tuple[RungName, ...] = ("calibrate", "equalize", "refine", "bias")
"""Those that cost seconds; each makes room for the next, and biases are corrected for all of them together."""

CHAINS: Mapping[RungName, tuple[RungName, ...]] = MappingProxyType(
    {
        "calibrate": ("calibrate",),
        "equalize": QUICK[:2],
        "refine": QUICK[:3],
        "bias": QUICK,
        "nncf": ("nncf",),
        "adaround": (*QUICK, "adaround"),
        "reconstruct": (*QUICK, "reconstruct"),
        "mixed": (*QUICK, "mixed"),
    }
)
"""What a forced rung stands on: every quick one below it."""


class Ladder:
    """The rungs over one network.

    Args:
        shop: What rungs share.
        calibrator: Of the first rung.
        weights: Of the first rung.
        scales: A table the first rung takes instead of calibrating.
    """

    def __init__(
        self,
        shop: Workshop,
        calibrator: Literal["auto"] | CalibratorName = "auto",
        weights: Literal["auto"] | WeightMethod = "auto",
        scales: CalibrationTable | None = None,
    ) -> None:
        self._shop = shop
        self._mixed = MixedPrecision(shop)
        self._rungs: dict[RungName, Rung[Candidate]] = {
            "calibrate": Calibrate(shop, calibrator, weights) if scales is None else Reuse(shop, scales),
            "equalize": Equalize(shop),
            "refine": Refine(shop),
            "bias": CorrectBias(shop),
            "nncf": Nncf(shop),
            "adaround": AdaRound(shop),
            "reconstruct": Reconstruct(shop),
            "mixed": self._mixed,
        }

    @property
    def noise(self) -> tuple[LayerNoise, ...]:
        """What each layer disturbs alone, where the last rung had to find out."""
        return self._mixed.noise

    def climb(
        self, rungs: tuple[RungName, ...], policy: Policy, took: Callable[[str, float], None]
    ) -> Climb[Candidate]:
        """Climbs some rungs, in the order given.

        Args:
            rungs: The first one needs no other: ``calibrate`` or ``nncf``.
            policy: How far.
            took: Told of each rung's seconds.
        """
        jury = self._shop.jury

        def judge(candidate: Candidate) -> Trial:
            return jury.trial(candidate.quantized, f"judge {list(candidate.settings)[-1]}")

        return climb([self._rungs[name] for name in rungs], judge, policy, clock=time.monotonic, took=took)
