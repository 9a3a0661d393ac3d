"""Artifacts of the stages: ``Source -> Checkpoint -> Exported -> Engine -> VerificationResult``, all frozen.

The digest of an artifact covers its content only: no paths, no durations.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field, SerializationInfo, ValidationInfo, model_serializer, model_validator

from edgeres.artifacts.budget_check import Predicted
from edgeres.artifacts.results import Latency, LayerSensitivity, StageMetrics, TechniqueResult
from edgeres.artifacts.serialization import EntryFolder, StoredWeights
from edgeres.data.chance import Chance
from edgeres.data.preprocess import Preprocess
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
    """The float network's accuracy in percent and its predicted class indices on the validation split, in its order.

    ``labels`` are the true class indices, ``images`` is the digest of the split.
    """

    top1: float
    predictions: tuple[int, ...]
    labels: tuple[int, ...]
    images: str

    def chance(self, classes: int) -> Chance:
        """The accuracy compared with that of guessing among so many classes."""
        return Chance.of(np.asarray(self.predictions), np.asarray(self.labels), classes)


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

    @property
    def model_props(self) -> dict[str, str]:
        """Name, classes and preprocessing as the ``metadata_props`` of an ONNX file."""
        return {
            "edgeres.classes": canonical(list(self.classes)),
            "edgeres.model": self.name,
            "edgeres.preprocess": canonical(plain(self.preprocess)),
        }

    def after(self, step: Step, baseline: Baseline | None = None) -> ModelMetadata:
        """The metadata after one more stage."""
        return replace(self, lineage=(*self.lineage, step), baseline=baseline or self.baseline)


@dataclass(frozen=True)
class Source:
    """Origin of a network: a preset to train, weights to load, or an ONNX file to import.

    Attributes:
        model: Preset name, or the name of the run for an ONNX file.
        weights: A torchvision enum name, or None.
        preprocess: Preprocessing stated by the user; None takes it from the weights or the data.
        left_open: Fields of ``preprocess`` that were not stated, which the weights or a search give.
        classes: Class names in the order of the network's outputs, as stated; empty where the data's order holds.
        suggested: Preprocessing in companion files of the weights.
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
    weights: StoredWeights
    quant: QuantTable | None = None
    teacher: Checkpoint | None = None
    deployed: StoredWeights | None = None

    @property
    def digest(self) -> str:
        """Digest of metadata, spec, weights and scales."""
        quant = plain(self.quant) if self.quant else None
        teacher = self.teacher.digest if self.teacher else None
        deployed = self.deployed.digest if self.deployed else None
        return digest([plain(self.metadata), plain(self.spec), self.weights.digest, quant, teacher, deployed])


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
        scales = self.scales.sha256 if self.scales else None
        return digest([plain(self.metadata), self.model.sha256, self.float_model.sha256, scales])


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
        contents = {name: file.sha256 for name, file in self.files.items()}
        return digest([self.exported.digest, self.backend, self.entry, contents, self.runs_here, list(self.evidence)])


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
        predictions: Class index per validation image, by the deployed graph.
        float_predictions: Class index per validation image, by ``model.float.onnx``.
        predicted: Latency in ms predicted by a roofline; None without a device profile.
        latencies: Latency of ``int8`` and ``float32``; empty where the device is not this host. Not in the digest.
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
    latencies: dict[str, Latency] = field(default_factory=dict)
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
        kernels = plain(self.kernels)
        kernels["kernels"] = kernels.pop("counts")  # its former name, so that equal runs have equal manifests
        return digest([self.engine.digest, answers, kernels])


Artifact = Checkpoint | Exported | Engine | VerificationResult
"""Results of stages; a ``Source`` is the input of the first one."""
