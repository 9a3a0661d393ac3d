"""Checks the network of the bundle in this folder, on this device, with its runtime.

    python3 check_device.py                  verify every file, compare golden outputs, time it, write device.json
    python3 check_device.py --pixels FILE    compare your own preprocessing of pixels_* with the golden pixels

Needs numpy, Python 3.8 or newer and onnxruntime, ai-edge-litert or executorch; no network. ``device.py`` and
``pixels.py`` lie beside it.
Exit codes: 0 done, 1 golden outputs or pixels differ, 2 the bundle is damaged, 3 the runtime is not installed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from contextlib import redirect_stderr
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

if TYPE_CHECKING or __package__:
    from edgeres.backends.bundle import device, pixels
    from edgeres.backends.bundle.device import BundleError
else:  # on the device, where it is in the same folder
    import device
    import pixels
    from device import BundleError


def onnx_runtime(model: Path, threads: int) -> tuple[Callable[[Any], Any], str]:
    """Logits of one image by ONNX Runtime, and its version."""
    runtime = _imported("onnxruntime", "ONNX Runtime", "onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image})[0], runtime.__version__


def litert(model: Path, threads: int) -> tuple[Callable[[Any], Any], str]:
    """Logits of one image by LiteRT, and its version."""
    runtime = _imported("ai_edge_litert", "LiteRT", "ai-edge-litert")
    interpreter = _imported("ai_edge_litert.interpreter", "LiteRT", "ai-edge-litert").Interpreter(
        model_path=str(model), num_threads=threads
    )
    interpreter.allocate_tensors()
    first, logits = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(image: Any) -> Any:
        interpreter.set_tensor(first, image)
        interpreter.invoke()
        return interpreter.get_tensor(logits)

    return run, runtime.__version__


def executorch(model: Path, threads: int) -> tuple[Callable[[Any], Any], str]:
    """Logits of one image by ExecuTorch, and its version."""
    names = ("torch", "executorch.runtime", "executorch.extension.pybindings.portable_lib")
    with redirect_stderr(StringIO()):  # its warnings concern its own internals; errors are raised
        torch, runtime, binding = (_imported(name, "ExecuTorch", "executorch") for name in names)
        binding._unsafe_reset_threadpool(threads)  # there is one pool; programs loaded afterwards use it
        program = runtime.Runtime.get().load_program(model)
        program.load_method("forward")

    def run(image: Any) -> Any:
        method = program.load_method("forward")  # loaded once, and kept alive as long as its program
        return method.execute([torch.from_numpy(image)])[0].numpy().copy()

    return run, metadata.version("executorch")


def _imported(module: str, title: str, pip: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as failure:
        raise BundleError(f"{title} does not load here ({failure}): pip install {pip}", 3) from failure


def examine(folder: Path, manifest: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Golden outputs and latency in the network's runtime, on every core."""
    model, threads = folder / manifest["entry"], os.cpu_count() or 1
    name, opened = {".tflite": ("litert", litert), ".pte": ("executorch", executorch)}.get(
        model.suffix, ("onnxruntime", onnx_runtime)
    )
    run, version = opened(model, threads)
    return device.examined(
        folder,
        manifest,
        lambda images: np.concatenate([run(images[i : i + 1]) for i in range(len(images))]),
        lambda images: device.timed(lambda: run(images[:1]), seconds),
        {"name": name, "version": version, "threads": threads},
    )


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Check and time the network of this bundle.")
    parser.add_argument(
        "--seconds", type=float, default=device.SECONDS, metavar="N", help="time the network for N seconds at most"
    )
    parser.add_argument(
        "--pixels",
        type=Path,
        metavar="FILE",
        help="compare your own preprocessing: a .npy of [4,H,W,C] pixels of pixels_*, 0..255, red, green, blue or grey",
    )
    options = parser.parse_args(arguments)
    folder, seconds = Path(__file__).resolve().parent, options.seconds

    def check() -> None:
        manifest = device.verified(folder, print)
        if options.pixels is not None:
            pixels.compare_pixels(folder, manifest, pixels.load_pixels(options.pixels), "your pixels", print)
        else:
            device.finish(device.report(folder, manifest, examine(folder, manifest, seconds)), print, "it")

    return device.exit_code(check)


if __name__ == "__main__":
    sys.exit(main())
