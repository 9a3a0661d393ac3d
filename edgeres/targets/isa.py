"""Integer instruction set of a processor, and of this host."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal

from edgeres.targets.host import cpuinfo

Isa = Literal["avx2", "avx512", "avx_vnni", "avx512_vnni", "amx", "neon", "dotprod", "i8mm"]
"""``avx2`` and ``avx512`` without VNNI add products in 16 bits and saturate; all others add in 32."""

_X86: tuple[tuple[str, Isa], ...] = (
    ("amx_int8", "amx"),
    ("avx512_vnni", "avx512_vnni"),
    ("avx_vnni", "avx_vnni"),
    ("avx512bw", "avx512"),
)


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instruction-set flags of the first processor, as the kernel names them."""
    return frozenset(cpuinfo(path).get("flags", "").split())


def host_isa(machine: str | None = None, path: Path = Path("/proc/cpuinfo")) -> Isa:
    """The widest integer instructions of this processor, by its kernel; an unknown x86 counts as ``avx2``.

    The architecture, such as ``x86_64``, is this machine's by default.
    """
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64", "x86", "i686"):
        return "neon"
    flags = cpu_flags(path)
    return next((isa for flag, isa in _X86 if flag in flags), "avx2")


def saturates(isa: Isa) -> bool:
    """Whether sums of two uint8 by int8 products saturate at 16 bits."""
    return isa in ("avx2", "avx512")
