"""What a backend is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from edgeres.artifact import KernelCensus

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.artifact import Engine, Exported, File
    from edgeres.progress import Progress
    from edgeres.target import Target


__all__ = ["Backend", "KernelCensus", "Session"]


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

    def integer_kernels(self, engine: Engine, target: Target) -> KernelCensus:
        """Counts what runs in integers, asked of the runtime itself where it can tell."""
