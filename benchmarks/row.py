"""``Row``: what one contender did with one draw of calibration images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Figures:
    """A quantized network against its float original, on one set of images; see ``judge.figures``."""

    float_top1: float
    top1: float
    changed: float
    drop_pp: float
    low_pp: float
    high_pp: float
    kl: float
    sqnr_db: float


@dataclass(frozen=True, slots=True)
class Row:
    """One contender.

    Attributes:
        task: What was quantized.
        scheme: ``tensorrt`` or ``x86``.
        quantizer: Its name.
        seed: Which calibration images.
        peak_mib: Most resident memory of its process; None where it did not start.
        failure: Why there are no figures, or empty.
        seconds: Time of quantizing.
        load: Processes that ran or waited on the machine meanwhile, itself included: the larger of the two one-minute
            averages before and after.
        integer: Layers in integers.
        weighted: All convolutions and matrix products.
        held_out: On held-out training images.
        validation: On validation images.
        images: Number of validation images.
        code: Digest of edgeres' code that quantized, empty for peers.
        older: Whether that code has changed since; set when a kept row is read.
    """

    task: str
    scheme: str
    quantizer: str
    seed: int
    peak_mib: float | None = None
    failure: str = ""
    seconds: float | None = None
    load: float | None = None
    integer: int = 0
    weighted: int = 0
    held_out: Figures | None = None
    validation: Figures | None = None
    images: int = 0
    code: str = ""
    older: bool = False

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Row:
        """Reads what ``plain`` wrote.

        Raises:
            TypeError: A key is missing or unknown.
        """
        judged = {name: Figures(**document[name]) if document[name] else None for name in ("held_out", "validation")}
        return cls(**{**document, **judged})

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)
