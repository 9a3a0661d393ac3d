"""Workers of a benchmark: processes that have their network loaded; one runs, the others are stopped by SIGSTOP.

A stopped process has no spinning threads, whatever its runtime does between two calls. Idle thread pools of other
runtimes would otherwise take processor time from the one that is timed. A worker gets one ``WorkerSpec`` and then
``WorkerRequest`` after ``WorkerRequest``, one line of JSON each; ``worker_process`` is its side.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from edgeres.artifacts.artifact import Engine
from edgeres.errors import StageError
from edgeres.settings import canonical, plain, settings
from edgeres.targets.target import Target

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

Precision = Literal["float32", "bfloat16", "float16", "int8"]
TORCH = "torch"
"""Name of the PyTorch eager runtime, which has no backend."""

_OPEN_S, _REQUEST_S = 600.0, 300.0
"""Timeouts in seconds: of loading and compiling a network, and of a burst."""


@settings
class Variant:
    """A network in one precision on one runtime, a backend's name or ``torch``.

    In ``int8`` the engine runs, in any other precision the float reference of its export.
    """

    runtime: str
    precision: Precision
    target: Target
    engine: Engine

    @property
    def name(self) -> str:
        """``int8 on openvino``."""
        return f"{self.precision} on {self.runtime}"


@settings
class WorkerSpec:
    """What one worker runs: a variant, or without one the measurement of the processor's peak in a precision.

    ``cores`` are the processor ids it may use, one for each thread.
    """

    variant: Variant | None = None
    peak: Literal["int8", "float32"] = "int8"
    cores: tuple[int, ...]


@settings
class WorkerRequest:
    """A burst of ``calls`` to be timed after ``warmup`` calls; with ``layers`` the kernels are profiled instead."""

    calls: Annotated[int, Field(gt=0)]
    warmup: Annotated[int, Field(ge=0)] = 0
    layers: bool = False


class Worker:
    """A process that serves one ``WorkerSpec``; it runs only while it answers a request.

    Raises:
        StageError: The runtime refused the network, with its own message, or the process ended.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        # A session of its own: Ctrl-C reaches the parent alone, which then ends its workers.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgeres.latency.benchmark.worker_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={"GOMP_SPINCOUNT": "1000", **os.environ},  # as the command line has it
            start_new_session=True,
        )
        self._received = b""
        try:
            self._answer(spec, _OPEN_S)
        except BaseException:
            self.close()
            raise

    def ask(self, request: WorkerRequest) -> Any:
        """Continues the worker until it has answered, then stops it again.

        Raises:
            StageError: The worker refused, ended, or did not answer in time.
        """
        self._process.send_signal(signal.SIGCONT)
        return self._answer(request, _REQUEST_S)

    def close(self) -> None:
        """Kills the process, running or stopped."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._complaints):
            if stream is not None:
                stream.close()

    def _answer(self, message: WorkerSpec | WorkerRequest, limit_s: float) -> Any:
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), canonical(plain(message)).encode() + b"\n")
        except BrokenPipeError as failure:
            raise StageError(self._last_words(), "") from failure
        answer: dict[str, Any] = json.loads(self._line(limit_s))
        if "refused" in answer:
            raise StageError(str(answer["refused"]), str(answer["hint"]))
        self._process.send_signal(signal.SIGSTOP)
        return answer

    def _line(self, limit_s: float) -> bytes:
        """The next line of the worker's output."""
        assert self._process.stdout is not None
        stream, until = self._process.stdout.fileno(), time.monotonic() + limit_s
        while b"\n" not in self._received:
            if not select.select([stream], [], [], max(0.0, until - time.monotonic()))[0]:
                raise StageError(f"a runtime did not answer for {limit_s:.0f} s", "leave it out of --runtimes")
            part = os.read(stream, 1 << 16)
            if not part:
                raise StageError(self._last_words(), "leave that runtime out of --runtimes")
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _last_words(self) -> str:
        code = self._process.wait()
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return f"a worker ended with {code}" + (f": {lines[-1]}" if lines else "")


def start_worker(spec: WorkerSpec) -> AbstractContextManager[Worker]:
    """Starts a worker process, which ends with the context."""
    return closing(Worker(spec))
