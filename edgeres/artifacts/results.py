"""Typed results of stages: metrics, quantization candidates, sensitivity of single layers, latency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from edgeres.settings import settings

if TYPE_CHECKING:
    from collections.abc import Mapping


@settings
class StageMetrics:
    """Metrics of one stage, no durations; None, which is left out of the JSON, where the stage does not measure it.

    Accuracies, agreements and drops are in percent and percentage points, ``kl`` in nats, ``mib`` in 2^20 bytes.
    ``agreement`` is with the float baseline, of ``verify`` on validation images, of a quantizer on tuning or
    calibration images. ``expected_ms_*`` are predicted latencies of one image by kind of graph.
    """

    top1: float | None = None
    macs: float | None = None
    parameters: float | None = None
    mib: float | None = None
    # load, load_onnx
    probe_top1: float | None = None
    probe_images: float | None = None
    max_abs_delta_logit: float | None = None
    nodes_given: float | None = None
    nodes: float | None = None
    # train, recover, qat
    train_loss: float | None = None
    epochs: float | None = None
    steps: float | None = None
    images: float | None = None
    # fold_batchnorm, prune, recover
    logit_range: float | None = None
    folded: float | None = None
    macs_removed: float | None = None
    tuning_loss_rise: float | None = None
    # quantize, qat, quantize_onnx
    agreement: float | None = None
    kl: float | None = None
    sqnr_db: float | None = None
    tuning_top1: float | None = None
    tuning_drop_pp: float | None = None
    activation_quantizers: float | None = None
    integer_weights: float | None = None
    expected_ms_float32: float | None = None
    expected_ms_int8: float | None = None
    expected_ms_first_layer: float | None = None
    expected_ms_mixed_precision: float | None = None
    nncf_agreement: float | None = None
    rewrite_agreement: float | None = None
    rewrite_max_abs_delta_logit: float | None = None
    retyped_pairs: float | None = None
    released_reads: float | None = None
    kl_as_given: float | None = None
    kl_equalized: float | None = None
    max_relative_delta_equalized: float | None = None
    # export, build, verify
    float_max_relative_delta: float | None = None
    int8_max_relative_delta: float | None = None
    lint_findings: float | None = None
    float_graph_top1: float | None = None

    @model_serializer(mode="wrap")
    def measured(self, handler: SerializerFunctionWrapHandler) -> dict[str, float]:
        """The measured metrics by name."""
        return {name: value for name, value in handler(self).items() if value is not None}


@settings
class TechniqueResult:
    """Metrics of one quantization candidate on the tuning images.

    A technique that was not tried has no figures, and its ``note`` the reason.

    Attributes:
        name: Name of the technique, such as ``calibrate`` or ``gptq``.
        settings: Applied settings, in order.
        top1: Accuracy in percent.
        drop_pp: Float accuracy less this one, in percentage points; the gate's interval is ``low_pp`` to ``high_pp``.
        agreement: Share of predictions equal to float's, in percent.
        kl: Mean KL divergence of the softmax from float's in nats; ``kl_low`` to ``kl_high`` is its 95 % interval.
        integer: Number of weighted layers in integers.
        verdict: Outcome of the accuracy gate: ``PASS``, ``FAIL`` or ``INCONCLUSIVE``.
        chosen: Whether it is the kept candidate.
        note: Why it was skipped, or its settings, one sentence.
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
    """Effect on the logits, over tuning images, of quantizing the weight and the input of ``layer`` alone.

    ``sqnr_db`` is the signal to quantization noise in dB, None where nothing changed; ``kl`` the mean KL divergence of
    the softmax in nats; ``top1`` in percent; ``macs`` those of the layer for one image.
    """

    layer: str
    sqnr_db: float | None
    kl: float
    top1: float
    macs: int


@settings
class Latency:
    """Time of one call in milliseconds.

    Attributes:
        low_ms: Lower end of the 95 % interval of the median, up to ``high_ms``.
        p90_high_ms: What the 90th percentile does not exceed, with 99 % confidence; None below 44 calls.
        p99_high_ms: The same of the 99th percentile, which takes 459 calls.
        n: Measured calls.
        warmup: Calls before them that were not measured.
        stolen: Share of the machine's CPU time that the hypervisor took meanwhile, None where the kernel does not say.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    low_ms: float
    high_ms: float
    n: int
    warmup: int
    stolen: float | None
    p90_high_ms: float | None = None
    p99_high_ms: float | None = None
