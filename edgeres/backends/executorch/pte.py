"""Sessions of ``.pte`` files in ExecuTorch's runtime, whose wheel includes XNNPACK and its event tracer."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeres.backends.executorch.etdump import read_etdump
from edgeres.backends.executorch.xnnpack import PIP, TITLE, without_chatter
from edgeres.backends.loading import load
from edgeres.backends.session import in_batches
from edgeres.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from edgeres.backends.executorch.etdump import Event

_CHATTER = re.compile(r"\[(cpuinfo_utils|threadpool)\.cpp:\d+\]")
"""Log lines about files that only phones have, and about the requested number of threads."""


class PteSession:
    """A network in ExecuTorch, one image at a time."""

    def __init__(self, data: bytes, *, traced: bool = False) -> None:
        runtime = _runtime()
        # The program must outlive its method, and its bytes the program; neither keeps the other alive.
        self._data, self._program = data, runtime.Runtime.get().load_program(data, enable_etdump=traced)
        self._method = self._program.load_method("forward")

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``."""
        return in_batches(lambda image: self.outputs(image)[0], images, 1)

    def outputs(self, image: NDArray[np.float32]) -> list[NDArray[Any]]:
        """All outputs for one image ``[1,C,H,W]``, the logits first."""
        import torch

        try:
            made = self._method.execute([torch.from_numpy(np.array(image, dtype=np.float32, order="C"))])
        except RuntimeError as refusal:
            shape = "x".join(map(str, image.shape))
            raise StageError(
                f"ExecuTorch refused an image of {shape}: {refusal}", "give the size it was built for"
            ) from refusal
        return [np.array(tensor.numpy()) for tensor in made]

    def trace(self) -> tuple[tuple[Event, ...], ...]:
        """Kernels of each call so far, of a traced session."""
        with TemporaryDirectory() as folder:
            file = Path(folder, "run.etdp")
            self._program.write_etdump_result_to_file(str(file), str(Path(folder, "tensors.bin")))
            return read_etdump(file.read_bytes())

    def close(self) -> None:
        """Frees memory and threads."""
        del self._method, self._program, self._data


@contextmanager
def open_pte(data: bytes, threads: int | None = None, *, traced: bool = False) -> Iterator[PteSession]:
    """Loads a ``.pte`` file.

    Args:
        data: The file. It is data for an interpreter with fixed kernels: loading it executes nothing of it.
        threads: Threads of ExecuTorch's one pool; None takes its default.
        traced: Keep a record of every kernel.

    Raises:
        BackendUnavailable: ExecuTorch is not installed.
        StageError: ExecuTorch rejected the file, or another session has another number of threads.
    """
    with _pool().held(threads):
        with _log() as log:
            try:
                session = PteSession(data, traced=traced)
            except (RuntimeError, ValueError) as refusal:
                told = "; ".join([str(refusal), *log()])
                raise StageError(f"ExecuTorch refused the file: {told}", "build again") from refusal
        try:
            yield session
        finally:
            session.close()


class _Pool:
    """ExecuTorch's thread pool, one per process. Loaded programs refer to it, so only an idle one may be replaced."""

    def __init__(self) -> None:
        self._binding = load("executorch.extension.pybindings.portable_lib", TITLE, PIP)
        self._wanted = int(self._binding._threadpool_get_thread_count())
        self._users = 0

    @contextmanager
    def held(self, threads: int | None) -> Iterator[None]:
        wanted = self._wanted if threads is None else threads
        has = int(self._binding._threadpool_get_thread_count())
        if wanted != has:
            if self._users:
                raise StageError(
                    f"another ExecuTorch session computes on {has} threads, not {wanted}", "close it first"
                )
            with _log():
                self._binding._unsafe_reset_threadpool(wanted)
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1


@cache
def _pool() -> _Pool:
    _runtime()
    with _log():
        return _Pool()


def _runtime() -> Any:
    with without_chatter():
        return load("executorch.runtime", TITLE, PIP)


@contextmanager
def _log() -> Iterator[Callable[[], list[str]]]:
    """Captures ExecuTorch's log, which its binding writes to ``sys.stderr``; yields a function that returns the lines.

    Known noise is dropped; remaining lines are written at the end.
    """
    kept = StringIO()

    def lines() -> list[str]:
        found = [line for line in kept.getvalue().splitlines() if not _CHATTER.match(line)]
        kept.seek(0)
        kept.truncate()
        return found

    try:
        with redirect_stderr(kept):
            yield lines
    finally:
        sys.stderr.writelines(f"{line}\n" for line in lines())
