"""Next steps after a finished run: copy, run on the device, collect the results, gate in CI."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.runs.run import Run

_BUNDLE, _ENGINE = "bundle/", "engine/"
_IN_APP = {"model.ort": "OrtSession", "model.tflite": "Interpreter", "model.pte": "Module"}
"""Android class that opens each file."""

_COMMANDS = {
    "build_engine.py": "python3 build_engine.py",
    "check_device.py": "python3 check_device.py",
    "build_engine.sh": "bash build_engine.sh",  # where TensorRT's Python package is too old for the first
}
"""Command to run on the device by file of the bundle."""

_OPENED = {
    "openvino": ("model.xml", "openvino.Core().compile_model({})"),
    "onnxruntime": ("model.onnx", "onnxruntime.InferenceSession({})"),
    "litert": ("model.tflite", "ai_edge_litert.interpreter.Interpreter({})"),
    "executorch": ("model.pte", "executorch.runtime.Runtime.get().load_program({})"),
}
"""Main file of an engine and the Python expression that opens it, by backend."""


@dataclass(frozen=True, slots=True)
class NextStep:
    """One recommended step: a shell command (which may be broken with a backslash), a path, or a clause.

    ``about`` is the result of the step, one clause, or empty.
    """

    label: str
    text: str
    about: str = ""
    command: bool = False

    @property
    def line(self) -> str:
        """Text and result in one line; the result is a shell comment."""
        return f"{self.text}  # {self.about}" if self.about else self.text


def next_steps(run: Run, folder: Path) -> tuple[NextStep, ...]:
    """Next steps of a finished run in a folder, as the user named it; empty for one that ended in an error."""
    if run.error:
        return ()
    if "weights.safetensors" in run.files:
        return _weights(run, folder)
    steps = [*_device(run, folder), *_here(run, folder)]
    if "predictions.json" in run.files:
        steps.append(NextStep("CI", f"edgeres gate {_quoted(folder)}", "PASS, FAIL or INCONCLUSIVE", command=True))
    return tuple(steps)


def _weights(run: Run, folder: Path) -> tuple[NextStep, ...]:
    """Steps after ``edgeres train``, or ``--until`` a stage before the export: the weights, and how to compile them."""
    place = _quoted(folder / "weights.safetensors")
    data = _data(run)
    steps = [NextStep("weights", place)]
    if not any(row.stage == "fold_batchnorm" for row in run.stages):
        inputs = "" if data is None else f" --weights {place} --data {data}"  # the sample task has its own in the cache
        compile_ = f"edgeres compile {shlex.quote(run.model)} --target TARGET{inputs}"
        steps.append(NextStep("compile", compile_, "'edgeres targets' lists targets", command=True))
    return tuple(steps)


def _data(run: Run) -> str | None:
    """The ``--data`` argument of the run's command line, quoted; None for the bundled sample task."""
    words = shlex.split(run.command)
    values = [word.removeprefix("--data=") for word in words if word.startswith("--data=")]
    values += [value for word, value in pairwise(words) if word == "--data"]
    return shlex.quote(values[0]) if values else None


def _device(run: Run, folder: Path) -> list[NextStep]:
    """Steps for a device bundle: its path, copying it, the command on the device, and collecting the result."""
    names = {name.removeprefix(_BUNDLE) for name in run.files if name.startswith(_BUNDLE)}
    if not names:
        return []
    bundle = _quoted(folder / "bundle")
    steps = [NextStep("bundle", bundle, "its README.md says more")]
    entry = next((name for name in _IN_APP if name in names), None)
    if entry:
        steps.append(NextStep("app", f"put {entry} into the app's assets and open it with {_IN_APP[entry]}"))
    command = next((command for name, command in _COMMANDS.items() if name in names), "")
    if command:
        steps.append(NextStep("copy", f"scp -r {bundle} USER@DEVICE:", command=True))
        steps.append(NextStep("device", f"cd bundle && {command}", command=True))
    if command and not command.startswith("bash"):
        steps.append(NextStep("back", "scp USER@DEVICE:bundle/device.json .", command=True))
        steps.append(NextStep("report", f"edgeres measured {_quoted(folder)} device.json", command=True))
    return steps


def _here(run: Run, folder: Path) -> list[NextStep]:
    """The built file and how to open it, on this host or on one without a bundle."""
    names = {name.removeprefix(_ENGINE) for name in run.files if name.startswith(_ENGINE)}
    entry, opened = _OPENED.get(run.target.backend, ("", ""))
    if entry in names:
        place = folder / "engine" / entry
        bench = f"edgeres bench {_quoted(folder)}"
        return [
            NextStep("artifact", _quoted(place)),
            NextStep("Python", opened.format(repr(str(place)))),
            NextStep("speed", bench, "float32 and INT8 on each runtime here", command=True),
        ]
    if names:
        return [NextStep("artifact", _quoted(folder / "engine" / min(names)), run.target.runtime)]
    if "model.onnx" in run.files and not any(name.startswith(_BUNDLE) for name in run.files):
        return [NextStep("artifact", _quoted(folder / "model.onnx"))]
    return []


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
