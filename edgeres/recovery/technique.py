"""``Technique``: base class of the quantization techniques that the search tries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.artifacts.results import LayerSensitivity
    from edgeres.recovery.context import Candidate, QuantizationContext, Tried

Effort = Literal["quick", "default", "max"]
EFFORTS: tuple[Effort, ...] = ("quick", "default", "max")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Reason for which a technique has no candidate, one sentence."""

    why: str


class Technique(ABC):
    """A quantization technique, which makes a candidate from earlier ones.

    A new technique is one file in ``edgeres/recovery/techniques/`` that sets ``TECHNIQUE`` to a subclass: the search,
    recipes and reports read everything else from these class variables.

    Attributes:
        name: Name in recipes and reports.
        order: Rank by cost; techniques are tried from the lowest to the highest.
        effort: The lowest effort that tries it. Those of ``quick`` take seconds, and a forced technique builds on all
            of them that come before it.
        from_float: Whether it starts from the float network; forced, it is then applied alone.
        changes_scales: Whether it calibrates anew, so that it cannot be forced beside given scales.
        remedy: Whether it is tried only where the accuracy limit is missed.
        reserved: Whether its gain is among the largest on ResNet-18 (docs/quantization.md), so that its predicted time
            is reserved where the accuracy limit is met.
        sensitivity: Sensitivity of each layer, where the technique measured it.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    effort: ClassVar[Effort]
    from_float: ClassVar[bool] = False
    changes_scales: ClassVar[bool] = False
    remedy: ClassVar[bool] = False
    reserved: ClassVar[bool] = False

    def __init__(self, context: QuantizationContext) -> None:
        self.context = context
        self.sensitivity: tuple[LayerSensitivity, ...] = ()

    def images(self, limit: int) -> int:
        """Number of calibration images to read: all, or ``limit``."""
        return min(limit, len(self.context.calibration))

    @abstractmethod
    def predicted(self) -> float:
        """Predicted seconds, from the duration of a float pass."""

    @abstractmethod
    def candidate(self, tried: Sequence[Tried], best: Tried | None) -> Candidate | Refusal:
        """A candidate that builds on earlier ones, or the reason for none; ``best`` is None for the first technique."""
