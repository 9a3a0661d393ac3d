"""Merging of a device report into a run: unmeasured latency lines become passed or failed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeres.artifacts.artifact import KernelCounts
from edgeres.artifacts.results import Latency
from edgeres.errors import StageError, UsageError
from edgeres.gate.budget import Limit, latency_lines
from edgeres.runs.run import LatencyRow
from edgeres.settings import sha256_file

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.runs.device import DeviceReport, State
    from edgeres.runs.run import Run
    from edgeres.targets.target import Target

MANIFEST = "bundle/manifest.json"
_TITLES = {"tensorrt": "TensorRT", "onnxruntime": "ONNX Runtime", "litert": "LiteRT", "executorch": "ExecuTorch"}
_ARM, _X86 = ("aarch64", "arm"), ("x86_64", "amd64")
_FAMILIES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("neon", "dotprod", "i8mm"), _ARM),
    **dict.fromkeys(("avx2", "avx512", "avx_vnni", "avx512_vnni", "amx"), _X86),
}
"""Prefixes of ``platform.machine()`` by instruction set."""
_SAID = "on the device: "
"""Prefix of evidence from a device report; a newer report replaces it."""


def check_origin(run: Run, folder: Path, found: DeviceReport) -> None:
    """Checks that a device report belongs to the bundle of this run.

    Args:
        run: The report of the run.
        folder: Its folder.
        found: The device report.

    Raises:
        UsageError: The run has no bundle, its bundle was changed, or the report is of another bundle.
        StageError: The device's outputs differ from the golden ones, so its latency is that of another network.
    """
    again = "name the run whose bundle was on the device"
    sealed = run.files.get(MANIFEST)
    if run.error is not None or sealed is None:
        raise UsageError(f"the run in {folder} has no device bundle", again)
    path = folder / MANIFEST
    if not path.is_file() or sha256_file(path) != sealed.sha256:
        raise UsageError(f"{path} is not the file that the run reported", "compile again")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    expected = {
        "target": run.target.name,
        "model_sha256": manifest["files"][manifest["entry"]]["sha256"],
        "manifest_sha256": sealed.sha256,
    }
    for name, value in expected.items():
        if getattr(found, name) != value:
            raise UsageError(f"device.json is of another run: {name} {getattr(found, name)} is not {value}", again)
    tolerance = manifest["golden"]["tolerance"]
    if found.golden.tolerance != tolerance:
        raise UsageError(f"device.json says tolerance {found.golden.tolerance}, the bundle {tolerance}", again)
    if not found.golden.passed:
        raise StageError(
            f"the device's golden answers are off by {found.golden.max_abs_delta} (tolerance {tolerance:.4g}): "
            "what it timed is another network",
            "build the engine again; compare TensorRT's version and the layer counts",
        )


def check_device(target: Target, found: DeviceReport) -> None:
    """Checks that the device matches the target.

    Raises:
        UsageError: The GPU has another compute capability, or the processor is of another family.
    """
    wanted, isa = target.device.compute_capability, target.device.isa
    if found.engine is not None and wanted is not None and found.engine.sm != wanted:
        kind = f"{found.engine.gpu} has compute capability {found.engine.sm}, {target.title} has {wanted}"
    elif found.engine is None and isa is not None and not found.machine.machine.lower().startswith(_FAMILIES[isa]):
        kind = f"{found.machine.machine} is no machine with {isa}"
    else:
        return
    raise UsageError(f"device.json is not from {target.name}: {kind}", "run the bundle on the device it is for")


def with_measurement(run: Run, found: DeviceReport) -> Run:
    """The run with latency, layers and golden comparison of the device.

    Budget lines keep their limits and get their status from them alone. Durations are under ``timings``.
    """
    timing = found.latency_ms
    count, warmup = len(timing.samples_ns), timing.warmup
    how = f"batch 1 on {place(found)}, {count:,} calls after {warmup} to warm up, {_conditions(found)}"
    before = run.timings.lines
    known = {line.name: Limit(line.name, line.limit, line.source, derivation=line.derivation) for line in before}
    timed = Latency(
        p50_ms=timing.p50,
        p90_ms=timing.p90,
        p99_ms=timing.p99,
        low_ms=timing.low,
        high_ms=timing.high,
        n=count,
        warmup=warmup,
        stolen=None,
        p90_high_ms=timing.p90_high,
        p99_high_ms=timing.p99_high,
    )
    fresh = {line.name: line for line in latency_lines(known, timed, how)}
    lines = tuple(fresh.get(line.name, line) for line in before)
    others = tuple(row for row in run.timings.latency if not row.how.startswith(_SAID))
    timings = replace(run.timings, lines=lines, latency=(*others, _row(run, found)), unmeasured="")
    kept = tuple(sentence for sentence in run.evidence if not sentence.startswith(_SAID))
    return replace(run, evidence=(*kept, *_evidence(found)), kernels=_kernels(found) or run.kernels, timings=timings)


def place(found: DeviceReport) -> str:
    """Device and runtime in a few words."""
    board = found.machine.board or (found.engine.gpu if found.engine else found.machine.cpu)
    return f"{board}, {_TITLES[found.runtime.name]} {found.runtime.version}"


def _row(run: Run, found: DeviceReport) -> LatencyRow:
    timing = found.latency_ms
    return LatencyRow(
        variant="int8" if run.calibration else "float16" if found.engine else "float32",
        runtime=f"{_TITLES[found.runtime.name]} {found.runtime.version}",
        batch=1,
        threads=found.runtime.threads,
        p50_ms=timing.p50,
        p90_ms=timing.p90,
        p99_ms=timing.p99,
        n=len(timing.samples_ns),
        low_ms=timing.low,
        high_ms=timing.high,
        how=f"{_SAID}{place(found)}; {timing.protocol}; {_conditions(found)}",
    )


def _conditions(found: DeviceReport) -> str:
    """Clocks, power mode, temperature, governor and load, as far as the device reported them."""
    before, after = found.conditions.before, found.conditions.after
    evidence = [f"load {before.load:.2f} before, {after.load:.2f} after"]
    if before.governor:
        evidence.append(f"governor {before.governor}")
    if before.nvpmodel:
        evidence.append(before.nvpmodel)
    evidence += [f"{name} at {clock:.0f} MHz" for name, clock in sorted(after.gpu_mhz.items())]
    if after.cpu_mhz:
        evidence.append(f"CPU at {min(after.cpu_mhz):.0f} to {max(after.cpu_mhz):.0f} MHz")
    hottest = _hottest(after)
    if hottest is not None:
        evidence.append(f"{hottest:.0f} degrees C at most")
    return ", ".join(evidence)


def _hottest(state: State) -> float | None:
    return max(state.temperature_c.values(), default=None)


def _evidence(found: DeviceReport) -> tuple[str, ...]:
    """Evidence from the device, without durations."""
    golden = found.golden
    evidence = [
        f"{_SAID}golden answers agree on {golden.top1_agreeing} of {golden.images} by top-1, the largest difference "
        f"of a logit is {golden.max_abs_delta:.4g} (tolerance {golden.tolerance:.4g}), {place(found)}"
    ]
    if found.engine is not None:
        layers = ", ".join(f"{count} {kind}" for kind, count in sorted(found.engine.census.kernels.items()))
        evidence.append(
            f"{_SAID}the engine for compute capability {found.engine.sm} has {layers or 'no layers it names'}"
        )
    if found.images is not None:
        share = 100 * found.images.right / found.images.n
        evidence.append(f"{_SAID}top-1 {share:.2f} % of {found.images.n:,} images of {found.images.classes} classes")
    return tuple(evidence)


def _kernels(found: DeviceReport) -> KernelCounts | None:
    """Integer layers, where TensorRT's engine inspector counted them."""
    if found.engine is None:
        return None
    counts = found.engine.census
    how = f"counted by TensorRT's engine inspector on {place(found)}"
    return KernelCounts(integer=counts.integer, weighted=counts.weighted, counts=counts.kernels, how=how)
