"""Functions that all commands of a bundle share: file checks, timing, device state, and ``device.json``.

It is copied to the device beside the command that needs it. Python 3.8, numpy, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FORMAT, REPORT = 1, "device.json"
WARMUP, LEAST, WANTED, MOST = 50, 44, 459, 20000
"""Warm-up calls; calls from which the 90th and the 99th percentile follow with 99 % confidence; most calls."""
NARROW, SECONDS = 0.02, 60.0
GPUS = ("gpu", "ga10b", "gv11b", "gp10b")
"""Names of Jetson GPUs among the kernel's devices."""
PROTOCOL = (
    "batch 1, {warmup} calls to warm up, {n} timed; 459 are wanted, and more until the 95 % interval of the median is "
    "narrower than 2 % of it, for {seconds:g} s at most"
)


class BundleError(Exception):
    """An error with its exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def sha256(data: bytes) -> str:
    """sha256 as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def verified(folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The bundle's manifest, after checking the sha256 of every file."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        listed = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as failure:
        raise BundleError(f"manifest.json cannot be read ({failure}): copy the bundle again", 2) from failure
    if manifest.get("format") != FORMAT:
        raise BundleError(f"the bundle has format {manifest.get('format')!r}, this file reads {FORMAT}", 2)
    for name, expected in listed.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise BundleError(f"{name} is missing: copy the bundle again", 2)
        if sha256(path.read_bytes()) != expected:
            raise BundleError(f"{name} is damaged (its sha256 is not the manifest's): copy the bundle again", 2)
    say(f"bundle intact: {len(manifest['files'])} files, {manifest['model']} for {manifest['target']}")
    return manifest


def write(path: Path, data: bytes) -> None:
    """Writes a file atomically, by renaming."""
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(data)
    beside.replace(path)


def examined(
    folder: Path,
    manifest: dict[str, Any],
    logits: Callable[[Any], Any],
    latency: Callable[[Any], dict[str, Any]],
    runtime: dict[str, Any],
) -> dict[str, Any]:
    """Sections of ``device.json`` for the golden images: ``logits`` compared, ``latency`` and conditions around it."""
    names = (manifest["golden"][key] for key in ("inputs", "outputs"))
    inputs, expected = (np.load(folder / name, allow_pickle=False) for name in names)
    answers = compare(expected, logits(inputs), manifest["golden"]["tolerance"])
    before, times = conditions(), latency(inputs)
    return {
        "runtime": runtime,
        "engine": None,
        "images": None,
        "golden": answers,
        "latency_ms": times,
        "conditions": {"before": before, "after": conditions()},
    }


def compare(expected: Any, logits: Any, tolerance: float) -> dict[str, Any]:
    """Compares golden logits with the device's: equal top-1 predictions and the largest difference of a logit."""
    sane = logits.shape == expected.shape and bool(np.isfinite(logits).all())
    delta = float(np.abs(logits - expected).max()) if sane else None
    return {
        "images": len(expected),
        "top1_agreeing": int((logits.argmax(1) == expected.argmax(1)).sum()) if sane else 0,
        "max_abs_delta": delta,
        "tolerance": tolerance,
        "passed": delta is not None and delta <= tolerance,
    }


def timed(
    call: Callable[[], object], seconds: float = SECONDS, clock: Callable[[], int] = time.perf_counter_ns
) -> dict[str, Any]:
    """Times one call by ``PROTOCOL``: every sample in nanoseconds, and their ``figures``."""
    for _ in range(WARMUP):
        call()
    samples, start, check = [], clock(), WANTED
    while True:
        begin = clock()
        call()
        samples.append(clock() - begin)
        late, count = clock() - start > seconds * 1e9, len(samples)
        if count >= MOST or (late and count >= LEAST):
            break
        if count >= check:
            low, high = median_interval(samples)
            if high - low <= NARROW * float(np.median(samples)):
                break
            check = count + count // 4  # sorting after each call would affect the measurement
    protocol = PROTOCOL.format(warmup=WARMUP, n=len(samples), seconds=seconds)
    return {"batch": 1, "warmup": WARMUP, "protocol": protocol, "samples_ns": samples, **figures(samples)}


def figures(samples: Sequence[int]) -> dict[str, float | None]:
    """Percentiles in milliseconds, the 95 % interval of the median, and 99 % upper bounds of the tail."""
    p50, p90, p99 = (float(value) / 1e6 for value in np.percentile(samples, (50, 90, 99)))
    low, high = median_interval(samples)
    times: dict[str, float | None] = {"p50": p50, "p90": p90, "p99": p99, "low": low / 1e6, "high": high / 1e6}
    for share in (90, 99):
        bound = percentile_bound(samples, share / 100)
        times[f"p{share}_high"] = None if bound is None else bound / 1e6
    return times


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Order statistics that enclose the true median with at least that confidence, for any distribution.

    Fewer than six samples give the smallest and the largest.
    """
    ordered = sorted(samples)
    k = max(1, _binomial_quantile(len(ordered), 0.5, (1 - confidence) / 2))
    return ordered[k - 1], ordered[-k]


def percentile_bound(samples: Sequence[float], share: float, confidence: float = 0.99) -> float | None:
    """Order statistic that the true quantile of that share does not exceed with that confidence; None for too few.

    It is the k-th smallest of n with ``P(Bin(n, share) <= k - 1)`` of at least the confidence, as in MLPerf Inference's
    early stopping (github.com/mlcommons/inference_policies).
    """
    k = _binomial_quantile(len(samples), share, confidence) + 1
    return sorted(samples)[k - 1] if k <= len(samples) else None


def _binomial_quantile(n: int, share: float, probability: float) -> int:
    """The smallest k with ``P(Bin(n, share) <= k) >= probability``, summed term by term, without scipy."""
    below = 0.0
    for k in range(n):
        ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        below += math.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share))
        if below >= probability:
            return k
    return n


def conditions(root: Path = Path("/")) -> dict[str, Any]:
    """State of the machine as the kernel reports it; None and empty where it does not.

    ``cpu_mhz`` is by core, ``gpu_mhz`` by device, ``temperature_c`` by zone; ``stolen_s`` are CPU seconds that the
    hypervisor took since boot.
    """
    system, classes = root / "sys/devices/system/cpu", root / "sys/class"
    clocks = [_number(path, 1e3) for path in sorted(system.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))]
    gpus = {path.parent.name: _number(path, 1e6) for path in sorted(classes.glob("devfreq/*/cur_freq"))}
    folders = sorted(classes.glob("thermal/thermal_zone*"))
    zones = [(_line(folder / "type"), _number(folder / "temp", 1e3)) for folder in folders]
    ticks = (_line(root / "proc/stat") or "").split()
    return {
        "load": os.getloadavg()[0],
        "governor": _line(system / "cpu0/cpufreq/scaling_governor"),
        "cpu_mhz": [clock for clock in clocks if clock is not None],
        "gpu_mhz": {
            name: clock for name, clock in gpus.items() if clock is not None and name.rpartition(".")[2] in GPUS
        },
        "temperature_c": {name: value for name, value in zones if name and value is not None},
        "stolen_s": int(ticks[8]) / os.sysconf("SC_CLK_TCK") if len(ticks) > 8 else None,
        "nvpmodel": _power_mode(),
    }


def _line(path: Path) -> str | None:
    """The first line of a kernel file; some exist and cannot be read, such as of a sensor that is off."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return stream.readline().strip("\0\n ") or None
    except OSError:
        return None


def _number(path: Path, unit: float) -> float | None:
    text = _line(path)
    return int(text) / unit if text and text.lstrip("-").isdigit() else None


def _power_mode() -> str | None:
    """The power mode as Jetson's ``nvpmodel`` reports it."""
    tool = shutil.which("nvpmodel")
    if tool is None:
        return None
    done = subprocess.run(  # noqa: S603 - a fixed command, no shell
        [tool, "-q"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=10, check=False
    )
    return " ".join(done.stdout.decode("utf-8", "replace").split())[:200]


def machine(root: Path = Path("/")) -> dict[str, Any]:
    """Board, processor and cores of this machine."""
    try:
        lines = [line.partition(":") for line in (root / "proc/cpuinfo").read_text().splitlines()]
    except OSError:
        lines = []
    kind = platform.machine()
    cpu = next((value.strip() for name, _, value in lines if name.strip() in ("model name", "Model")), kind)
    return {"board": _line(root / "proc/device-tree/model"), "cpu": cpu, "cores": os.cpu_count(), "machine": kind}


def report(folder: Path, manifest: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """Writes ``device.json``: the sections of ``examined``, identity of the bundle, and a seal over both."""
    whole = {
        "format": FORMAT,
        "model": manifest["model"],
        "target": manifest["target"],
        "manifest_sha256": sha256((folder / "manifest.json").read_bytes()),
        "model_sha256": manifest["files"][manifest["entry"]]["sha256"],
        "machine": machine(),
        **sections,
    }
    whole["seal"] = seal(whole)
    lines = (f"  {json.dumps(key)}: {json.dumps(whole[key], sort_keys=True, allow_nan=False)}" for key in sorted(whole))
    write(folder / REPORT, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    return whole


def seal(whole: dict[str, Any]) -> str:
    """sha256 of everything but the seal, as canonical JSON."""
    rest = {key: value for key, value in whole.items() if key != "seal"}
    return sha256(json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def finish(whole: dict[str, Any], say: Callable[[str], None], subject: str) -> None:
    """Prints a device report as a few lines; ``subject`` is what was measured."""
    latency, answers = whole["latency_ms"], whole["golden"]
    tail = ", ".join(
        f"p{share} {latency[f'p{share}']:.3f}"
        + ("" if latency[f"p{share}_high"] is None else f" (at most {latency[f'p{share}_high']:.3f}, 99 %)")
        for share in (90, 99)
    )
    say(
        f"latency p50 {latency['p50']:.3f} ms ({latency['low']:.3f} to {latency['high']:.3f}), {tail}; "
        f"{len(latency['samples_ns'])} runs, load {whole['conditions']['before']['load']:.2f}"
    )
    say(
        f"golden answers: top-1 agrees on {answers['top1_agreeing']} of {answers['images']}, "
        f"max |delta logit| {answers['max_abs_delta']} (tolerance {answers['tolerance']:.4g})"
    )
    if not answers["passed"]:
        raise BundleError(f"golden answers differ from what this network has to say: do not deploy {subject}")


def exit_code(command: Callable[[], None]) -> int:
    """Runs a command of the bundle; prints its error and gives its exit code."""
    try:
        command()
    except BundleError as failure:
        print(f"error: {failure}", file=sys.stderr)  # noqa: T201 - a command's error
        return failure.exit_code
    except KeyboardInterrupt:
        print("\nerror: stopped; nothing was changed but what is said above", file=sys.stderr)  # noqa: T201
        return 130
    return 0
