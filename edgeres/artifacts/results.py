"""Typed results of stages: metrics, quantization candidates, sensitivity of single layers, latency."""

from __future__ import annotations

from typing import TypeAlias

from pydantic import Field, JsonValue, SerializerFunctionWrapHandler, model_serializer, model_validator

from edgeres.settings import settings

Rows: TypeAlias = tuple[int, ...] | tuple[tuple[float, ...], ...]
"""Predictions or labels of images: a class index of each, or a row of figures, as the task keeps them."""


@settings
class StageMetrics:
    """Metrics of one stage, no durations; None, which is left out of the JSON, where the stage does not measure it.

    ``top1`` is that of a classifier, ``score`` the metric of any other task.

    Accuracies, agreements and drops are in percent and percentage points, ``kl`` in nats, ``mib`` in 2^20 bytes.
    ``agreement`` is with the float baseline, of ``verify`` on validation images, of a quantizer on tuning or
    calibration images. ``expected_ms`` are predicted latencies of one image by kind of graph, in JSON each
    under a name of its own: ``expected_ms_int8``.
    """

    top1: float | None = None
    score: float | None = None
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
    # quantize, qat
    agreement: float | None = None
    kl: float | None = None
    sqnr_db: float | None = None
    tuning_top1: float | None = None
    tuning_score: float | None = None
    tuning_drop_pp: float | None = None
    activation_quantizers: float | None = None
    integer_weights: float | None = None
    expected_ms: dict[str, float] = Field(default_factory=dict)
    # export, build, verify; quantize of an imported graph
    float_max_relative_delta: float | None = None
    int8_max_relative_delta: float | None = None
    lint_findings: float | None = None
    float_graph_top1: float | None = None
    float_graph_score: float | None = None

    @model_serializer(mode="wrap")
    def measured(self, handler: SerializerFunctionWrapHandler) -> dict[str, float]:
        """The measured metrics by name."""
        values = handler(self)
        expected = {f"expected_ms_{kind}": ms for kind, ms in values.pop("expected_ms").items()}
        return {name: value for name, value in values.items() if value is not None} | expected

    @model_validator(mode="before")
    @classmethod
    def gathered(cls, data: object) -> object:
        """JSON data with the predicted latencies in one dictionary."""
        if not isinstance(data, dict):
            return data
        expected = {name: value for name, value in data.items() if str(name).startswith("expected_ms_")}
        rest = {name: value for name, value in data.items() if name not in expected}
        return {**rest, "expected_ms": {name.removeprefix("expected_ms_"): ms for name, ms in expected.items()}}


@settings
class TechniqueResult:
    """Metrics of one quantization candidate on the tuning images.

    A technique that was not tried has no figures, and its ``note`` the reason.

    Attributes:
        name: Name of the technique, such as ``calibrate`` or ``gptq``.
        settings: Settings of the applied techniques by name, in order, as JSON data.
        top1: Accuracy in percent; None for a task other than classification.
        score: The metric of such a task, in percent.
        drop_pp: Float score less this one, in percentage points; the gate's interval is ``low_pp`` to ``high_pp``.
        agreement: Share of predictions equal to float's, in percent.
        kl: Mean divergence from float, for a classifier the KL divergence of the softmax in nats; ``kl_low`` to
            ``kl_high`` is its 95 % interval.
        integer: Number of weighted layers in integers.
        verdict: Outcome of the accuracy gate: ``PASS``, ``FAIL`` or ``INCONCLUSIVE``.
        chosen: Whether it is the kept candidate.
        note: Why it was skipped, or its settings, one sentence.
    """

    name: str
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    top1: float | None = None
    score: float | None = None
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
    def measured(self) -> float | None:
        """The metric of its task, in percent."""
        return self.score if self.top1 is None else self.top1

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
class OutputError:
    """Error of one output of the deployed graph, over the validation images.

    ``sqnr_db`` is the signal to quantization noise, None for equal outputs; ``cosine`` the mean over images of that to
    float's. ``shape`` is without the batch.
    """

    name: str
    shape: tuple[int, ...]
    sqnr_db: float | None
    cosine: float


@settings
class LayerSensitivity:
    """Effect on the logits, over tuning images, of quantizing the weight and the input of ``layer`` alone.

    ``sqnr_db`` is the signal to quantization noise in dB, None where nothing changed; ``kl`` the mean divergence, of a
    classifier the KL divergence of the softmax in nats; ``top1`` in percent, None for a task other than classification;
    ``macs`` those of the layer for one image.
    """

    layer: str
    sqnr_db: float | None
    kl: float
    top1: float | None = None
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
