"""The machine that edgeres runs on: processor, cores, load and memory, as the kernel shows them."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from edgeres.settings import settings


@settings
class Machine:
    """The machine a figure was measured on.

    Attributes:
        cpu: Model name.
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


def peak_rss_mib() -> float:
    """Most resident memory this process has ever had, in MiB."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
