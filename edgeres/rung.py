"""``Rung`` and ``LayerNoise``: what was found out about candidates of a quantization, in figures."""

from __future__ import annotations

from pydantic import Field

from edgeres.settings import settings


@settings
class Rung:
    """One candidate of a quantization, judged on tuning images.

    Attributes:
        name: What was tried, such as ``calibrate`` or ``adaround``.
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
        note: Why it was skipped or what it cost, one sentence; a rung that was not tried has no figures.
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


@settings
class LayerNoise:
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
