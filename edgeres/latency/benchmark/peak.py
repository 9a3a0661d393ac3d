"""Peak multiply-adds per second of the processor, on as many threads as a network gets.

It is measured by x86-64 machine code of a register-only multiply-add loop: a host may have no compiler, and no
library's matrix product reaches the peak. The loop is a few hundred bytes: every accumulator starts at zero, and no
memory is read or written (Intel SDM volume 2, sections 2.3 and 2.7: VEX and EVEX encoding).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Barrier, Thread
from time import perf_counter_ns
from typing import TYPE_CHECKING, Literal

from edgeres.errors import StageError
from edgeres.targets.host import cpu_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Code = Callable[[int], object]
    """Machine code as a function of the number of iterations."""

Unit = Literal["int8", "float32"]

_TURN_S = 0.001
"""Seconds of one call: shorter than a scheduler time slice, long enough for the start not to count."""
_CALIBRATING = 20_000
"""Iterations of the calibration run, from which those of a call of ``_TURN_S`` follow."""

_INSTRUCTIONS: dict[Unit, tuple[int, int]] = {"int8": (0x50, 4), "float32": (0xB8, 1)}
"""Opcode and multiply-adds per 32-bit lane of VPDPBUSD and of VFMADD231PS."""
_ZERO_LOW, _ZERO_UPPER = b"\xc5\xfc\x77", b"\xc5\xf8\x77"  # vzeroall, vzeroupper
_MAP_0F, _MAP_0F38 = 1, 2
_PXOR = 0xEF


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop over independent accumulators: a System V function of the iterations, with ``macs`` multiply-adds each."""

    code: bytes
    macs: int


def loop(unit: Unit, flags: frozenset[str]) -> Loop | None:
    """The widest multiply-add loop of a processor with these ``/proc/cpuinfo`` flags; None where it supports none.

    ``int8`` is VPDPBUSD, ``float32`` the fused multiply-add.
    """
    wide, narrow = ("avx512_vnni", "avx_vnni") if unit == "int8" else ("avx512f", "fma")
    opcode, per_lane = _INSTRUCTIONS[unit]
    if {wide, "avx512f"} <= flags:
        # 24 accumulators cover the latency of two pipes; 30 and 31 are multiplied.
        clear = _ZERO_LOW + b"".join(_evex(_MAP_0F, _PXOR, register, register, register) for register in range(16, 32))
        body = b"".join(_evex(_MAP_0F38, opcode, register, 30, 31) for register in range(24))
        return Loop(clear + _repeated(body), 24 * 16 * per_lane)
    if {narrow, "avx2"} <= flags:
        body = b"".join(_vex(opcode, register, 14, 15) for register in range(14))
        return Loop(_ZERO_LOW + _repeated(body), 14 * 8 * per_lane)
    return None


def _repeated(body: bytes) -> bytes:
    """``do body while (--rdi)``, then a return."""
    count = b"\x48\xff\xcf"  # dec rdi
    length = len(body) + len(count) + 6
    return body + count + b"\x0f\x85" + (-length).to_bytes(4, "little", signed=True) + _ZERO_UPPER + b"\xc3"


def _evex(space: int, opcode: int, into: int, first: int, second: int) -> bytes:
    """An instruction on registers zmm0 to zmm31, prefix 66, W0, no mask."""

    def clear(register: int, bit: int) -> int:
        return ~register >> bit & 1

    p0 = clear(into, 3) << 7 | clear(second, 4) << 6 | clear(second, 3) << 5 | clear(into, 4) << 4 | space
    p1 = (~first & 15) << 3 | 0b101
    p2 = 0b10 << 5 | clear(first, 4) << 3
    return bytes((0x62, p0, p1, p2, opcode, 0xC0 | (into & 7) << 3 | second & 7))


def _vex(opcode: int, into: int, first: int, second: int) -> bytes:
    """An instruction of map 0F38 on registers ymm0 to ymm15, prefix 66, W0."""
    p0 = (~into >> 3 & 1) << 7 | 1 << 6 | (~second >> 3 & 1) << 5 | _MAP_0F38
    p1 = (~first & 15) << 3 | 0b101
    return bytes((0xC4, p0, p1, opcode, 0xC0 | (into & 7) << 3 | second & 7))


@contextmanager
def peak_of(unit: Unit, cores: Sequence[int]) -> Iterator[Callable[[], float]]:
    """A function that measures once: multiply-adds per second of all threads together, one on each of ``cores``.

    Raises:
        StageError: The processor has no such instruction, or the system maps no executable memory.
    """
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise StageError(f"no peak is measured on {platform.system()} {platform.machine()}", "use Linux on x86-64")
    widest = loop(unit, cpu_flags())
    if widest is None:
        raise StageError(f"this processor has no {unit} multiply-add that edgeres measures", "")
    with _mapped(widest.code) as run:
        quickest = min(_ns(run, _CALIBRATING) for _ in range(5))
        turns = max(_CALIBRATING, round(_CALIBRATING * _TURN_S * 1e9 / quickest))
        yield lambda: sum(turns * widest.macs * 1e9 / ns for ns in _at_once(run, turns, cores))


@contextmanager
def _mapped(code: bytes) -> Iterator[Code]:
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


def _ns(run: Code, turns: int) -> int:
    begin = perf_counter_ns()
    run(turns)
    return perf_counter_ns() - begin


def _at_once(run: Code, turns: int, cores: Sequence[int]) -> list[int]:
    """Nanoseconds of each thread, all started together; ctypes releases the GIL during the call."""
    barrier, durations = Barrier(len(cores)), [0] * len(cores)

    def work(index: int) -> None:
        os.sched_setaffinity(0, {cores[index]})
        barrier.wait()
        durations[index] = _ns(run, turns)

    threads = [Thread(target=work, args=(index,)) for index in range(len(cores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return durations
