"""Sessions of ``.pte`` files in ExecuTorch's runtime, whose wheel includes XNNPACK, and its record of kernels.

The record, ETDump, is the size-prefixed FlatBuffers schema executorch/devtools/etdump/etdump_schema_flatcc.fbs; fields
are numbered in its order. ExecuTorch's own reader needs pandas and a schema compiler, for four fields.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeres.backends.session import FLATBUFFERS, BatchedSession, Package
from edgeres.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

PACKAGE = Package("executorch", "ExecuTorch", "'edgeres[executorch]'")
_CHATTER = re.compile(r"\[(cpuinfo_utils|threadpool)\.cpp:\d+\]")
"""Log lines about files that only phones have, and about the requested number of threads."""
# Offsets of fields in a vtable, 4 + 2 times their number: of ETDump, RunData and Event, and of ProfileEvent.
_RUNS, _EVENTS, _PROFILE = 6, 10, 4
_NAME, _DELEGATE_NAME, _START, _END = 4, 12, 16, 18
_PREFIX = 4  # bytes of the size prefix
_FRAMES = re.compile(r"(DELEGATE_CALL|OPERATOR_CALL|Method::.*|Program::.*|Execute|Default)")
"""Events that enclose kernels."""


class Event(NamedTuple):
    """One executed kernel.

    Attributes:
        name: XNNPACK's name with its number, such as ``Convolution (NHWC, QC8) IGEMM #3``, or ``native_call_`` and the
            name of a portable operator.
        ticks: Duration in units of the platform's clock: nanoseconds on Linux.
    """

    name: str
    ticks: int


class PteSession(BatchedSession):
    """A network in ExecuTorch, one image at a time; ``traced`` records its kernels."""

    def __init__(self, content: bytes, *, traced: bool = False) -> None:
        # The program must outlive its method, and its bytes the program; neither keeps the other alive.
        self._data, self._program = content, _runtime().Runtime.get().load_program(content, enable_etdump=traced)
        self._method = self._program.load_method("forward")
        super().__init__(self._execute, 1)

    def _execute(self, image: NDArray[np.float32]) -> list[NDArray[Any]]:
        import torch

        try:
            tensors = self._method.execute([torch.from_numpy(np.array(image, dtype=np.float32, order="C"))])
        except RuntimeError as refusal:
            shape = "x".join(map(str, image.shape))
            raise StageError(
                f"ExecuTorch refused an image of {shape}: {refusal}", "give the size it was built for"
            ) from refusal
        return [np.array(tensor.numpy()) for tensor in tensors]

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
def open_pte(content: bytes, threads: int | None = None, *, traced: bool = False) -> Iterator[PteSession]:
    """Loads a ``.pte`` file, which is data for an interpreter with fixed kernels: nothing of it is executed.

    ``threads`` is the size of ExecuTorch's one pool, None its default.

    Raises:
        BackendUnavailable: ExecuTorch is not installed.
        StageError: ExecuTorch rejected the file, or another session has another number of threads.
    """
    with _pool().held(threads):
        with _log() as log:
            try:
                session = PteSession(content, traced=traced)
            except (RuntimeError, ValueError) as refusal:
                reasons = "; ".join([str(refusal), *log()])
                raise StageError(f"ExecuTorch refused the file: {reasons}", "build again") from refusal
        try:
            yield session
        finally:
            session.close()


class _Pool:
    """ExecuTorch's thread pool, one per process. Loaded programs refer to it, so only an idle one may be replaced."""

    def __init__(self) -> None:
        self._binding = PACKAGE.load("extension.pybindings.portable_lib")
        self._default = int(self._binding._threadpool_get_thread_count())
        self._users = 0

    @contextmanager
    def held(self, threads: int | None) -> Iterator[None]:
        wanted = self._default if threads is None else threads
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
        return PACKAGE.load("runtime")


@contextmanager
def without_chatter() -> Iterator[None]:
    """Silences warnings of torchao, torch and ExecuTorch while they are imported and while they lower a graph.

    The warnings concern optional GPU libraries and deprecated calls among themselves. The partitioner's module also
    adds a handler to the root logger, which is removed.
    """
    root = logging.getLogger()
    handlers, disabled = list(root.handlers), root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers


@contextmanager
def _log() -> Iterator[Callable[[], list[str]]]:
    """Captures ExecuTorch's log, which its binding writes to ``sys.stderr``; yields a function that returns the lines.

    Known noise is dropped; remaining lines are written at the end.
    """
    captured = StringIO()

    def lines() -> list[str]:
        text = captured.getvalue()
        captured.seek(0)
        captured.truncate()
        return [line for line in text.splitlines() if not _CHATTER.match(line)]

    try:
        with redirect_stderr(captured):
            yield lines
    finally:
        sys.stderr.writelines(f"{line}\n" for line in lines())


def read_etdump(data: bytes) -> tuple[tuple[Event, ...], ...]:
    """Kernels of every run that had any, in order of execution."""
    flatbuffers = FLATBUFFERS.load()
    if len(data) <= _PREFIX:
        return ()
    root = flatbuffers.table.Table(data, _PREFIX + flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, _PREFIX))
    runs = (tuple(_kernels(flatbuffers, run)) for run in _tables(flatbuffers, root, _RUNS))
    return tuple(run for run in runs if run)


def _kernels(flatbuffers: Any, run: Any) -> Iterator[Event]:
    for event in _tables(flatbuffers, run, _EVENTS):
        at = event.Offset(_PROFILE)
        if at:
            profile = flatbuffers.table.Table(event.Bytes, event.Indirect(event.Pos + at))
            named = profile.Offset(_DELEGATE_NAME) or profile.Offset(_NAME)
            name = profile.String(profile.Pos + named).decode() if named else ""
            began, ended = (profile.GetSlot(at, 0, flatbuffers.number_types.Uint64Flags) for at in (_START, _END))
            if name and not _FRAMES.fullmatch(name):
                yield Event(name, ended - began)


def _tables(flatbuffers: Any, table: Any, field: int) -> Iterator[Any]:
    """Tables of a vector; empty where the field is absent."""
    at = table.Offset(field)
    if at:
        first = table.Vector(at)
        for index in range(table.VectorLen(at)):
            yield flatbuffers.table.Table(table.Bytes, table.Indirect(first + 4 * index))
