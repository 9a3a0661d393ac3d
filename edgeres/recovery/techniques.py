"""All techniques in order, the chain behind each forced one, and one search over them."""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from edgeres.recovery.calibration import BiasCorrection, Calibrate, Equalization, FirstLayer, RangeSearch
from edgeres.recovery.mixed_precision import MixedPrecision
from edgeres.recovery.nncf import Nncf
from edgeres.recovery.rounding import BlockReconstruction, Gptq
from edgeres.recovery.saved_scales import Reuse
from edgeres.recovery.search import Policy, Search, search

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeres.artifacts.candidate import LayerSensitivity
    from edgeres.quant.calibration_table import CalibrationTable
    from edgeres.recovery.context import CalibratorName, Candidate, QuantizationContext, WeightMethod
    from edgeres.recovery.evaluation import Evaluation
    from edgeres.recovery.search import Technique

TechniqueName = Literal[
    "calibrate",
    "first_layer",
    "equalization",
    "range_search",
    "bias_correction",
    "nncf",
    "gptq",
    "block_reconstruction",
    "mixed_precision",
]
TECHNIQUES: tuple[TechniqueName, ...] = get_args(TechniqueName)
"""From the cheapest to the most expensive one."""

QUICK: tuple[TechniqueName, ...] = ("calibrate", "first_layer", "equalization", "range_search", "bias_correction")
"""Those that cost seconds; each makes room for the next, and biases are corrected for all of them together."""

RESERVED: frozenset[TechniqueName] = frozenset({"bias_correction", "gptq"})
"""Those that brought most on the networks measured (docs/quantization.md): the last to be left out for time."""

CHAINS: Mapping[TechniqueName, tuple[TechniqueName, ...]] = MappingProxyType(
    {
        "calibrate": ("calibrate",),
        "first_layer": QUICK[:2],
        "equalization": QUICK[:3],
        "range_search": QUICK[:4],
        "bias_correction": QUICK,
        "nncf": ("nncf",),
        "gptq": (*QUICK, "gptq"),
        "block_reconstruction": (*QUICK, "block_reconstruction"),
        "mixed_precision": (*QUICK, "mixed_precision"),
    }
)
"""What a forced technique builds on: every quick one before it."""


class Recovery:
    """The techniques over one network.

    Args:
        context: What techniques share.
        calibrator: Of the first one.
        weights: Of the first one.
        scales: A table the first one takes instead of calibrating.
    """

    def __init__(
        self,
        context: QuantizationContext,
        calibrator: Literal["auto"] | CalibratorName = "auto",
        weights: Literal["auto"] | WeightMethod = "auto",
        scales: CalibrationTable | None = None,
    ) -> None:
        self._shop = context
        self._mixed = MixedPrecision(context)
        self._techniques: dict[TechniqueName, Technique[Candidate]] = {
            "calibrate": Calibrate(context, calibrator, weights) if scales is None else Reuse(context, scales),
            "equalization": Equalization(context),
            "first_layer": FirstLayer(context),
            "range_search": RangeSearch(context),
            "bias_correction": BiasCorrection(context),
            "nncf": Nncf(context),
            "gptq": Gptq(context),
            "block_reconstruction": BlockReconstruction(context),
            "mixed_precision": self._mixed,
        }

    @property
    def noise(self) -> tuple[LayerSensitivity, ...]:
        """What each layer disturbs alone, where mixed precision had to find out."""
        return self._mixed.noise

    def search(
        self, techniques: tuple[TechniqueName, ...], policy: Policy, took: Callable[[str, float], None]
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
