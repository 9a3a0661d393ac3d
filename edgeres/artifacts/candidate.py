"""``TechniqueResult`` and ``LayerSensitivity``: metrics of quantization candidates and of single quantized layers."""

from __future__ import annotations

from pydantic import Field, JsonValue

from edgeres.settings import settings


@settings
class TechniqueResult:
    """Metrics of one quantization candidate on the tuning images.

    Attributes:
        name: Name of the technique, such as ``calibrate`` or ``gptq``.
        settings: Settings of the applied techniques by name, in order, as JSON data.
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
    settings: dict[str, JsonValue] = Field(default_factory=dict)
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
        parts = [one.get("float_layers") for one in self.settings.values() if isinstance(one, dict)]
        return tuple(str(layer) for layers in parts if isinstance(layers, list) for layer in layers)


def graph_kind(settings: dict[str, JsonValue]) -> str:
    """Name of the last technique that left layers in float, such as ``first_layer``; ``int8`` where none did."""
    kinds = [name for name, one in settings.items() if isinstance(one, dict) and "float_layers" in one]
    return kinds[-1] if kinds else "int8"


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
