"""Merging of a device report into a run: unmeasured latency lines become passed or failed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeres.artifacts.artifact import KernelCounts
from edgeres.artifacts.results import Latency
from edgeres.backends.registry import find_backend
from edgeres.errors import StageError, UsageError
from edgeres.gate.budget import Limit, latency_lines
from edgeres.runs.run import LatencyRow
from edgeres.settings import sha256_file

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.runs.device import DeviceReport
    from edgeres.runs.run import Run
    from edgeres.targets.target import Target

MANIFEST = "bundle/manifest.json"
_ARM, _X86 = ("aarch64", "arm"), ("x86_64", "amd64")
_FAMILIES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("neon", "dotprod", "i8mm"), _ARM),
    **dict.fromkeys(("avx2", "avx512", "avx_vnni", "avx512_vnni", "amx"), _X86),
}
"""Prefixes of ``platform.machine()`` by instruction set."""
_DEVICE = "on the device: "
"""Prefix of evidence from a device report; a newer report replaces it."""


def check_origin(run: Run, folder: Path, report: DeviceReport) -> None:
    """Checks that a device report belongs to the bundle of the run in a folder.

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
        if getattr(report, name) != value:
            raise UsageError(f"device.json is of another run: {name} {getattr(report, name)} is not {value}", again)
    tolerance = manifest["golden"]["tolerance"]
    if report.golden.tolerance != tolerance:
        raise UsageError(f"device.json says tolerance {report.golden.tolerance}, the bundle {tolerance}", again)
    if not report.golden.passed:
        raise StageError(
            f"the device's golden answers are off by {report.golden.max_abs_delta} (tolerance {tolerance:.4g}): "
            "what it timed is another network",
            "build the engine again; compare TensorRT's version and the layer counts",
        )


def check_device(target: Target, report: DeviceReport) -> None:
    """Checks the GPU's compute capability, or the processor's family; ``UsageError`` where it is not the target's."""
    wanted, isa = target.device.compute_capability, target.device.isa
    if report.engine is not None and wanted is not None and report.engine.sm != wanted:
        kind = f"{report.engine.gpu} has compute capability {report.engine.sm}, {target.title} has {wanted}"
    elif report.engine is None and isa is not None and not report.machine.machine.lower().startswith(_FAMILIES[isa]):
        kind = f"{report.machine.machine} is no machine with {isa}"
    else:
        return
    raise UsageError(f"device.json is not from {target.name}: {kind}", "run the bundle on the device it is for")


def with_measurement(run: Run, report: DeviceReport) -> Run:
    """The run with latency, layers and golden comparison of the device.

    Budget lines keep their limits and get their status from them alone. Durations are under ``timings``.
    """
    timing = report.latency_ms
    count, warmup = len(timing.samples_ns), timing.warmup
    how = f"batch 1 on {place(report)}, {count:,} calls after {warmup} to warm up, {_conditions(report)}"
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
    others = tuple(row for row in run.timings.latency if not row.how.startswith(_DEVICE))
    row = LatencyRow.of(
        timed,
        variant="int8" if run.calibration else "float16" if report.engine else "float32",
        runtime=_runtime(report),
        threads=report.runtime.threads,
        how=f"{_DEVICE}{place(report)}; {timing.protocol}; {_conditions(report)}",
    )
    timings = replace(run.timings, lines=lines, latency=(*others, row), unmeasured="")
    kept = tuple(sentence for sentence in run.evidence if not sentence.startswith(_DEVICE))
    return replace(run, evidence=(*kept, *_evidence(report)), kernels=_kernels(report) or run.kernels, timings=timings)


def place(report: DeviceReport) -> str:
    """Device and runtime in a few words."""
    board = report.machine.board or (report.engine.gpu if report.engine else report.machine.cpu)
    return f"{board}, {_runtime(report)}"


def _runtime(report: DeviceReport) -> str:
    return f"{find_backend(report.runtime.name).package.title} {report.runtime.version}"


def _conditions(report: DeviceReport) -> str:
    """Clocks, power mode, temperature, governor and load, as far as the device reported them."""
    before, after = report.conditions.before, report.conditions.after
    evidence = [f"load {before.load:.2f} before, {after.load:.2f} after"]
    if before.governor:
        evidence.append(f"governor {before.governor}")
    if before.nvpmodel:
        evidence.append(before.nvpmodel)
    evidence += [f"{name} at {clock:.0f} MHz" for name, clock in sorted(after.gpu_mhz.items())]
    if after.cpu_mhz:
        evidence.append(f"CPU at {min(after.cpu_mhz):.0f} to {max(after.cpu_mhz):.0f} MHz")
    if after.temperature_c:
        evidence.append(f"{max(after.temperature_c.values()):.0f} degrees C at most")
    return ", ".join(evidence)


def _evidence(report: DeviceReport) -> tuple[str, ...]:
    golden = report.golden
    evidence = [
        f"{_DEVICE}golden answers agree on {golden.top1_agreeing} of {golden.images} by top-1, the largest difference "
        f"of a logit is {golden.max_abs_delta:.4g} (tolerance {golden.tolerance:.4g}), {place(report)}"
    ]
    if engine := report.engine:
        layers = ", ".join(f"{count} {kind}" for kind, count in sorted(engine.census.kernels.items()))
        evidence.append(f"{_DEVICE}the engine for compute capability {engine.sm} has {layers or 'no layers it names'}")
    if images := report.images:
        share = 100 * images.right / images.n
        evidence.append(f"{_DEVICE}top-1 {share:.2f} % of {images.n:,} images of {images.classes} classes")
    return tuple(evidence)


def _kernels(report: DeviceReport) -> KernelCounts | None:
    """Integer layers, where TensorRT's engine inspector counted them."""
    if report.engine is None:
        return None
    counts = report.engine.census
    how = f"counted by TensorRT's engine inspector on {place(report)}"
    return KernelCounts(integer=counts.integer, weighted=counts.weighted, counts=counts.kernels, how=how)
