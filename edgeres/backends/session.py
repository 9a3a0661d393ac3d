"""``Package`` and ``Session``: a runtime's Python package, and a network loaded in it; sessions of ONNX Runtime.

ONNX Runtime also simulates other devices.
"""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from edgeres.errors import BackendUnavailable, StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

    Images = NDArray[np.float32]
    Logits = NDArray[np.float32]
    Outputs = Callable[[Images], Sequence[NDArray[Any]]]
    """All outputs of a graph for one batch of its size, the logits first."""


class Package(NamedTuple):
    """The Python package of a runtime: its module, its display name, and the argument of ``pip install``."""

    module: str
    title: str
    pip: str

    def missing(self) -> str | None:
        """Why it is not available, with the pip command, without importing it; None when it is installed."""
        return None if find_spec(self.module) is not None else f"{self.title} is not installed: pip install {self.pip}"

    def load(self, submodule: str = "") -> ModuleType:
        """Imports it, or one of its submodules.

        Raises:
            BackendUnavailable: It is not installed, or its libraries do not load; the message quotes the loader.
        """
        hint = f"pip install {self.pip}"
        if find_spec(self.module) is None:
            raise BackendUnavailable(f"{self.title} is not installed", hint)
        try:
            return importlib.import_module(f"{self.module}.{submodule}" if submodule else self.module)
        except (ImportError, OSError, RuntimeError) as failure:
            raise BackendUnavailable(f"{self.title} is installed but does not load ({failure})", hint) from failure


FLATBUFFERS = Package("flatbuffers", "FlatBuffers", "flatbuffers")
PACKAGE = Package("onnxruntime", "ONNX Runtime", "'onnxruntime>=1.20'")


class Session(Protocol):
    """A loaded network."""

    def run(self, images: Images) -> Logits:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``."""


def in_batches(outputs: Outputs, images: Images, fixed: int | None) -> list[NDArray[Any]]:
    """Every output for images ``[N,C,H,W]``, at the graph's batch size, or in one batch where that is free (None).

    The last batch is filled up with its last image.
    """
    if fixed is None or len(images) == fixed:
        return [np.array(value) for value in outputs(images)]
    parts = []
    for start in range(0, len(images), fixed):
        batch = images[start : start + fixed]
        filled = np.concatenate([batch, np.repeat(batch[-1:], fixed - len(batch), axis=0)])
        parts.append([np.array(value)[: len(batch)] for value in outputs(np.ascontiguousarray(filled))])
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]


class BatchedSession:
    """A session of a function ``outputs`` for batches of ``fixed`` images, None for any number."""

    def __init__(self, outputs: Outputs, fixed: int | None) -> None:
        self.outputs, self._fixed = outputs, fixed

    def run(self, images: Images) -> Logits:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``."""
        return in_batches(self.outputs, images, self._fixed)[0].astype(np.float32, copy=False)


class ShownSession:
    """A session whose ``outputs`` are some tensors, by name, besides the logits."""

    def __init__(self, outputs: Outputs, tensors: Sequence[str], fixed: int | None) -> None:
        self._outputs, self._tensors, self._fixed = outputs, tuple(tensors), fixed

    def run(self, images: Images) -> tuple[Logits, dict[str, NDArray[np.generic]]]:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``, and the tensors by name."""
        logits, *shown = in_batches(self._outputs, images, self._fixed)
        return logits.astype(np.float32), dict(zip(self._tensors, shown, strict=True))


def options(*, optimise: bool, threads: int | None = None) -> Any:
    """ONNX Runtime session options; ``threads`` None takes the runtime's default.

    ``optimise`` fuses Q/DQ into integer kernels. Without it every node runs as written, in float between its Q/DQ
    pairs: an exact simulation of the scales, independent of kernels.
    """
    PACKAGE.load()
    from edgeres.onnx_graph.execute import session_options

    settings = session_options("all" if optimise else "none")
    settings.log_severity_level = 3  # errors only: warnings about initializers are for whoever wrote the graph
    if threads is not None:
        settings.intra_op_num_threads = threads
    return settings


def load_graph(path: Path, settings: Any, disabled: tuple[str, ...] = (), content: bytes | None = None) -> Any:
    """An ``onnxruntime.InferenceSession`` of a ``.onnx`` or ``.ort`` file on the CPU.

    ``disabled`` names the graph rewrites to leave out; ``content`` replaces that of the file.

    Raises:
        StageError: ONNX Runtime rejected the graph; the message quotes it.
    """
    runtime = PACKAGE.load()
    try:
        return runtime.InferenceSession(
            content or str(path), settings, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
        )
    except Exception as refusal:  # its exception classes are private and have no common base below Exception
        raise StageError(f"ONNX Runtime refused {path.name}: {refusal}", "see the node it names") from refusal


@contextmanager
def onnx_session(path: Path, *, optimise: bool, threads: int | None = None) -> Iterator[BatchedSession]:
    """Opens a ``.onnx`` or ``.ort`` file in ONNX Runtime, whose first output is the logits; see ``options``."""
    session = load_graph(path, options(optimise=optimise, threads=threads))
    yield BatchedSession(*_outputs(session, session.get_outputs()[0].name))


@contextmanager
def showing_session(
    path: Path, tensors: Sequence[str], *, optimise: bool, threads: int | None = None
) -> Iterator[ShownSession]:
    """Opens a ``.onnx`` file in ONNX Runtime with some of its tensors as additional outputs; see ``options``.

    Raises:
        StageError: ONNX Runtime rejected the graph; the message quotes it.
    """
    import onnx

    model = onnx.load(str(path))
    (logits,) = (value.name for value in model.graph.output)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    settings = options(optimise=optimise, threads=threads)
    outputs, fixed = _outputs(load_graph(path, settings, content=model.SerializeToString()), logits, *tensors)
    yield ShownSession(outputs, tensors, fixed)


def _outputs(session: Any, *names: str) -> tuple[Outputs, int | None]:
    """Some outputs of a loaded graph, and its batch size; None where that is free."""
    image = session.get_inputs()[0]
    fixed = image.shape[0] if isinstance(image.shape[0], int) else None
    return lambda batch: session.run(names, {image.name: batch}), fixed
