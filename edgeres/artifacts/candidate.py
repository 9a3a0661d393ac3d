"""``TechniqueResult`` and ``LayerSensitivity``: what was found out about candidates of a quantization, in figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from edgeres.settings import settings

if TYPE_CHECKING:
    from collections.abc import Mapping


@settings
class TechniqueResult:
    """One candidate of a quantization, judged on tuning images.

    Attributes:
        name: What was tried, such as ``calibrate`` or ``gptq``.
        settings: How, in the order of application.
        top1: Accuracy in percent.
        drop_pp: Float accuracy less this one, in percentage points.
        low_pp: Lower end of the gate's interval of the drop.
        high_pp: Upper end of it.
        agreement: Predictions equal to float's, in percent.
        kl: Mean divergence of the softmax from float's, in nats.
        kl_low: Lower end of its 95 % interval over images.
        kl_high: Upper end of it.
        integer: Weighted layers that are integers.
        verdict: What the gate says of it: ``PASS``, ``FAIL`` or ``INCONCLUSIVE``.
        chosen: Whether this is the one that went on.
        note: Why it was skipped or what it cost, one sentence; a technique that was not tried has no figures.
    """

    name: str
    settings: dict[str, object] = Field(default_factory=dict)
    top1: float | None = None
    drop_pp: float | None = None
    low_pp: float | None = None
    high_pp: float | None = None
    agreement: float | None = None
    kl: float | None = None
    kl_low: float | None = None
    kl_high: float | None = None
    integer: int | None = None
    verdict: str = ""
    chosen: bool = False
    note: str = ""

    @property
    def graph(self) -> str:
        """Which graph of the search the candidate has; all graphs of one kind take the same time."""
        return graph_kind(self.settings)

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Layers that techniques left in float."""
        parts = [self.settings.get(name) for name in ("first_layer", "mixed_precision")]
        return tuple(layer for part in parts if isinstance(part, dict) for layer in part.get("float_layers", ()))


def graph_kind(settings: Mapping[str, object]) -> str:
    """``mixed``, ``first_layer`` or ``int8``: the layers in float follow from what was applied to a candidate."""
    return next((kind for kind in ("mixed_precision", "first_layer") if kind in settings), "int8")


@settings
class LayerSensitivity:
    """What quantizing one layer alone does to the network's answers, on tuning images.

    Attributes:
        layer: The convolution or classifier; its weight and its input are integers, everything else is float.
        sqnr_db: Signal to noise of the logits in decibels; None where nothing changed at all.
        kl: Mean divergence of the softmax from float's, in nats.
        top1: Accuracy in percent.
        macs: MACs of the layer for one image.
    """

    layer: str
    sqnr_db: float | None
    kl: float
    top1: float
    macs: int
