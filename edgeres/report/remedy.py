"""What helps a run that broke a limit or left one unmeasured: one sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.report.figures import line_title
from edgeres.report.select import culprit, slowness

if TYPE_CHECKING:
    from edgeres.artifact import Line
    from edgeres.report.run import Run

_NARROWER = "--recipe int8_pruned with a lower prune.macs takes channels away, a smaller preset has fewer"
_HELPS = {
    "accuracy_drop_pp": "--recipe qat trains with quantization in the loop, --variant float ships float",
    "macs_g": _NARROWER,
    "params_m": _NARROWER,
    "size_mib": _NARROWER,
    "peak_activation_mib": "a smaller --crop or a narrower network needs less memory for its activations",
    "peak_rss_mib": "a smaller --crop or a narrower network needs less memory",
    "latency_p50_ms": f"{_NARROWER}, a smaller --crop takes less time",
    "latency_p90_ms": "a quiet machine has a shorter tail; a narrower network takes less time",
    "latency_p99_ms": "a quiet machine has a shorter tail; a narrower network takes less time",
}
"""What brings a figure down, by the name of its budget line."""


def remedies(run: Run) -> tuple[str, ...]:
    """What to do about each failed line, and about INT8 that is not faster.

    Args:
        run: A finished run; of one that stopped, the error has its own way out.
    """
    if run.error:
        return ()
    found = [_helps(run, line) for line in run.every_line if line.status == "failed"]
    found.append(slowness(run.timings.latency))
    return tuple(dict.fromkeys(text for text in found if text))


def _helps(run: Run, line: Line) -> str:
    """What helps a failed line; the accuracy's own account where it is known what cost it."""
    known = culprit(run) if line.name == "accuracy_drop_pp" else ""
    if known:
        return known
    lift = f"--budget {line.name}=VALUE states another limit"
    help_ = _HELPS.get(line.name)
    return f"{line_title(line.name)}: {help_}; {lift}" if help_ else f"{line_title(line.name)}: {lift}"


def measuring(run: Run) -> str:
    """How a line that is unmeasured here becomes passed or failed; empty where there is none, or no bundle."""
    names = [line_title(line.name).lower() for line in run.every_line if line.status == "unmeasured"]
    if not names or not any(name.startswith("bundle/") for name in run.files):
        return ""
    return f"{', '.join(names)}: measured on the device, then 'edgeres measured RUN device.json' judges it here"
