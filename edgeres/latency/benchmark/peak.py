"""Peak multiply-adds per second of the processor, on as many threads as a network gets."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import sys
from contextlib import contextmanager
from threading import Barrier, Thread
from time import perf_counter_ns
from typing import TYPE_CHECKING

from edgeres.errors import StageError
from edgeres.latency.benchmark.instructions import loop
from edgeres.targets.isa import cpu_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edgeres.latency.benchmark.instructions import Unit

    Loops = Callable[[int], object]
    """Machine code as a function of the number of iterations."""

_TURN_S = 0.001
"""Seconds of one call: shorter than a scheduler time slice, long enough for the start not to count."""
_CALIBRATING = 20_000
"""Iterations of the calibration run, from which those of a call of ``_TURN_S`` follow."""


@contextmanager
def peak_of(unit: Unit, cores: Sequence[int]) -> Iterator[Callable[[], float]]:
    """A function that measures once: multiply-adds per second of all threads together.

    Args:
        unit: ``int8`` or ``float32`` multiply-adds.
        cores: Processor ids, one for each thread.

    Raises:
        StageError: The processor has no such instruction, or the system maps no executable memory.
    """
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise StageError(f"no peak is measured on {platform.system()} {platform.machine()}", "use Linux on x86-64")
    found = loop(unit, cpu_flags())
    if found is None:
        raise StageError(f"this processor has no {unit} multiply-add that edgeres measures", "")
    with _mapped(found.code) as run:
        quickest = min(_ns(run, _CALIBRATING) for _ in range(5))
        turns = max(_CALIBRATING, round(_CALIBRATING * _TURN_S * 1e9 / quickest))
        yield lambda: sum(turns * found.macs * 1e9 / ns for ns in _at_once(run, turns, cores))


@contextmanager
def _mapped(code: bytes) -> Iterator[Loops]:
    """Maps machine code: writable first, executable afterwards, never both."""
    libc = ctypes.CDLL(None, use_errno=True)
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    try:
        memory.write(code)
        held = ctypes.c_char.from_buffer(memory)
        address = ctypes.addressof(held)
        size = ctypes.c_size_t(mmap.PAGESIZE)
        if libc.mprotect(ctypes.c_void_p(address), size, mmap.PROT_READ | mmap.PROT_EXEC):
            reason = os.strerror(ctypes.get_errno())
            raise StageError(f"this system makes no memory executable ({reason}), so its peak is unmeasured", "")
        yield ctypes.CFUNCTYPE(None, ctypes.c_uint64)(address)
        libc.mprotect(ctypes.c_void_p(address), size, mmap.PROT_READ | mmap.PROT_WRITE)
        del held
    finally:
        memory.close()


def _ns(run: Loops, turns: int) -> int:
    begin = perf_counter_ns()
    run(turns)
    return perf_counter_ns() - begin


def _at_once(run: Loops, turns: int, cores: Sequence[int]) -> list[int]:
    """Nanoseconds of each thread, all started together; ctypes releases the GIL during the call."""
    barrier, taken = Barrier(len(cores)), [0] * len(cores)

    def work(index: int) -> None:
        os.sched_setaffinity(0, {cores[index]})
        barrier.wait()
        taken[index] = _ns(run, turns)

    threads = [Thread(target=work, args=(index,)) for index in range(len(cores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken
