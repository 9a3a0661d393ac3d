"""Checks the network of the bundle this file lies in, on the device it lies on, with ONNX Runtime.

    python3 check_device.py    verify every file, compare golden answers, measure latency, write device.json

Needs onnxruntime, numpy and Python 3.8 or newer; no network.
Exit codes: 0 done, 1 golden answers differ, 2 the bundle is damaged, 3 no ONNX Runtime here.
"""
# ruff: noqa: T201 - this file is a command of its own and speaks to whoever runs it on the device

from __future__ import annotations

import hashlib
import importlib
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


class BundleError(Exception):
    """What went wrong, with the exit code that tells it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def check_files(folder: Path) -> dict[str, Any]:
    """The bundle's manifest, once every file in it has the sha256 written there."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        listed = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as failure:
        raise BundleError(f"manifest.json cannot be read ({failure}): copy the bundle again", 2) from failure
    for name, expected in listed.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise BundleError(f"{name} is missing: copy the bundle again", 2)
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise BundleError(f"{name} is damaged (its sha256 is not the manifest's): copy the bundle again", 2)
    return manifest


def measure(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Golden answers and latency of the bundle's network on this device."""
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ImportError as failure:
        raise BundleError(f"ONNX Runtime does not load here ({failure}): pip install onnxruntime", 3) from failure
    session = runtime.InferenceSession(str(folder / manifest["entry"]), providers=["CPUExecutionProvider"])
    golden, name = manifest["golden"], session.get_inputs()[0].name
    inputs, expected = (np.load(folder / golden[key], allow_pickle=False) for key in ("inputs", "outputs"))
    found = np.concatenate([session.run(None, {name: inputs[i : i + 1]})[0] for i in range(len(inputs))])
    times = []
    for _ in range(60):
        start = time.perf_counter()
        session.run(None, {name: inputs[:1]})
        times.append(1e3 * (time.perf_counter() - start))
    times = sorted(times[10:])
    delta = float(np.abs(found - expected).max())
    return {
        "onnxruntime": runtime.__version__,
        "machine": platform.machine(),
        "top1_agreeing": int((found.argmax(1) == expected.argmax(1)).sum()),
        "max_abs_delta": delta if np.isfinite(delta) else None,
        "passed": bool(delta <= golden["tolerance"]),
        "latency_ms": {
            "p50": times[len(times) // 2],
            "p90": times[len(times) * 9 // 10],
            "runs": len(times),
            "batch": 1,
        },
    }


def main() -> int:
    """Entry point."""
    folder = Path(__file__).resolve().parent
    try:
        manifest = check_files(folder)
        print(f"bundle intact: {len(manifest['files'])} files, {manifest['model']} for {manifest['target']}")
        report = measure(folder, manifest)
    except BundleError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return failure.exit_code
    (folder / "device.json").write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    latency = report["latency_ms"]
    print(f"latency p50 {latency['p50']:.2f} ms, p90 {latency['p90']:.2f} ms (batch 1, {latency['runs']} runs)")
    print(
        f"golden answers: max |delta logit| {report['max_abs_delta']} (tolerance {manifest['golden']['tolerance']:.4g})"
    )
    if not report["passed"]:
        print("error: golden answers differ from what this network has to say: do not deploy it", file=sys.stderr)
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
