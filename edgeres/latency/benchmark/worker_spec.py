"""What a worker is given to open, and what parent and worker say to each other: one line of JSON each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edgeres.artifacts.artifact import Engine, Exported, File, ModelMetadata
from edgeres.data.preprocess import Preprocess
from edgeres.settings import settings
from edgeres.targets.target import Target

Precision = Literal["float32", "bfloat16", "float16", "int8"]
TORCH = "torch"
"""The one runtime without a backend: nothing is deployed in it."""


@settings
class SealedFile:
    """A file and its sha256; it is hashed again before a runtime reads it."""

    path: str
    sha256: str

    @property
    def file(self) -> File:
        """As backends take it."""
        return File(Path(self.path), self.sha256)

    @classmethod
    def of(cls, file: File) -> SealedFile:
        """From what backends take."""
        return cls(path=str(file.path.absolute()), sha256=file.sha256)


@settings
class Variant:
    """A network in one precision on one runtime.

    Attributes:
        runtime: A backend's name, or ``torch``.
        precision: What it computes in.
        target: Whose settings the backend takes.
        preprocess: Gives the size of the image.
        entry: File of the engine that executes.
        files: Files of the engine.
        graph: The graph it comes from.
        float_graph: The float twin, which is what runs in any other precision than ``int8``.
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
    def engine(self) -> Engine:
        """As backends take it."""
        metadata = ModelMetadata(name="bench", preprocess=self.preprocess, classes=())
        exported = Exported(metadata, self.graph.file, self.float_graph.file)
        files = {name: sealed.file for name, sealed in self.files.items()}
        return Engine(exported, self.runtime, self.entry, files)


@settings
class WorkerSpec:
    """What one worker does: a variant of a network, or the processor's peak in its place.

    Attributes:
        variant: None measures the peak.
        peak: Which peak; ignored beside a variant.
        cores: Processors it may use, one for each thread.
    """

    variant: Variant | None = None
    peak: Literal["int8", "float32"] = "int8"
    cores: tuple[int, ...]


@settings
class WorkerRequest:
    """A burst of calls, or the runtime's profile of them.

    Attributes:
        calls: How many count.
        warmup: Calls before them that do not.
        layers: Profile the kernels instead.
    """

    calls: Annotated[int, Field(gt=0)]
    warmup: Annotated[int, Field(ge=0)] = 0
    layers: bool = False
