"""Artifacts of the stages: ``Source -> Checkpoint -> Exported -> Engine -> VerificationResult``, all frozen.

The digest of an artifact covers its content only: no paths, no durations.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field, SerializationInfo, ValidationInfo, model_serializer, model_validator

from edgeres.artifacts.budget_check import Predicted
from edgeres.artifacts.head import Head
from edgeres.artifacts.results import Latency, LayerSensitivity, OutputError, Rows, StageMetrics, TechniqueResult
from edgeres.artifacts.serialization import EntryFolder, StoredWeights
from edgeres.data.preprocess import Preprocess
from edgeres.model.graph import Graph, graph
from edgeres.model.spec import ResNetSpec
from edgeres.quant.quant_table import QuantTable
from edgeres.settings import canonical, digest, plain, settings, sha256_file

if TYPE_CHECKING:
    from onnx import ModelProto
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class File:
    """A file of an artifact; its digest is that of its content."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> File:
        """Hashes a finished file."""
        return cls(path, sha256_file(path))

    @classmethod
    def written(cls, model: ModelProto, path: Path) -> File:
        """Writes an ONNX model; equal models give equal bytes."""
        path.write_bytes(model.SerializeToString(deterministic=True))
        return cls.of(path)

    @model_serializer
    def named(self, info: SerializationInfo[EntryFolder]) -> dict[str, str]:
        """Name in a store entry's folder, and digest; outside of a store, for a benchmark's worker, its path."""
        if info.context is None:
            return {"path": str(self.path), "sha256": self.sha256}
        return {"name": info.context.name(self.path, self.sha256), "sha256": self.sha256}

    @model_validator(mode="before")
    @classmethod
    def from_name(cls, data: dict[str, str], info: ValidationInfo[EntryFolder]) -> dict[str, object]:
        """Fields of the file of that name, or with that path."""
        if info.context is None:
            return dict(data)
        return {"path": info.context.path / data["name"], "sha256": data["sha256"]}


@settings
class Step:
    """Record of one stage; ``shown`` are those of its ``notes`` that the terminal shows when the stage is done."""

    stage: str
    settings: dict[str, object]
    metrics: StageMetrics = StageMetrics()
    notes: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    techniques: tuple[TechniqueResult, ...] = ()
    sensitivity: tuple[LayerSensitivity, ...] = ()


@settings
class Baseline:
    """The float network's score in percent and its predictions on the validation split, in its order.

    ``labels`` are what is right, ``images`` is the digest of the split.
    """

    score: float
    predictions: Rows
    labels: Rows
    images: str


@settings
class ModelMetadata:
    """Metadata of a network: name, preprocessing, classes, head and lineage."""

    name: str
    preprocess: Preprocess
    classes: tuple[str, ...]
    head: Head = Head()
    baseline: Baseline | None = None
    lineage: tuple[Step, ...] = ()

    @property
    def model_props(self) -> dict[str, str]:
        """The ``metadata_props`` of an ONNX file: name, classes, preprocessing, and any task but classification."""
        props = {
            "edgeres.classes": canonical(list(self.classes)),
            "edgeres.model": self.name,
            "edgeres.preprocess": canonical(plain(self.preprocess)),
        }
        return props if self.head.task == "classification" else {**props, "edgeres.task": self.head.task}

    def after(self, step: Step, baseline: Baseline | None = None) -> ModelMetadata:
        """The metadata after one more stage."""
        return replace(self, lineage=(*self.lineage, step), baseline=baseline or self.baseline)


@dataclass(frozen=True)
class Checkpoint:
    """A network as data: spec, weights, and scales once it is quantized.

    Attributes:
        teacher: The unpruned network, for distillation; set by the pruner, cleared by the recovery.
        deployed: The weights that ``quant`` rounds where quantization changed them; None where it rounds ``weights``.
    """

    metadata: ModelMetadata
    spec: ResNetSpec
    weights: StoredWeights
    quant: QuantTable | None = None
    teacher: Checkpoint | None = None
    deployed: StoredWeights | None = None

    @property
    def graph(self) -> Graph:
        """The network's operations."""
        return graph(self.spec)

    @property
    def digest(self) -> str:
        """Digest of metadata, spec, weights and scales."""
        parts = plain(self.metadata), plain(self.spec), self.weights.digest, self.quant and plain(self.quant)
        return digest([*parts, *(one and one.digest for one in (self.teacher, self.deployed))])


@final
@dataclass(frozen=True)
class Exported:
    """The deployed ONNX graph, its float reference without Q/DQ pairs, and ``calibration.json`` once quantized."""

    metadata: ModelMetadata
    model: File
    float_model: File
    scales: File | None = None

    @property
    def digest(self) -> str:
        """Digest of metadata and the content of each file."""
        files = self.model, self.float_model, self.scales
        return digest([plain(self.metadata), *(file and file.sha256 for file in files)])


@dataclass(frozen=True)
class Engine:
    """An exported graph built by a backend.

    Attributes:
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

    def after(self, step: Step) -> Engine:
        """The engine with the record of one more stage."""
        return replace(self, exported=replace(self.exported, metadata=self.metadata.after(step)))

    @property
    def digest(self) -> str:
        """Digest of the graph, the backend, and the content of each file."""
        files = {name: file.sha256 for name, file in self.files.items()}
        return digest([self.exported.digest, self.backend, self.entry, files, self.runs_here, list(self.evidence)])


@settings
class KernelCounts:
    """Number of executed kernels by number type.

    Attributes:
        integer: Weighted layers (convolutions and matrix products) executed by integer kernels, of ``weighted``.
        counts: Number of executed kernels by type; empty where the runtime does not report them on this host.
        how: Source of the count.
    """

    integer: Count
    weighted: Count
    counts: dict[str, Count] = Field(default_factory=dict)
    how: str


@dataclass(frozen=True)
class VerificationResult:
    """Measurements of a verified engine, to which budgets are compared afterwards.

    Attributes:
        macs: MACs of one image, counted on the deployed graph.
        predictions: Predictions of the validation images by the deployed graph, such as class indices.
        float_predictions: Those by ``model.float.onnx``.
        predicted: Latency in ms predicted by a roofline; None without a device profile.
        latencies: Latency of ``int8`` and ``float32``; empty where the device is not this host. Not in the digest.
        peak_rss_mib: Peak resident memory of the verifying process; None where the device is not this host.
        peak_activation_bytes: Peak activation memory of the deployed graph; None if not counted.
        confidences: Probabilities of ``float_predictions`` and of ``predictions``, to 4 decimals, or empty.
        outputs: Error of each output of the deployed graph.
    """

    engine: Engine
    macs: int
    parameters: int
    predictions: Rows
    float_predictions: Rows
    kernels: KernelCounts
    predicted: Predicted | None = None
    latencies: dict[str, Latency] = field(default_factory=dict)
    peak_rss_mib: float | None = None
    peak_activation_bytes: int | None = None
    confidences: tuple[tuple[float, float], ...] = ()
    outputs: tuple[OutputError, ...] = ()

    @property
    def metadata(self) -> ModelMetadata:
        """Metadata of the network."""
        return self.engine.metadata

    @property
    def digest(self) -> str:
        """Digest of the engine and its predictions; counts have their former name, for equal manifests."""
        answers = [list(self.predictions), list(self.float_predictions), [list(pair) for pair in self.confidences]]
        kernels = {"kernels" if key == "counts" else key: value for key, value in plain(self.kernels).items()}
        outputs = [plain(one) for one in self.outputs]
        return digest([self.engine.digest, answers, kernels, *([outputs] if outputs else [])])


Artifact = Checkpoint | Exported | Engine | VerificationResult  # of stages; a Source is the input of the first one
