"""Integer instruction set of a processor, and of this host."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal

Isa = Literal["avx2", "avx512", "avx_vnni", "avx512_vnni", "amx", "neon", "dotprod", "i8mm"]
"""``avx2`` and ``avx512`` without VNNI add products in 16 bits and saturate; all others add in 32."""

_X86: tuple[tuple[str, Isa], ...] = (
    ("amx_int8", "amx"),
    ("avx512_vnni", "avx512_vnni"),
    ("avx_vnni", "avx_vnni"),
    ("avx512bw", "avx512"),
)


def host_isa(machine: str | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> Isa:
    """The widest integer instructions of a processor by Linux's ``cpuinfo``; an unknown x86 counts as ``avx2``.

    ``machine`` is the architecture, such as ``x86_64``; this machine's by default.
    """
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64", "x86", "i686"):
        return "neon"
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    return next((isa for flag, isa in _X86 if flag in flags), "avx2")


def saturates(isa: Isa) -> bool:
    """Whether sums of two uint8 by int8 products saturate at 16 bits."""
    return isa in ("avx2", "avx512")
