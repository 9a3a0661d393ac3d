"""``TechniqueResult`` and ``LayerSensitivity``: metrics of quantization candidates and of single quantized layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from edgeres.settings import settings

if TYPE_CHECKING:
    from collections.abc import Mapping


@settings
class TechniqueResult:
    """Metrics of one quantization candidate on the tuning images.

    Attributes:
        name: Name of the technique, such as ``calibrate`` or ``gptq``.
        settings: Applied settings, in order.
        top1: Accuracy in percent.
        drop_pp: Float accuracy less this one, in percentage points.
        low_pp: Lower end of the gate's interval of the drop.
        high_pp: Upper end of the interval.
        agreement: Share of predictions equal to float's, in percent.
        kl: Mean KL divergence of the softmax from float's, in nats.
        kl_low: Lower end of its 95 % interval over images.
        kl_high: Upper end of the interval.
        integer: Number of weighted layers in integers.
        verdict: Outcome of the accuracy gate: ``PASS``, ``FAIL`` or ``INCONCLUSIVE``.
        chosen: Whether it is the kept candidate.
        note: Why it was skipped, or its settings, one sentence; a technique that was not tried has no figures.
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
        """Kind of the candidate's graph; all graphs of one kind have the same latency."""
        return graph_kind(self.settings)

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Layers that techniques left in float."""
        parts = [self.settings.get(name) for name in ("first_layer", "mixed_precision")]
        return tuple(layer for part in parts if isinstance(part, dict) for layer in part.get("float_layers", ()))


def graph_kind(settings: Mapping[str, object]) -> str:
    """``mixed_precision``, ``first_layer`` or ``int8``, by the layers that the applied settings leave in float."""
    return next((kind for kind in ("mixed_precision", "first_layer") if kind in settings), "int8")


@settings
class LayerSensitivity:
    """Effect of quantizing one layer alone on the network's logits, on tuning images.

    Attributes:
        layer: The convolution or classifier; its weight and its input are integers, everything else is float.
        sqnr_db: Signal to quantization noise of the logits in dB; None where nothing changed.
        kl: Mean KL divergence of the softmax from float's, in nats.
        top1: Accuracy in percent.
        macs: MACs of the layer for one image.
    """

    layer: str
    sqnr_db: float | None
    kl: float
    top1: float
    macs: int
