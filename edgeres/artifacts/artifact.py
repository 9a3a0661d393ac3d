"""What flows between stages: ``Source -> Checkpoint -> Exported -> Engine -> VerificationResult``, all frozen.

Each has a digest that covers content alone: never a path on this machine, never a duration.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgeres.artifacts.candidate import LayerSensitivity, TechniqueResult
from edgeres.data.preprocess import Preprocess
from edgeres.settings import digest, plain, settings, sha256_file

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.artifacts.budget_check import Predicted
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights
    from edgeres.quant.quant_table import QuantTable


@dataclass(frozen=True, slots=True)
class File:
    """A file that belongs to an artifact; its digest is its content's."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> File:
        """Hashes a finished file."""
        return cls(path, sha256_file(path))


@settings
class Step:
    """What one stage did: its settings, what it measured (no durations), and what the user should know.

    Attributes:
        stage: Its name.
        settings: Its settings.
        metrics: What it measured.
        notes: What the report says of it, one sentence each.
        shown: Those of the notes that the terminal shows as soon as the stage is done.
        techniques: Candidates of an accuracy recovery.
        sensitivity: What quantization does to each layer.
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
    """The float network's answers on the validation split, in its order.

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
    """What is known about a network apart from its numbers.

    The signature of every network is ``image`` float32 ``[N,C,H,W]`` to ``logits`` float32 ``[N,classes]``.
    """

    name: str
    preprocess: Preprocess
    classes: tuple[str, ...]
    baseline: Baseline | None = None
    lineage: tuple[Step, ...] = ()

    def after(self, step: Step, baseline: Baseline | None = None) -> ModelMetadata:
        """The metadata behind one more stage."""
        return replace(self, lineage=(*self.lineage, step), baseline=baseline or self.baseline)


@dataclass(frozen=True)
class Source:
    """Where a network comes from: a preset to train, weights to load, or a foreign ONNX file.

    Attributes:
        model: Preset name, or the name of the run for a foreign file.
        weights: A torchvision enum name, or None.
        file: A weights file or a ``.onnx``, or None.
        preprocess: What the user said about it; None leaves it to the weights or to the data.
        left_open: Fields of ``preprocess`` that were not stated: the weights say them, or what fits best.
        classes: Class names in the order of the network's outputs, as stated; empty where the data's order holds.
        suggested: Preprocessing that files of others beside the weights state; None where none does.
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
        """Content of the file, the names, and the preprocessing."""
        content = self.file.sha256 if self.file else None
        stated, beside = (plain(one) if one else None for one in (self.preprocess, self.suggested))
        return digest([self.model, self.weights, content, stated, list(self.left_open), list(self.classes), beside])

    def stated_over(self, base: Preprocess) -> Preprocess:
        """``base`` with what the user said in its place."""
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
    """A network as data: spec, weights, and its scales once it is quantized.

    Attributes:
        teacher: The network this one was cut from, for distillation; set by the pruner, cleared by the recovery.
        deployed: The weights that ``quant`` rounds where quantization changed them (equalized, corrected, rounding
            learned: then they lie on the grid already); None where it rounds ``weights``.
    """

    metadata: ModelMetadata
    spec: ResNetSpec
    weights: Weights
    quant: QuantTable | None = None
    teacher: Checkpoint | None = None
    deployed: Weights | None = None

    @property
    def digest(self) -> str:
        """Metadata, spec, weights and scales."""
        quant = plain(self.quant) if self.quant else None
        teacher = self.teacher.digest if self.teacher else None
        deployed = self.deployed.digest if self.deployed else None
        return digest([plain(self.metadata), plain(self.spec), self.weights.digest, quant, teacher, deployed])


@dataclass(frozen=True)
class Exported:
    """An ONNX graph: what ships, and the same graph in float.

    Attributes:
        model: What ships; equal to ``float_model`` for a target without INT8.
        float_model: The graph without its Q/DQ pairs.
        scales: ``calibration.json``, None before quantization.
    """

    metadata: ModelMetadata
    model: File
    float_model: File
    scales: File | None = None

    @property
    def digest(self) -> str:
        """Card and the content of each file."""
        scales = self.scales.sha256 if self.scales else None
        return digest([plain(self.metadata), self.model.sha256, self.float_model.sha256, scales])


@dataclass(frozen=True)
class Engine:
    """What a backend made of an exported graph.

    Attributes:
        exported: The graph it comes from.
        backend: Name of the adapter that made it.
        entry: Key in ``files`` of the file that executes on the device.
        files: Every file of the engine or of the device bundle, by relative path.
        runs_here: Whether a session of it is the real runtime; otherwise the host only simulates it.
        evidence: What was proven on this host, one sentence each.
    """

    exported: Exported
    backend: str
    entry: str
    files: dict[str, File] = field(default_factory=dict)
    runs_here: bool = True
    evidence: tuple[str, ...] = ()

    @property
    def metadata(self) -> ModelMetadata:
        """What is known about the network."""
        return self.exported.metadata

    @property
    def digest(self) -> str:
        """Content of the file, the names, and the preprocessing."""
        contents = {name: file.sha256 for name, file in self.files.items()}
        return digest([self.exported.digest, self.backend, self.entry, contents, self.runs_here, list(self.evidence)])


@settings
class KernelCounts:
    """What really runs in integers.

    Attributes:
        integer: Weighted layers (convolutions and matrix products) executed by integer kernels.
        weighted: Weighted layers in all.
        kernels: Executed kernel types and how many there are of each; empty where the runtime cannot tell on this host.
        how: Where the count comes from.
    """

    integer: int
    weighted: int
    kernels: dict[str, int]
    how: str


@dataclass(frozen=True)
class VerificationResult:
    """The end of a run: everything that was measured. Budgets are held against it afterwards, at no cost.

    Attributes:
        engine: What was measured.
        macs: MACs of one image, counted on the graph that ships.
        parameters: Learned parameters of that graph.
        predictions: Class index per validation image, by the artifact that ships.
        float_predictions: The same by ``model.float.onnx``.
        kernels: What runs in integers.
        predicted: Milliseconds a roofline expects of the device, None without a device profile.
        latencies: Milliseconds and counts per variant; empty where the device is not here. Not in the digest.
        peak_rss_mib: Peak resident memory of the verifying process, None where the device is not here.
        peak_activation_bytes: The most activation memory alive at once in the graph that ships; None if not counted.
        confidences: Softmax of the class in ``float_predictions`` and in ``predictions``, to 4 decimals; may be empty.
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
        """What is known about the network."""
        return self.engine.metadata

    @property
    def digest(self) -> str:
        """The engine and its answers."""
        answers = [list(self.predictions), list(self.float_predictions), [list(pair) for pair in self.confidences]]
        return digest([self.engine.digest, answers, plain(self.kernels)])


Artifact = Source | Checkpoint | Exported | Engine | VerificationResult
