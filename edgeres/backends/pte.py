"""``.pte`` files in ExecuTorch's own runtime, whose wheel has XNNPACK and its event tracer linked in."""

from __future__ import annotations

import os
import re
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeres.backends.etdump import read_etdump
from edgeres.backends.loading import load
from edgeres.backends.session import in_batches
from edgeres.backends.xnnpack import PIP, TITLE, without_chatter
from edgeres.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edgeres.backends.etdump import Event

_CHATTER = re.compile(rb"\[(cpuinfo_utils|threadpool)\.cpp:\d+\]")
"""Lines about files that phones have and this host has not, and about the number of threads that was asked for."""


class PteSession:
    """A network in ExecuTorch, one image at a time."""

    def __init__(self, data: bytes, *, traced: bool = False) -> None:
        runtime = _runtime()
        # The program must outlive its method, and its bytes the program; neither holds the other.
        self._data, self._program = data, runtime.Runtime.get().load_program(data, enable_etdump=traced)
        self._method = self._program.load_method("forward")

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``."""
        return in_batches(self._one, images, 1)

    def _one(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        (logits,) = self._method.execute([torch.from_numpy(np.array(image, dtype=np.float32, order="C"))])
        return np.array(logits.numpy())

    def trace(self) -> tuple[tuple[Event, ...], ...]:
        """The kernels of each call so far; of a session that is traced."""
        with TemporaryDirectory() as folder:
            file = Path(folder, "run.etdp")
            self._program.write_etdump_result_to_file(str(file), str(Path(folder, "tensors.bin")))
            return read_etdump(file.read_bytes())

    def close(self) -> None:
        """Gives memory and threads back."""
        del self._method, self._program, self._data


@contextmanager
def open_pte(data: bytes, threads: int | None = None, *, traced: bool = False) -> Iterator[PteSession]:
    """Loads a ``.pte`` file.

    Args:
        data: The file. It is data for an interpreter with fixed kernels: loading it executes nothing of it.
        threads: Threads of ExecuTorch's one pool; None takes as many as it wants.
        traced: Keep a record of every kernel.

    Raises:
        BackendUnavailable: ExecuTorch is not installed.
        StageError: ExecuTorch refused the file, in its own words, or another session holds another number of threads.
    """
    with _pool().held(threads):
        with _native_log() as log:
            try:
                session = PteSession(data, traced=traced)
            except (RuntimeError, ValueError) as refusal:
                told = "; ".join(line.strip() for line in log())
                raise StageError(f"ExecuTorch refused the file: {refusal} {told}".strip(), "build again") from refusal
        try:
            yield session
        finally:
            session.close()


class _Pool:
    """ExecuTorch's thread pool, one a process. What is loaded points at it: only an idle one may be exchanged."""

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
            with _native_log():
                self._binding._unsafe_reset_threadpool(wanted)
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1


@cache
def _pool() -> _Pool:
    _runtime()
    with _native_log():
        return _Pool()


def _runtime() -> Any:
    with without_chatter():
        return load("executorch.runtime", TITLE, PIP)


@contextmanager
def _native_log() -> Iterator[Any]:
    """Keeps what ExecuTorch logs, which it does to the file descriptor alone; yields a function that reads it.

    Its chatter is dropped; every other line comes out on stderr at the end, but for those that were read.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with TemporaryFile() as kept:

        def lines() -> list[str]:
            kept.seek(0)
            found = [line.decode(errors="replace") for line in kept if not _CHATTER.match(line)]
            kept.truncate(0)
            return found

        os.dup2(kept.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            os.write(2, "".join(lines()).encode())
