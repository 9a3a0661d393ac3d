"""Device bundles: files with their sha256 in a manifest, written deterministically."""

from __future__ import annotations

import io
import json
import re
import shlex
from hashlib import sha256
from importlib.resources import files as resources
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeres.artifacts.artifact import File
from edgeres.backends.bundle.golden import golden, graph_input
from edgeres.backends.bundle.trtexec import PYTHON_API, build_settings, timing_flags, trtexec_flags, version
from edgeres.backends.loading import intact
from edgeres.settings import plain

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeres.artifacts.artifact import Exported
    from edgeres.backends.bundle.golden import Golden, GraphInput
    from edgeres.targets.target import Target

FORMAT = 1
EXECUTABLE = ("build_engine.sh",)
_COMPARES = {
    True: "builds it too, compares golden answers and writes device.json",
    False: "says how its answers are compared with the golden ones",
}

Layout = Literal["channels first", "channels last"]
"""Layout of an image in the runtime: ``[N,C,H,W]``, or ``[1,H,W,C]`` one at a time."""


def onnxruntime_bundle(exported: Exported, target: Target, out: Path) -> dict[str, File]:
    """A bundle for a device with Python and ONNX Runtime: graph, golden outputs, checker."""
    own = {"model.onnx": intact(exported.model).read_bytes(), **_commands("check_device.py", "device.py")}
    return _write(exported, target, out, entry="model.onnx", own=own, readme=_template("README.onnxruntime.md"))


def mobile_bundle(exported: Exported, target: Target, out: Path, model: bytes, operators: str) -> dict[str, File]:
    """A bundle for a phone: ``model.ort``, its required operators, golden outputs."""
    own = {"model.ort": model, "required_operators.config": operators.encode()}
    return _write(exported, target, out, entry="model.ort", own=own, readme=_template("README.mobile.md"))


def litert_bundle(exported: Exported, target: Target, out: Path, entry: str, model: bytes) -> dict[str, File]:
    """A bundle for a phone or a board with LiteRT: the ``.tflite`` file, golden outputs ``[N,H,W,C]``, checker."""
    own = {entry: model, **_commands("check_device.py", "device.py")}
    return _write(
        exported, target, out, entry=entry, own=own, readme=_template("README.litert.md"), layout="channels last"
    )


def executorch_bundle(exported: Exported, target: Target, out: Path, entry: str, model: bytes) -> dict[str, File]:
    """A bundle for a phone or a board with ExecuTorch: the ``.pte`` file, golden outputs, checker."""
    own = {entry: model, **_commands("check_device.py", "device.py")}
    return _write(exported, target, out, entry=entry, own=own, readme=_template("README.executorch.md"))


def tensorrt_bundle(exported: Exported, target: Target, out: Path) -> dict[str, File]:
    """A bundle for a device with TensorRT: graph, golden outputs, and the build commands.

    These are a shell command for ``trtexec`` and, where TensorRT's Python package has the needed functions, two Python
    commands that build, compare golden outputs and measure.
    """
    model, runtime = intact(exported.model), target.runtime
    given, python = graph_input(model, exported.metadata.preprocess), version(target.runtime) >= PYTHON_API
    words = {
        "RUNTIME": " ".join(runtime.name.split()),
        "FLAGS": _lines(trtexec_flags(runtime, given)),
        "TIMING": _lines(timing_flags(runtime, given)),
        "NEXT": f"{'python3 build_engine.py' if python else 'README.md'} {_COMPARES[python]}",
    }
    own = {
        "model.onnx": model.read_bytes(),
        "build_engine.sh": _fill(_template("build_engine.sh"), words),
        **(_commands("build_engine.py", "run_engine.py", "engine.py", "device.py") if python else {}),
    }
    build = plain(build_settings(runtime, given))
    readme = _template("README.tensorrt.md" if python else "README.trtexec.md")
    return _write(exported, target, out, entry="model.onnx", own=own, readme=readme, further={"build": build})


def _write(
    exported: Exported,
    target: Target,
    out: Path,
    *,
    entry: str,
    own: dict[str, bytes],
    readme: bytes,
    further: dict[str, object] | None = None,
    layout: Layout = "channels first",
) -> dict[str, File]:
    """Writes ``own`` files, golden outputs, preprocessing, README and the manifest with its ``further`` sections."""
    metadata, model = exported.metadata, exported.model.path
    given = graph_input(model, metadata.preprocess)
    answers = golden(model, given, metadata.preprocess)
    first = layout == "channels first"
    contents = own | {
        "golden_inputs.npy": _npy(answers.inputs if first else answers.inputs.transpose(0, 2, 3, 1)),
        "golden_outputs.npy": _npy(answers.outputs),
        "preprocess.json": _json(_preprocess(exported, given, layout)),
        "README.md": _fill(
            readme,
            {
                "MODEL": metadata.name,
                "TITLE": target.title,
                "RUNTIME": target.runtime.name,
                "ENTRY": entry,
                "INPUT": given.name,
                "SHAPE": ",".join(map(str, _laid_out(given, layout))),
                "TOLERANCE": f"{answers.tolerance:.4g}",
                "PYTHON": _python(target),
            },
        ),
    }
    sums = (f"{sha256(data).hexdigest()}  {name}\n" for name, data in sorted(contents.items()))
    contents["SHA256SUMS"] = "".join(sums).encode()
    contents["manifest.json"] = _json(_manifest(exported, target, entry, answers, contents) | (further or {}))
    for name, data in contents.items():
        (out / name).write_bytes(data)
        if name in EXECUTABLE:
            (out / name).chmod(0o755)
    return {name: File.of(out / name) for name in sorted(contents)}


def _manifest(
    exported: Exported, target: Target, entry: str, answers: Golden, contents: dict[str, bytes]
) -> dict[str, object]:
    hashed = {name: {"sha256": sha256(data).hexdigest(), "bytes": len(data)} for name, data in contents.items()}
    names = {"inputs": "golden_inputs.npy", "outputs": "golden_outputs.npy"}
    return {
        "format": FORMAT,
        "model": exported.metadata.name,
        "target": target.name,
        "runtime": target.runtime.name,
        "entry": entry,
        "files": hashed,
        "golden": names | {"tolerance": answers.tolerance},
    }


def _laid_out(given: GraphInput, layout: Layout) -> tuple[int, ...]:
    """Shape of one image in the runtime's layout."""
    return given.shape if layout == "channels first" else (*given.shape[1:], given.shape[0])


def _preprocess(exported: Exported, given: GraphInput, layout: Layout) -> dict[str, object]:
    batch: list[object] = ["N"] if layout == "channels first" else [1]
    wanted = exported.metadata.preprocess
    first = "turning the image upright by its EXIF orientation, " if wanted.exif == "apply" else ""
    return {
        "preprocess": plain(wanted),
        "channels": wanted.channels.upper(),
        "formula": "(pixel / 255 - mean) / std per channel, mean and std in the order red, green, blue, after "
        f"{first}resizing the shorter side and cropping the centre",
        "input": {"name": given.name, "shape": [*batch, *_laid_out(given, layout)], "type": "float32"},
        "classes": list(exported.metadata.classes),
    }


def _python(target: Target) -> str:
    """Python that runs the commands of the bundle."""
    runtime = target.runtime
    return f"the Python {runtime.python} of JetPack {runtime.jetpack}" if runtime.python else "Python 3.8 or newer"


def _commands(*names: str) -> dict[str, bytes]:
    """Python files that are copied unchanged."""
    return {name: _template(name) for name in names}


def _lines(flags: tuple[str, ...]) -> str:
    """Arguments of a shell command, one per line with continuations."""
    return "\n".join(f"  {shlex.quote(flag)} \\" for flag in flags)


def _template(name: str) -> bytes:
    return resources("edgeres.backends.bundle").joinpath(name).read_bytes()


def _fill(template: bytes, words: dict[str, str]) -> bytes:
    """A template with each ``@WORD@`` replaced in one pass, so that values are not expanded."""
    return re.sub(r"@([A-Z]+)@", lambda found: words[found[1]], template.decode()).encode()


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _npy(array: NDArray[np.float32]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
