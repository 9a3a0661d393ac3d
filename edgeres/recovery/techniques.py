"""All techniques in order, the chain behind each forced one, and one search over them."""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from edgeres.recovery.calibration import Calibrate, CorrectBias, Equalize, FirstLayer, Refine
from edgeres.recovery.mixed_precision import MixedPrecision
from edgeres.recovery.nncf import Nncf
from edgeres.recovery.rounding import AdaRound, Reconstruct
from edgeres.recovery.saved_scales import Reuse
from edgeres.recovery.search import Policy, Search, search

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeres.artifacts.artifact import LayerNoise
    from edgeres.quant.calibration_table import CalibrationTable
    from edgeres.recovery.context import CalibratorName, Candidate, WeightMethod, Workshop
    from edgeres.recovery.evaluation import Evaluation
    from edgeres.recovery.search import Technique

RungName = Literal["calibrate", "first_layer", "equalize", "refine", "bias", "nncf", "adaround", "reconstruct", "mixed"]
RUNGS: tuple[RungName, ...] = get_args(RungName)
"""From the cheapest to the most expensive one."""

QUICK: tuple[RungName, ...] = ("calibrate", "first_layer", "equalize", "refine", "bias")
"""Those that cost seconds; each makes room for the next, and biases are corrected for all of them together."""

RESERVED: frozenset[RungName] = frozenset({"bias", "adaround"})
"""Those that brought most on the networks measured (docs/quantization.md): the last to be left out for time."""

CHAINS: Mapping[RungName, tuple[RungName, ...]] = MappingProxyType(
    {
        "calibrate": ("calibrate",),
        "first_layer": QUICK[:2],
        "equalize": QUICK[:3],
        "refine": QUICK[:4],
        "bias": QUICK,
        "nncf": ("nncf",),
        "adaround": (*QUICK, "adaround"),
        "reconstruct": (*QUICK, "reconstruct"),
        "mixed": (*QUICK, "mixed"),
    }
)
"""What a forced technique builds on: every quick one before it."""


class Ladder:
    """The techniques over one network.

    Args:
        shop: What techniques share.
        calibrator: Of the first one.
        weights: Of the first one.
        scales: A table the first one takes instead of calibrating.
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
        self._techniques: dict[RungName, Technique[Candidate]] = {
            "calibrate": Calibrate(shop, calibrator, weights) if scales is None else Reuse(shop, scales),
            "equalize": Equalize(shop),
            "first_layer": FirstLayer(shop),
            "refine": Refine(shop),
            "bias": CorrectBias(shop),
            "nncf": Nncf(shop),
            "adaround": AdaRound(shop),
            "reconstruct": Reconstruct(shop),
            "mixed": self._mixed,
        }

    @property
    def noise(self) -> tuple[LayerNoise, ...]:
        """What each layer disturbs alone, where mixed precision had to find out."""
        return self._mixed.noise

    def search(
        self, techniques: tuple[RungName, ...], policy: Policy, took: Callable[[str, float], None]
    ) -> Search[Candidate]:
        """Tries some techniques, in the order given.

        Args:
            techniques: The first one needs no other: ``calibrate`` or ``nncf``.
            policy: How far.
            took: Called with each technique's name and seconds.
        """
        evaluator = self._shop.evaluator

        def evaluate(candidate: Candidate) -> Evaluation:
            return evaluator.evaluation(candidate.quantized, f"evaluate {list(candidate.settings)[-1]}")

        return search(
            [self._techniques[name] for name in techniques], evaluate, policy, clock=time.monotonic, took=took
        )
