"""``Backend``, ``Session`` and the optional capabilities of a backend, as protocols."""

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
    """Time of one executed kernel, from the runtime's profiler.

    Attributes:
        name: The runtime's name of the kernel, which begins with the layer's name in the graph.
        kind: The runtime's name of the operator, and of the kernel where the runtime reports it.
        role: A weighted layer in ``integer`` or in ``float``; a ``reformat`` changes layout or type, which includes
            quantizing and dequantizing; ``other`` is the rest.
        ms: Median over the profiled calls. Profilers slow down execution: compare kernels only with each other.
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
    """Adapter of one runtime."""

    name: ClassVar[str]

    def missing(self) -> str | None:
        """Why the runtime is not available, with the pip command; None when it is installed."""

    def build(self, exported: Exported, target: Target, out: Path, progress: Progress) -> Engine:
        """Builds an engine or a device bundle from a graph; all files are written below the empty folder ``out``.

        Raises:
            BackendUnavailable: The runtime is needed to build and is missing.
            StageError: The runtime rejected the graph; the message quotes it.
        """

    def session(
        self, engine: Engine, target: Target, model: File | None = None, threads: int | None = None
    ) -> AbstractContextManager[Session]:
        """Opens the engine, or another graph of the same run (its float reference), on the same runtime.

        Where the device is not this host, the session simulates it and the engine has ``runs_here=False``.
        """

    def integer_kernels(self, engine: Engine, target: Target) -> KernelCounts:
        """Counts integer kernels, by the runtime itself where it reports them."""


@runtime_checkable
class Concurrent(Protocol):
    """A backend with sessions that may run concurrently, each on one thread.

    A single thread gives the same bits on any number of cores, and many small images are faster in parallel than one
    after the other with their layers split over threads.
    """

    def concurrent(self, engine: Engine) -> bool:
        """Whether sessions of this engine may run concurrently; on a GPU they would wait for each other."""


@runtime_checkable
class Profiled(Protocol):
    """A backend whose runtime reports the time of each kernel."""

    def layer_times(
        self, engine: Engine, target: Target, image: NDArray[np.float32], *, threads: int, calls: int
    ) -> tuple[LayerTime, ...]:
        """Kernels of the engine on one image ``[1,C,H,W]``, the slowest first."""


@runtime_checkable
class NarrowFloats(Protocol):
    """A backend that can compute a float graph in 16 bits where the processor has kernels for them."""

    def narrow_floats(self) -> tuple[NarrowFloat, ...]:
        """16-bit types with kernels on this processor."""

    def narrow_session(
        self, engine: Engine, model: File, precision: NarrowFloat, threads: int
    ) -> AbstractContextManager[Session]:
        """Opens a float graph in a 16-bit type."""


class Shown(Protocol):
    """A session that also returns tensors inside the graph."""

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], Mapping[str, NDArray[np.generic]]]:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``, and the tensors by name."""


@runtime_checkable
class ShowsTensors(Protocol):
    """A backend whose runtime can return tensors inside a graph."""

    def showing(
        self, engine: Engine, tensors: Sequence[str], threads: int | None = None
    ) -> AbstractContextManager[Shown]:
        """Opens the engine's graph with some of its tensors as additional outputs.

        A runtime may use other kernels then: an output has to be stored, so nothing can be fused across it.
        """
