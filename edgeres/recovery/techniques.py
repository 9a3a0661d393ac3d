"""All techniques in order of cost, and ``Recovery``, the search over them for one network."""

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

    from edgeres.artifacts.results import LayerSensitivity
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
"""Every technique, from the cheapest to the most expensive."""

QUICK: tuple[TechniqueName, ...] = ("calibrate", "first_layer", "equalization", "range_search", "bias_correction")
"""Techniques that take seconds; biases are corrected after all of them."""

RESERVED: frozenset[TechniqueName] = frozenset({"bias_correction", "gptq"})
"""Techniques with the largest gain on ResNet-18 (docs/quantization.md), for which time is reserved."""

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
"""Techniques that a forced technique builds on: every quick one before it."""


class Recovery:
    """Search over the techniques for one network.

    Args:
        context: Network, images and evaluator.
        calibrator: Calibrator of the first technique.
        weights: Weight-range method of the first technique.
        scales: A table that the first technique uses instead of calibrating.
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
        """Sensitivity of each layer, where mixed precision measured it."""
        return self._mixed.noise

    def search(
        self, techniques: tuple[TechniqueName, ...], policy: Policy, took: Callable[[str, float], None]
    ) -> Search[Candidate]:
        """Tries techniques in the given order.

        Args:
            techniques: Names; the first is ``calibrate`` or ``nncf``.
            policy: Limits of the search.
            took: Called with each technique's name and seconds.
        """
        evaluator = self._shop.evaluator

        def evaluate(candidate: Candidate) -> Evaluation:
            return evaluator.evaluation(candidate.quantized, f"evaluate {list(candidate.settings)[-1]}")

        return search(
            [self._techniques[name] for name in techniques], evaluate, policy, clock=time.monotonic, took=took
        )
