"""The machine that edgeres runs on: processor, instruction set, cores, load and memory, as the kernel shows them."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Literal

from edgeres.settings import settings

Isa = Literal["avx2", "avx512", "avx_vnni", "avx512_vnni", "amx", "neon", "dotprod", "i8mm"]
"""``avx2`` and ``avx512`` without VNNI add products in 16 bits and saturate; all others add in 32."""

_X86: tuple[tuple[str, Isa], ...] = (
    ("amx_int8", "amx"),
    ("avx512_vnni", "avx512_vnni"),
    ("avx_vnni", "avx_vnni"),
    ("avx512bw", "avx512"),
)


@settings
class Machine:
    """The machine a figure was measured on.

    Attributes:
        cores: Cores this process may use.
        governor: Frequency governor, None where the kernel shows none, as in most virtual machines.
        load: Runnable processes, averaged over one minute.
        stolen: CPU seconds the hypervisor has given to others since boot, None where the kernel does not say.
    """

    cpu: str
    cores: int
    governor: str | None
    load: float
    stolen: float | None


def machine(proc: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> Machine:
    """State of this machine now."""
    governor = sysfs / "devices/system/cpu/cpu0/cpufreq/scaling_governor"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    names = (value for key, value in cpuinfo(proc / "cpuinfo").items() if key in ("model name", "Model"))
    return Machine(
        cpu=next(names, "") or platform.processor() or platform.machine(),
        cores=cores,
        governor=governor.read_text().strip() if governor.is_file() else None,
        load=os.getloadavg()[0],
        stolen=stolen_s(proc),
    )


def cpuinfo(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """First value of each key that the kernel lists, in its order; empty where there is no such file."""
    fields: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def stolen_s(proc: Path = Path("/proc")) -> float | None:
    """Steal time in seconds: the eighth figure of the ``cpu`` line of proc(5) ``/proc/stat``, in clock ticks."""
    stat = proc / "stat"
    if not stat.is_file():
        return None
    figures = stat.read_text().splitlines()[0].split()[1:]
    return int(figures[7]) / os.sysconf("SC_CLK_TCK") if len(figures) > 7 else None


def stolen_share(before: float | None, after: float | None, seconds: float) -> float | None:
    """Share of the machine's CPU time that the hypervisor took between two readings of ``Machine.stolen``."""
    return None if before is None or after is None else (after - before) / (seconds * (os.cpu_count() or 1))


def peak_rss_mib() -> float:
    """Most resident memory this process has ever had, in MiB."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


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
