"""Remedies for failed and unmeasured budget lines, one sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.runs.figures import line_title, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.artifacts.budget_check import BudgetCheck
    from edgeres.runs.run import LatencyRow, Run

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
"""Remedy of a failed budget line by its name."""


def remedies(run: Run) -> tuple[str, ...]:
    """Remedies for each failed line, and for INT8 that is not faster than float."""
    if run.error:  # it has its own hint
        return ()
    found = [_helps(run, line) for line in run.every_line if line.status == "failed"]
    found.append(int8_slowness(run.timings.latency))
    return tuple(dict.fromkeys(text for text in found if text))


def _helps(run: Run, line: BudgetCheck) -> str:
    """Remedy of a failed line; for accuracy, by the stage that caused the drop where it is known."""
    if line.name == "accuracy_drop_pp" and (cause := drop_cause(run)):
        return cause
    ways = (*filter(None, [_HELPS.get(line.name)]), f"--budget {line.name}=VALUE states another limit")
    return f"{line_title(line.name)}: {'; '.join(ways)}"


def measuring(run: Run) -> str:
    """How to measure the unmeasured lines on the device; empty where there are none, or no bundle."""
    names = [line_title(line.name).lower() for line in run.every_line if line.status == "unmeasured"]
    if not names or not any(name.startswith("bundle/") for name in run.files):
        return ""
    return f"{', '.join(names)}: measured on the device, then 'edgeres measured RUN device.json' judges it here"


def drop_cause(run: Run) -> str:
    """Cause of an accuracy drop over its limit, pruning or INT8, with its remedy; empty where unknown."""
    limited = (line for line in run.every_line if line.name == "accuracy_drop_pp")
    failed, accuracy, narrow = any(line.status == "failed" for line in limited), run.accuracy, _narrow_top1(run)
    if not failed or accuracy is None or narrow is None:
        return ""
    narrowed, rounded = accuracy.float_top1 - narrow, narrow - accuracy.deployed_top1
    if narrowed > rounded:
        return (
            f"{number(narrowed)} pp went before INT8, with the channels that pruning removed: a higher prune.macs "
            "removes less, more recover.epochs repair more, a recipe without prune removes nothing"
        )
    return (
        f"{number(rounded)} pp went into INT8: 'edgeres quantize RUN --explain' lists what was tried against it, a "
        "higher --time-budget tries more, --recipe qat trains with quantization in the loop"
    )


def _narrow_top1(run: Run) -> float | None:
    """Float accuracy of the pruned network that was quantized; None where it was not measured."""
    stages = [row.stage for row in run.stages]
    if run.accuracy is None or "quantize" not in stages:
        return None
    if "prune" not in stages:
        return run.accuracy.float_top1
    between = run.stages[stages.index("prune") : stages.index("quantize")]
    return next((row.top1 for row in reversed(between) if row.top1 is not None), None)


def int8_slowness(rows: Sequence[LatencyRow]) -> str:
    """A warning where int8 is not significantly faster than float32; empty where it is, or where one is missing.

    Significant: the 95 % intervals of the two medians are disjoint.
    """
    pair = float_and_int8(rows)
    if pair is None or pair[1].high_ms < pair[0].low_ms:
        return ""
    ratio = pair[0].p50_ms / pair[1].p50_ms
    how = "slower than float32" if pair[1].low_ms > pair[0].high_ms else "not faster than float32 beyond noise"
    return (
        f"INT8 is {how} on {pair[1].runtime} here ({ratio:.2f} times as fast): 'edgeres bench RUN' says where its time "
        "goes, 'edgeres compile --variant fastest' ships the faster one, --variant float ships float"
    )


def float_and_int8(rows: Sequence[LatencyRow]) -> tuple[LatencyRow, LatencyRow] | None:
    """float32 and int8 latencies of the same runtime, batch and threads."""
    for deployed in rows:
        if deployed.variant != "int8" or not deployed.p50_ms:
            continue
        alike = (deployed.runtime, deployed.batch, deployed.threads)
        for row in rows:
            if row.variant == "float32" and (row.runtime, row.batch, row.threads) == alike:
                return row, deployed
    return None
