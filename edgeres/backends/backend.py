"""What a backend is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from edgeres.artifacts.artifact import KernelCounts
from edgeres.settings import settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.artifacts.artifact import Engine, Exported, File
    from edgeres.progress import Progress
    from edgeres.targets.target import Target


__all__ = [
    "Backend",
    "Concurrent",
    "KernelCounts",
    "LayerTime",
    "NarrowFloats",
    "Profiled",
    "Session",
    "Shown",
    "ShowsTensors",
]

Role = Literal["integer", "float", "reformat", "other"]
NarrowFloat = Literal["bfloat16", "float16"]


@settings
class LayerTime:
    """What one executed kernel takes, by the runtime's own profiler.

    Attributes:
        name: The runtime's name for it, which begins with the graph's where it is a layer of the graph.
        kind: The runtime's name for what it does, and the kernel that does it where the runtime tells.
        role: A weighted layer in ``integer`` or in ``float``; a ``reformat`` changes layout or type, which includes
            quantizing and dequantizing; ``other`` is the rest.
        ms: Median over the profiled calls. Profilers slow down what they watch: compare kernels with each other.
    """

    name: str
    kind: str
    role: Role
    ms: float


class Session(Protocol):
    """A loaded network."""

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``."""


class Backend(Protocol):
    """One runtime."""

    name: ClassVar[str]

    def missing(self) -> str | None:
        """One sentence with the pip line when the runtime is not installed here; None when it is."""

    def build(self, exported: Exported, target: Target, out: Path, progress: Progress) -> Engine:
        """Makes an engine or a device bundle from a graph, writing every file below the empty folder ``out``.

        Raises:
            BackendUnavailable: The runtime is needed to build and is missing.
            StageError: The runtime refused the graph; the message carries its own words.
        """

    def session(
        self, engine: Engine, target: Target, model: File | None = None, threads: int | None = None
    ) -> AbstractContextManager[Session]:
        """Opens the engine, or another graph of the same run (its float twin) on the same runtime.

        Where the device is not here, this simulates it on the host and the engine says ``runs_here=False``.
        """

    def integer_kernels(self, engine: Engine, target: Target) -> KernelCounts:
        """Counts what runs in integers, asked of the runtime itself where it can tell."""


@runtime_checkable
class Concurrent(Protocol):
    """A backend with sessions that may run at the same time, each on one thread.

    One thread answers an image with the same bits on any number of cores, and many small images are faster side by
    side than one after the other with their layers split over threads.
    """

    def concurrent(self, engine: Engine) -> bool:
        """Whether sessions of this engine may run at the same time; on a GPU they would wait for each other."""


@runtime_checkable
class Profiled(Protocol):
    """A backend whose runtime tells what each kernel takes."""

    def layer_times(
        self, engine: Engine, target: Target, image: NDArray[np.float32], *, threads: int, calls: int
    ) -> tuple[LayerTime, ...]:
        """Kernels of the engine on one image ``[1,C,H,W]``, the slowest first."""


@runtime_checkable
class NarrowFloats(Protocol):
    """A backend that can compute a float graph in 16 bits where the processor has kernels for them."""

    def narrow_floats(self) -> tuple[NarrowFloat, ...]:
        """Types it has kernels for on this processor."""

    def narrow_session(
        self, engine: Engine, model: File, precision: NarrowFloat, threads: int
    ) -> AbstractContextManager[Session]:
        """Opens a float graph in one of them."""


class Shown(Protocol):
    """A loaded network that shows tensors of its graph."""

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], Mapping[str, NDArray[np.generic]]]:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``, and the tensors by name."""


@runtime_checkable
class ShowsTensors(Protocol):
    """A backend whose runtime can show tensors inside a graph."""

    def showing(
        self, engine: Engine, tensors: Sequence[str], threads: int | None = None
    ) -> AbstractContextManager[Shown]:
        """Opens the graph an engine was made of with some of its tensors as outputs besides.

        A runtime may then compute on other kernels than without them: what is shown has to be stored, so nothing can be
        fused across it.
        """
