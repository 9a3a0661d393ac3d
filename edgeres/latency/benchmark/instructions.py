"""x86-64 machine code of a register-only multiply-add loop, with which the processor's peak is measured.

A host may have no compiler, and no library's matrix product reaches the peak. The loop is a few hundred bytes: every
accumulator starts at zero, and no memory is read or written (Intel SDM volume 2, sections 2.3 and 2.7: VEX and EVEX
encoding).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["int8", "float32"]

_OPCODES: dict[Unit, int] = {"int8": 0x50, "float32": 0xB8}  # VPDPBUSD, VFMADD231PS
_LANES: dict[Unit, int] = {"int8": 4, "float32": 1}
_ZERO_LOW, _ZERO_UPPER = b"\xc5\xfc\x77", b"\xc5\xf8\x77"  # vzeroall, vzeroupper
_MAP_0F, _MAP_0F38 = 1, 2
_PXOR = 0xEF


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop over independent accumulators.

    Attributes:
        name: Instruction and its width.
        code: A function of the System V ABI that takes the number of iterations.
        macs: Multiply-adds per iteration.
    """

    name: str
    code: bytes
    macs: int


def loop(unit: Unit, flags: frozenset[str]) -> Loop | None:
    """The widest multiply-add loop a processor supports; None where it supports none.

    Args:
        unit: ``int8`` is VPDPBUSD, ``float32`` the fused multiply-add.
        flags: The processor's flags in ``/proc/cpuinfo``.
    """
    wide, narrow = ("avx512_vnni", "avx_vnni") if unit == "int8" else ("avx512f", "fma")
    if {wide, "avx512f"} <= flags:
        # 24 accumulators cover the latency of two pipes; 30 and 31 are multiplied.
        clear = _ZERO_LOW + b"".join(_evex(_MAP_0F, _PXOR, register, register, register) for register in range(16, 32))
        body = b"".join(_evex(_MAP_0F38, _OPCODES[unit], register, 30, 31) for register in range(24))
        return Loop(f"{_title(unit)} in 512 bits", clear + _repeated(body), 24 * 16 * _LANES[unit])
    if {narrow, "avx2"} <= flags:
        body = b"".join(_vex(_OPCODES[unit], register, 14, 15) for register in range(14))
        return Loop(f"{_title(unit)} in 256 bits", _ZERO_LOW + _repeated(body), 14 * 8 * _LANES[unit])
    return None


def _title(unit: Unit) -> str:
    return "VPDPBUSD" if unit == "int8" else "VFMADD231PS"


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
