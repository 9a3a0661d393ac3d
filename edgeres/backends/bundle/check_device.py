"""Checks the network of the bundle this file lies in, on the device it lies on, with ONNX Runtime.

    python3 check_device.py    verify every file, compare golden answers, time the network, write device.json

Needs onnxruntime, numpy and Python 3.8 or newer; no network. ``device.py`` lies beside it.
Exit codes: 0 done, 1 golden answers differ, 2 the bundle is damaged, 3 no ONNX Runtime here.
"""
# ruff: noqa: T201 - this file is a command of its own and speaks to whoever runs it on the device

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING or __package__:
    from edgeres.backends.bundle import device
    from edgeres.backends.bundle.device import BundleError
else:  # on the device, where it lies beside this file
    import device
    from device import BundleError


def examine(folder: Path, manifest: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Golden answers and latency by ONNX Runtime on every core."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except (ImportError, OSError) as failure:
        raise BundleError(f"ONNX Runtime does not load here ({failure}): pip install onnxruntime", 3) from failure
    options, threads = runtime.SessionOptions(), os.cpu_count() or 1
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(str(folder / manifest["entry"]), options, providers=["CPUExecutionProvider"])
    (inputs, expected), name = device.golden(folder, manifest), session.get_inputs()[0].name
    found = np.concatenate([session.run(None, {name: inputs[i : i + 1]})[0] for i in range(len(inputs))])
    before = device.conditions()
    latency = device.timed(lambda: session.run(None, {name: inputs[:1]}), seconds)
    return {
        "runtime": {"name": "onnxruntime", "version": runtime.__version__, "threads": threads},
        "engine": None,
        "images": None,
        "golden": device.compare(expected, found, manifest["golden"]["tolerance"]),
        "latency_ms": latency,
        "conditions": {"before": before, "after": device.conditions()},
    }


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Check and time the network of this bundle.")
    parser.add_argument(
        "--seconds", type=float, default=device.SECONDS, metavar="N", help="time the network for N seconds at most"
    )
    folder, seconds = Path(__file__).resolve().parent, parser.parse_args(arguments).seconds
    try:
        manifest = device.check_files(folder)
        print(f"bundle intact: {len(manifest['files'])} files, {manifest['model']} for {manifest['target']}")
        whole = device.report(folder, manifest, examine(folder, manifest, seconds))
    except BundleError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return failure.exit_code
    for line in device.told(whole):
        print(line)
    if not whole["golden"]["passed"]:
        print("error: golden answers differ from what this network has to say: do not deploy it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
