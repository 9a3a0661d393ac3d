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

NO_GRADIENT = "left out: the graph has operators without a gradient, which ONNX Runtime computes"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Reason for which a technique has no candidate, one sentence."""

    why: str


class Technique(ABC):
    """A quantization technique, which makes a candidate from earlier ones.

    A new technique is one file in ``edgeres/recovery/techniques/`` that sets ``TECHNIQUE`` to a subclass: the search,
    recipes and reports read everything else from these class variables. Those of effort ``quick`` take seconds, and a
    forced technique builds on all of them that come before it.
    """

    name: ClassVar[str]  # in recipes and reports
    order: ClassVar[int]  # rank by cost; techniques are tried from the lowest to the highest
    effort: ClassVar[Effort]  # the lowest effort that tries it
    from_float: ClassVar[bool] = False  # starts from the float network; forced, it is then applied alone
    changes_scales: ClassVar[bool] = False  # calibrates anew, so that it cannot be forced beside given scales
    remedy: ClassVar[bool] = False  # is tried only where the accuracy limit is missed
    reserved: ClassVar[bool] = False  # its time is reserved where the limit is met: a large gain, docs/quantization.md

    def __init__(self, context: QuantizationContext) -> None:
        self.context = context
        self.sensitivity: tuple[LayerSensitivity, ...] = ()  # of each layer, where the technique measured it

    def images(self, limit: int) -> int:
        """Number of calibration images to read: all, or ``limit``."""
        return min(limit, len(self.context.calibration))

    @property
    def ready(self) -> bool:
        """Whether its candidate is at hand already, so that neither effort nor time leaves it out."""
        return False

    @abstractmethod
    def predicted(self) -> float:
        """Predicted seconds, from the duration of a float pass."""

    @abstractmethod
    def candidate(self, tried: Sequence[Tried], best: Tried | None) -> Candidate | Refusal:
        """A candidate that builds on earlier ones, or the reason for none; ``best`` is None for the first technique."""
