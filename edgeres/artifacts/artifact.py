"""Artifacts of the stages: ``Source -> Checkpoint -> Exported -> Engine -> VerificationResult``, all frozen.

The digest of an artifact covers its content only: no paths, no durations.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path  # noqa: TC003  # read at runtime where a file is a field of a settings class
from typing import TYPE_CHECKING

from edgeres.artifacts.candidate import LayerSensitivity, TechniqueResult
from edgeres.data.preprocess import Preprocess
from edgeres.settings import digest, plain, settings, sha256_file

if TYPE_CHECKING:
    from edgeres.artifacts.budget_check import Predicted
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights
    from edgeres.quant.quant_table import QuantTable


@dataclass(frozen=True, slots=True)
class File:
    """A file of an artifact; its digest is that of its content."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> File:
        """Hashes a finished file."""
        return cls(path, sha256_file(path))


@settings
class Step:
    """Record of one stage: its settings, metrics (no durations) and notes.

    Attributes:
        stage: Name of the stage.
        settings: Its settings.
        metrics: Its metrics.
        notes: Notes for the report, one sentence each.
        shown: The notes that the terminal shows when the stage is done.
        techniques: Candidates of an accuracy recovery.
        sensitivity: Effect of quantizing each layer alone.
    """

    stage: str
    settings: dict[str, object]
    metrics: dict[str, float]
    notes: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    techniques: tuple[TechniqueResult, ...] = ()
    sensitivity: tuple[LayerSensitivity, ...] = ()


@settings
class Baseline:
    """The float network's predictions on the validation split, in its order.

    Attributes:
        top1: Accuracy in percent.
        predictions: Class index per image.
        labels: True class index per image.
        images: Digest of the validation split.
    """

    top1: float
    predictions: tuple[int, ...]
    labels: tuple[int, ...]
    images: str


@settings
class ModelMetadata:
    """Metadata of a network: name, preprocessing, classes and lineage.

    The signature of every network is ``image`` float32 ``[N,C,H,W]`` to ``logits`` float32 ``[N,classes]``.
    """

    name: str
    preprocess: Preprocess
    classes: tuple[str, ...]
    baseline: Baseline | None = None
    lineage: tuple[Step, ...] = ()

    def after(self, step: Step, baseline: Baseline | None = None) -> ModelMetadata:
        """The metadata after one more stage."""
        return replace(self, lineage=(*self.lineage, step), baseline=baseline or self.baseline)


@dataclass(frozen=True)
class Source:
    """Origin of a network: a preset to train, weights to load, or an ONNX file to import.

    Attributes:
        model: Preset name, or the name of the run for an ONNX file.
        weights: A torchvision enum name, or None.
        file: A weights file or a ``.onnx``, or None.
        preprocess: Preprocessing stated by the user; None takes it from the weights or the data.
        left_open: Fields of ``preprocess`` that were not stated, which the weights or a search give.
        classes: Class names in the order of the network's outputs, as stated; empty where the data's order holds.
        suggested: Preprocessing in companion files of the weights; None where there is none.
    """

    model: str
    weights: str | None = None
    file: File | None = None
    preprocess: Preprocess | None = None
    left_open: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    suggested: Preprocess | None = None

    @property
    def digest(self) -> str:
        """Digest of the file, the names, and the preprocessing."""
        content = self.file.sha256 if self.file else None
        stated, beside = (plain(one) if one else None for one in (self.preprocess, self.suggested))
        return digest([self.model, self.weights, content, stated, list(self.left_open), list(self.classes), beside])

    def stated_over(self, base: Preprocess) -> Preprocess:
        """``base`` with the user's values in its place."""
        if self.preprocess is None:
            return base
        left = {name: getattr(base, name) for name in self.left_open}
        if "resize" in left and "crop" not in left:
            left["resize"] = round(self.preprocess.crop * base.resize / base.crop)  # the base's own margin
        if "crop" in left and "resize" not in left and self.preprocess.resize:
            left["crop"] = min(base.crop, self.preprocess.resize)
        return replace(self.preprocess, **left)


@dataclass(frozen=True)
class Checkpoint:
    """A network as data: spec, weights, and scales once it is quantized.

    Attributes:
        teacher: The unpruned network, for distillation; set by the pruner, cleared by the recovery.
        deployed: The weights that ``quant`` rounds, where quantization changed them (equalized, bias-corrected, or
            already on the grid by learned rounding); None where it rounds ``weights``.
    """

    metadata: ModelMetadata
    spec: ResNetSpec
    weights: Weights
    quant: QuantTable | None = None
    teacher: Checkpoint | None = None
    deployed: Weights | None = None

    @property
    def digest(self) -> str:
        """Digest of metadata, spec, weights and scales."""
        quant = plain(self.quant) if self.quant else None
        teacher = self.teacher.digest if self.teacher else None
        deployed = self.deployed.digest if self.deployed else None
        return digest([plain(self.metadata), plain(self.spec), self.weights.digest, quant, teacher, deployed])


@dataclass(frozen=True)
class Exported:
    """The deployed ONNX graph, and its float reference.

    Attributes:
        model: The deployed graph; equal to ``float_model`` for a target without INT8.
        float_model: The float reference, without Q/DQ pairs.
        scales: ``calibration.json``; None before quantization.
    """

    metadata: ModelMetadata
    model: File
    float_model: File
    scales: File | None = None

    @property
    def digest(self) -> str:
        """Digest of metadata and the content of each file."""
        scales = self.scales.sha256 if self.scales else None
        return digest([plain(self.metadata), self.model.sha256, self.float_model.sha256, scales])


@dataclass(frozen=True)
class Engine:
    """An exported graph built by a backend.

    Attributes:
        exported: The graph it was built from.
        backend: Name of the backend.
        entry: Key in ``files`` of the file that executes on the device.
        files: Every file of the engine or of the device bundle, by relative path.
        runs_here: Whether a session of it is the real runtime; otherwise the host simulates it.
        evidence: Results of checks on this host, one sentence each.
    """

    exported: Exported
    backend: str
    entry: str
    files: dict[str, File] = field(default_factory=dict)
    runs_here: bool = True
    evidence: tuple[str, ...] = ()

    @property
    def metadata(self) -> ModelMetadata:
        """Metadata of the network."""
        return self.exported.metadata

    @property
    def digest(self) -> str:
        """Digest of the graph, the backend, and the content of each file."""
        contents = {name: file.sha256 for name, file in self.files.items()}
        return digest([self.exported.digest, self.backend, self.entry, contents, self.runs_here, list(self.evidence)])


@settings
class KernelCounts:
    """Number of integer kernels.

    Attributes:
        integer: Weighted layers (convolutions and matrix products) executed by integer kernels.
        weighted: Weighted layers in all.
        kernels: Number of executed kernels by type; empty where the runtime does not report them on this host.
        how: Source of the count.
    """

    integer: int
    weighted: int
    kernels: dict[str, int]
    how: str


@dataclass(frozen=True)
class VerificationResult:
    """Measurements of a verified engine, to which budgets are compared afterwards.

    Attributes:
        engine: The engine.
        macs: MACs of one image, counted on the deployed graph.
        parameters: Learned parameters of that graph.
        predictions: Class index per validation image, by the deployed graph.
        float_predictions: Class index per validation image, by ``model.float.onnx``.
        kernels: Number of integer kernels.
        predicted: Latency in ms predicted by a roofline; None without a device profile.
        latencies: Milliseconds and counts per variant; empty where the device is not this host. Not in the digest.
        peak_rss_mib: Peak resident memory of the verifying process; None where the device is not this host.
        peak_activation_bytes: Peak activation memory of the deployed graph; None if not counted.
        confidences: Softmax of the classes in ``float_predictions`` and in ``predictions``, to 4 decimals; may be
            empty.
    """

    engine: Engine
    macs: int
    parameters: int
    predictions: tuple[int, ...]
    float_predictions: tuple[int, ...]
    kernels: KernelCounts
    predicted: Predicted | None = None
    latencies: dict[str, dict[str, float | None]] = field(default_factory=dict)
    peak_rss_mib: float | None = None
    peak_activation_bytes: int | None = None
    confidences: tuple[tuple[float, float], ...] = ()

    @property
    def metadata(self) -> ModelMetadata:
        """Metadata of the network."""
        return self.engine.metadata

    @property
    def digest(self) -> str:
        """Digest of the engine and its predictions."""
        answers = [list(self.predictions), list(self.float_predictions), [list(pair) for pair in self.confidences]]
        return digest([self.engine.digest, answers, plain(self.kernels)])


Artifact = Source | Checkpoint | Exported | Engine | VerificationResult
