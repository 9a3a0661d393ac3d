"""Device bundles: files with their sha256 in a manifest, written deterministically."""

from __future__ import annotations

import io
import json
import re
from hashlib import sha256
from importlib.resources import files as resources
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeres.artifacts.artifact import File
from edgeres.backends.bundle.golden import golden, graph_input
from edgeres.settings import plain

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeres.artifacts.artifact import Exported
    from edgeres.targets.target import Target

FORMAT = 1
EXECUTABLE = ("build_engine.sh",)
CHECK = ("check_device.py", "device.py")
"""Commands of a bundle that compare golden outputs and measure latency in a runtime for CPUs."""

Layout = Literal["channels first", "channels last"]
"""Layout of an image in the runtime: ``[N,C,H,W]``, or ``[1,H,W,C]`` one at a time."""


def write_bundle(
    exported: Exported,
    target: Target,
    out: Path,
    *,
    entry: str,
    own: dict[str, bytes],
    readme: str,
    commands: tuple[str, ...] = (),
    sections: dict[str, object] | None = None,
    layout: Layout = "channels first",
) -> dict[str, File]:
    """Writes a runtime's ``own`` files, golden outputs, preprocessing, the template ``readme`` and the manifest.

    ``entry`` names the file that the runtime reads; ``commands`` are Python files copied unchanged; ``sections`` are
    more sections of the manifest.
    """
    metadata, image, expected = exported.metadata, graph_input(exported.model.path), golden(exported)
    first = layout == "channels first"
    shape = image.shape if first else (*image.shape[1:], image.shape[0])
    words = {
        "MODEL": metadata.name,
        "TITLE": target.title,
        "RUNTIME": target.runtime.name,
        "ENTRY": entry,
        "INPUT": image.name,
        "SHAPE": ",".join(map(str, shape)),
        "TOLERANCE": f"{expected.tolerance:.4g}",
        "PYTHON": _python(target),
    }
    contents = own | {name: template(name) for name in commands}
    contents |= {
        "golden_inputs.npy": _npy(expected.inputs if first else expected.inputs.transpose(0, 2, 3, 1)),
        "golden_outputs.npy": _npy(expected.outputs),
        "preprocess.json": _json(_preprocess(exported, image.name, ("N" if first else 1, *shape))),
        "README.md": filled(readme, words),
    }
    sums = (f"{sha256(data).hexdigest()}  {name}\n" for name, data in sorted(contents.items()))
    contents["SHA256SUMS"] = "".join(sums).encode()
    names = {"inputs": "golden_inputs.npy", "outputs": "golden_outputs.npy"}
    manifest = {
        "format": FORMAT,
        "model": metadata.name,
        "target": target.name,
        "runtime": target.runtime.name,
        "entry": entry,
        "files": {name: {"sha256": sha256(data).hexdigest(), "bytes": len(data)} for name, data in contents.items()},
        "golden": names | {"tolerance": expected.tolerance},
    }
    contents["manifest.json"] = _json(manifest | (sections or {}))
    for name, data in contents.items():
        (out / name).write_bytes(data)
        if name in EXECUTABLE:
            (out / name).chmod(0o755)
    return {name: File.of(out / name) for name in sorted(contents)}


def _preprocess(exported: Exported, name: str, shape: tuple[object, ...]) -> dict[str, object]:
    """``preprocess.json``, for an input of that name and shape."""
    preprocess = exported.metadata.preprocess
    first = "turning the image upright by its EXIF orientation, " if preprocess.exif == "apply" else ""
    return {
        "preprocess": plain(preprocess),
        "channels": preprocess.channels.upper(),
        "formula": "(pixel / 255 - mean) / std per channel, mean and std in the order red, green, blue, after "
        f"{first}resizing the shorter side and cropping the centre",
        "input": {"name": name, "shape": list(shape), "type": "float32"},
        "classes": list(exported.metadata.classes),
    }


def _python(target: Target) -> str:
    """Python that runs the commands of the bundle."""
    runtime = target.runtime
    return f"the Python {runtime.python} of JetPack {runtime.jetpack}" if runtime.python else "Python 3.8 or newer"


def template(name: str) -> bytes:
    """A file of this package."""
    return resources("edgeres.backends.bundle").joinpath(name).read_bytes()


def filled(name: str, words: dict[str, str]) -> bytes:
    """A template with each ``@WORD@`` replaced in one pass, so that values are not expanded."""
    return re.sub(r"@([A-Z]+)@", lambda match: words[match[1]], template(name).decode()).encode()


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _npy(array: NDArray[np.float32]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
