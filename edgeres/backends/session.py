"""ONNX Runtime sessions: for the runtime itself, and for the simulation of devices other than this host."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeres.backends.loading import load
from edgeres.errors import StageError
from edgeres.onnx_graph.execute import session_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Images = NDArray[np.float32]
    Logits = NDArray[np.float32]

TITLE, PIP = "ONNX Runtime", "'onnxruntime>=1.20'"


def options(*, optimise: bool, threads: int | None = None) -> Any:
    """ONNX Runtime session options.

    Args:
        optimise: Fuse Q/DQ into integer kernels. Without it every node runs as written, in float between its Q/DQ
            pairs: an exact simulation of the scales, independent of kernels.
        threads: Threads within one operator; None takes the runtime's default.
    """
    load("onnxruntime", TITLE, PIP)
    made = session_options("all" if optimise else "none")
    made.log_severity_level = 3  # errors only: warnings about initializers are for whoever wrote the graph
    if threads is not None:
        made.intra_op_num_threads = threads
    return made


def load_graph(path: Path, settings: Any, disabled: tuple[str, ...] = ()) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        path: A ``.onnx`` or ``.ort`` file.
        settings: Session options from ``options``.
        disabled: Graph rewrites to leave out, by ONNX Runtime's names for them.

    Raises:
        StageError: ONNX Runtime rejected the graph; the message quotes it.
    """
    ort = load("onnxruntime", TITLE, PIP)
    try:
        return ort.InferenceSession(
            str(path), settings, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
        )
    except Exception as refusal:  # its exception classes are private and have no common base below Exception
        raise StageError(f"ONNX Runtime refused {path.name}: {refusal}", "see the node it names") from refusal


class OnnxSession:
    """A graph loaded in ONNX Runtime."""

    def __init__(self, session: Any) -> None:
        given = session.get_inputs()[0]
        self._session, self._input = session, given.name
        self._fixed = given.shape[0] if isinstance(given.shape[0], int) else None

    def run(self, images: Images) -> Logits:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``."""
        return in_batches(lambda batch: self._session.run(None, {self._input: batch})[0], images, self._fixed)


@contextmanager
def onnx_session(path: Path, *, optimise: bool, threads: int | None = None) -> Iterator[OnnxSession]:
    """Opens a ``.onnx`` or ``.ort`` file in ONNX Runtime; see ``options`` for the arguments."""
    yield OnnxSession(load_graph(path, options(optimise=optimise, threads=threads)))


def in_batches(run: Callable[[Images], Logits], images: Images, fixed: int | None) -> Logits:
    """Runs images ``[N,C,H,W]`` through a graph whose batch size may be fixed.

    Args:
        run: Logits ``[N,classes]`` of one batch.
        images: One or more images.
        fixed: The graph's batch size, None where it is free. The last batch is filled up with its last image.
    """
    if fixed is None or len(images) == fixed:
        return np.asarray(run(images), dtype=np.float32)
    found = []
    for start in range(0, len(images), fixed):
        batch = images[start : start + fixed]
        filled = np.concatenate([batch, np.repeat(batch[-1:], fixed - len(batch), axis=0)])
        found.append(np.asarray(run(np.ascontiguousarray(filled)), dtype=np.float32)[: len(batch)])
    return np.concatenate(found)


class ShownSession:
    """A session with some tensors as outputs besides the logits.

    Args:
        run: Function from a batch to the logits and each tensor.
        tensors: Their names.
        fixed: The graph's batch size, None where it is free.
    """

    def __init__(self, run: Callable[[Images], Sequence[Any]], tensors: Sequence[str], fixed: int | None) -> None:
        self._run, self._tensors, self._fixed = run, tuple(tensors), fixed

    def run(self, images: Images) -> tuple[Logits, dict[str, NDArray[np.generic]]]:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``, and the tensors by name."""
        size = self._fixed or len(images)
        parts = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
            parts.append([np.array(made)[: len(batch)] for made in self._run(np.ascontiguousarray(filled))])
        logits, *shown = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
        return logits.astype(np.float32), dict(zip(self._tensors, shown, strict=True))


@contextmanager
def showing_session(
    path: Path, tensors: Sequence[str], *, optimise: bool, threads: int | None = None
) -> Iterator[ShownSession]:
    """Opens a ``.onnx`` file in ONNX Runtime with some of its tensors as additional outputs; see ``options``.

    Raises:
        StageError: ONNX Runtime rejected the graph; the message quotes it.
    """
    import onnx

    ort = load("onnxruntime", TITLE, PIP)
    model = onnx.load(str(path))
    (logits,) = (value.name for value in model.graph.output)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options(optimise=optimise, threads=threads), providers=["CPUExecutionProvider"]
        )
    except Exception as refusal:  # its exception classes are private and have no common base below Exception
        raise StageError(f"ONNX Runtime refused {path.name}: {refusal}", "see the node it names") from refusal
    given = session.get_inputs()[0]
    fixed = given.shape[0] if isinstance(given.shape[0], int) else None
    yield ShownSession(lambda batch: session.run([logits, *tensors], {given.name: batch}), tensors, fixed)
