"""A child process with what it took: its own peak memory, also where the system had to end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from benchmarks.command import CHECKOUT
from edgeres.errors import EdgeresError

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOOK = 0.02
"""Seconds between two looks at a child's memory."""


@dataclass(frozen=True, slots=True)
class Child:
    """A child that has ended.

    Attributes:
        code: Exit code; negative is the signal that ended it.
        seconds: Wall time from start to end, imports included.
        peak_mib: Most resident memory, in MiB.
        output: Standard output.
        errors: Standard error.
        starved: Whether memory ended it: the limit, or the system's own killer.
    """

    code: int
    seconds: float
    peak_mib: float
    output: str
    errors: str
    starved: bool

    def checked(self, what: str, *accepted: int) -> Child:
        """Itself, if it ended as it should.

        Args:
            what: What it did, for the message.
            accepted: Exit codes beside 0 that are fine.

        Raises:
            EdgeresError: It did not.
        """
        if self.code in (0, *accepted):
            return self
        last = (self.errors.strip().splitlines() or [f"exit code {self.code}"])[-1]
        raise EdgeresError(f"{what} failed: {'it ran out of memory' if self.starved else last}")


def python(module: str, arguments: Sequence[str], limit_mib: float | None = None) -> Child:
    """Runs ``python -m module`` from the checkout, and waits for it.

    The peak is what wait4(2) says about the child alone. A child's account begins with the memory of the process that
    starts it, so whoever calls this keeps itself small.

    Args:
        module: Name of the module.
        arguments: Its command line.
        limit_mib: The child is ended once it holds more than this.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdout=output, stderr=errors, cwd=CHECKOUT
        )
        try:
            over, status, peak = _watch(process.pid, limit_mib)
        except BaseException:
            process.kill()
            raise
        seconds = time.monotonic() - start
        process.returncode = code = os.waitstatus_to_exitcode(status)
        said, complained = (_text(stream) for stream in (output, errors))
    return Child(code, seconds, peak, said, complained, starved=over or code == -signal.SIGKILL)


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")


def _watch(pid: int, limit_mib: float | None) -> tuple[bool, int, float]:
    """Waits; whether the child went over the limit, its wait status, and its peak memory in MiB."""
    over = False
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            unit = 2**20 if sys.platform == "darwin" else 2**10
            return over, status, usage.ru_maxrss / unit
        if limit_mib is not None and not over and _resident_mib(pid) > limit_mib:
            os.kill(pid, signal.SIGKILL)
            over = True
        time.sleep(_LOOK)


def _resident_mib(pid: int) -> float:
    """Memory a process holds now; 0 where the kernel does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def available_mib(meminfo: Path = Path("/proc/meminfo")) -> float | None:
    """Memory that can be had without swapping, None where the kernel does not tell."""
    if not meminfo.is_file():
        return None
    for line in meminfo.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) / 2**10
    return None
