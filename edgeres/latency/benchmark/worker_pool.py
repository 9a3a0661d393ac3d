"""Worker processes of a benchmark: all have their network loaded, one runs, the others are stopped by SIGSTOP.

A stopped process has no spinning threads, whatever its runtime does between two calls. Idle thread pools of other
runtimes would otherwise take processor time from the one that is timed.
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
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgeres.errors import StageError
from edgeres.settings import canonical, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeres.latency.benchmark.worker_spec import WorkerRequest, WorkerSpec

_OPEN_S, _REQUEST_S = 600.0, 300.0
"""Timeouts in seconds: of loading and compiling a network, and of a burst."""


class Worker:
    """A process that serves one ``WorkerSpec``; it runs only while it answers a request.

    Args:
        spec: The variant it opens, or the peak it measures.

    Raises:
        StageError: The runtime refused the network, with its own message, or the process ended.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        # A session of its own: Ctrl-C reaches the parent alone, which then ends its workers.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgeres.latency.benchmark.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={"GOMP_SPINCOUNT": "1000", **os.environ},  # as the command line has it
            start_new_session=True,
        )
        self._heard = b""
        try:
            self._asked(plain(spec), _OPEN_S)
        except BaseException:
            self.close()
            raise

    def ask(self, request: WorkerRequest) -> Any:
        """Continues the worker until it has answered, then stops it again.

        Raises:
            StageError: The worker refused, ended, or did not answer in time.
        """
        self._process.send_signal(signal.SIGCONT)
        return self._asked(plain(request), _REQUEST_S)

    def close(self) -> None:
        """Kills the process, running or stopped."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._complaints):
            if stream is not None:
                stream.close()

    def _asked(self, what: Any, limit_s: float) -> Any:
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), canonical(what).encode() + b"\n")
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
        while b"\n" not in self._heard:
            if not select.select([stream], [], [], max(0.0, until - time.monotonic()))[0]:
                raise StageError(f"a runtime did not answer for {limit_s:.0f} s", "leave it out of --runtimes")
            part = os.read(stream, 1 << 16)
            if not part:
                raise StageError(self._last_words(), "leave that runtime out of --runtimes")
            self._heard += part
        line, _, self._heard = self._heard.partition(b"\n")
        return line

    def _last_words(self) -> str:
        code = self._process.wait()
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return f"a worker ended with {code}" + (f": {lines[-1]}" if lines else "")


@contextmanager
def start_worker(spec: WorkerSpec) -> Iterator[Worker]:
    """Starts a worker process and ends it at exit."""
    worker = Worker(spec)
    try:
        yield worker
    finally:
        worker.close()
