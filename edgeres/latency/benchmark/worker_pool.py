"""Workers that take turns: all of them loaded, one of them running, the others stopped by the kernel.

A stopped process (SIGSTOP) has no spinning threads, whatever its runtime does between two calls. Idle pools of several
runtimes would otherwise take the cores from the one that is timed.
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

_OPEN_S, _ORDER_S = 600.0, 300.0
"""Seconds after which a runtime that says nothing is given up: while it compiles a network, and in a burst."""


class Worker:
    """A process that serves one job; it runs only while it answers.

    Args:
        job: What it opens.

    Raises:
        StageError: The runtime refused the network, in its own words, or the process ended.
    """

    def __init__(self, job: WorkerSpec) -> None:
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
            self._asked(plain(job), _OPEN_S)
        except BaseException:
            self.close()
            raise

    def ask(self, order: WorkerRequest) -> Any:
        """Lets the worker run until it has answered.

        Raises:
            StageError: It refused, ended, or said nothing in time.
        """
        self._process.send_signal(signal.SIGCONT)
        return self._asked(plain(order), _ORDER_S)

    def close(self) -> None:
        """Ends the process, which works on a stopped one too."""
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
            raise StageError(str(answer["refused"]), str(answer["way_out"]))
        self._process.send_signal(signal.SIGSTOP)
        return answer

    def _line(self, limit_s: float) -> bytes:
        """The next line the worker says."""
        assert self._process.stdout is not None
        stream, until = self._process.stdout.fileno(), time.monotonic() + limit_s
        while b"\n" not in self._heard:
            if not select.select([stream], [], [], max(0.0, until - time.monotonic()))[0]:
                raise StageError(f"a runtime said nothing for {limit_s:.0f} s", "leave it out of --runtimes")
            part = os.read(stream, 1 << 16)
            if not part:
                raise StageError(self._last_words(), "leave that runtime out of --runtimes")
            self._heard += part
        line, _, self._heard = self._heard.partition(b"\n")
        return line

    def _last_words(self) -> str:
        code = self._process.wait()
        self._complaints.seek(0)
        said = self._complaints.read().decode(errors="replace").strip().splitlines()
        return f"a worker ended with {code}" + (f": {said[-1]}" if said else "")


@contextmanager
def hired(job: WorkerSpec) -> Iterator[Worker]:
    """A worker that is gone afterwards, whatever happens."""
    worker = Worker(job)
    try:
        yield worker
    finally:
        worker.close()
