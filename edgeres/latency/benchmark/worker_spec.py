"""Protocol between the benchmark and its workers: the variant to open and the requests, one line of JSON each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edgeres.artifacts.artifact import File
from edgeres.backends.backend import intact
from edgeres.data.preprocess import Preprocess
from edgeres.settings import settings
from edgeres.targets.target import Target

Precision = Literal["float32", "bfloat16", "float16", "int8"]
TORCH = "torch"
"""Name of the PyTorch eager runtime, which has no backend."""


@settings
class SealedFile:
    """A file's path and its sha256, which is checked again before a runtime reads the file."""

    path: str
    sha256: str

    @property
    def file(self) -> File:
        """The file as an artifact ``File``."""
        return File(Path(self.path), self.sha256)

    @classmethod
    def of(cls, file: File) -> SealedFile:
        """A sealed file with the absolute path of an artifact ``File``."""
        return cls(path=str(file.path.absolute()), sha256=file.sha256)


@settings
class Variant:
    """A network in one precision on one runtime.

    Attributes:
        runtime: A backend's name, or ``torch``.
        precision: Precision it computes in.
        target: Target whose settings the backend takes.
        preprocess: Preprocessing, which gives the size of the image.
        entry: Name of the engine's main file.
        files: Files of the engine by name.
        graph: The exported ONNX graph.
        float_graph: The float reference graph, which runs in any precision but ``int8``.
    """

    runtime: str
    precision: Precision
    target: Target
    preprocess: Preprocess
    entry: str
    files: dict[str, SealedFile]
    graph: SealedFile
    float_graph: SealedFile

    @property
    def name(self) -> str:
        """``int8 on openvino``."""
        return f"{self.precision} on {self.runtime}"

    @property
    def engine(self) -> Path:
        """The engine's main file, after checking the sha256 of all its files."""
        return {name: intact(sealed.file) for name, sealed in self.files.items()}[self.entry]


@settings
class WorkerSpec:
    """What one worker runs: a variant of a network, or the measurement of the processor's peak.

    Attributes:
        variant: The variant; None measures the peak.
        peak: Precision of the peak; ignored where there is a variant.
        cores: Processor ids it may use, one for each thread.
    """

    variant: Variant | None = None
    peak: Literal["int8", "float32"] = "int8"
    cores: tuple[int, ...]


@settings
class WorkerRequest:
    """A burst of calls to be timed, or to be profiled by kernel.

    Attributes:
        calls: Number of timed calls.
        warmup: Number of calls before them.
        layers: Whether to profile the kernels instead of timing the calls.
    """

    calls: Annotated[int, Field(gt=0)]
    warmup: Annotated[int, Field(ge=0)] = 0
    layers: bool = False
