"""Device bundles: files with their sha256 in a manifest, and golden outputs that the device has to reproduce."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files as resources
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgeres.artifacts.artifact import File
from edgeres.backends.bundle import golden_pixels
from edgeres.backends.bundle.device import FORMAT
from edgeres.backends.session import onnx_session
from edgeres.errors import StageError
from edgeres.settings import plain

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeres.artifacts.artifact import Exported, ModelMetadata
    from edgeres.data.preprocess import Preprocess
    from edgeres.targets.target import Target

EXECUTABLE = ("build_engine.sh",)
CHECK = ("check_device.py", "device.py", "pixels.py")
"""Commands of a bundle that compare golden outputs and measure latency in a runtime for CPUs."""

_RESIZING = {
    "fit": "resizing to cover the size (a single number is the shorter side)",
    "stretch": "resizing to the size whatever the aspect",
    "letterbox": "resizing to fit inside the size, padding both ends evenly with fill (0..255),",
}
"""Words for each mode of resizing in ``preprocess.json``."""

Layout = Literal["channels first", "channels last"]
"""Layout of an image in the runtime: ``[N,C,H,W]``, or ``[1,H,W,C]`` one at a time."""

COUNT = 8
_MOST = 1 << 24
"""Most bytes of the golden outputs, which are maps in some networks; one image is always there."""
SEED = 20151210  # date of the residual network paper
TOLERANCE = 0.03
"""Tolerance as a share of the logits' range. Another order of rounding changes a logit by up to 0.012 of it (ResNet-18
with random weights, ONNX Runtime with and without its rewrites), so a larger difference is an error.
"""
_KERNELS = 3.0
"""Share of the difference that ONNX Runtime's integer kernels make, in networks that enlarge roundings."""


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
    words = {"ENTRY": entry, "INPUT": image.name, "SHAPE": ",".join(map(str, shape))}
    words |= {"TOLERANCE": f"{expected.tolerance:.4g}", **_words(metadata, target)}
    contents = own | {name: template(name) for name in commands}
    contents |= {
        "golden_inputs.npy": _npy(_laid_out(expected.inputs, layout)),
        "golden_outputs.npy": _npy(_laid_out(expected.outputs, layout)),
        "preprocess.json": _json(_preprocess(exported, image.name, ("N" if first else 1, *shape))),
        "README.md": filled(readme, words),
    }
    pixels = golden_pixels.golden_pixels(metadata.preprocess)
    if pixels is not None:
        contents |= pixels.sources | {"golden_pixels.npy": _npy(pixels.pixels)}
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
    if pixels is not None:
        manifest["pixels"] = _pixels(pixels, metadata.preprocess)
    contents["manifest.json"] = _json(manifest | (sections or {}))
    for name, data in contents.items():
        (out / name).write_bytes(data)
        if name in EXECUTABLE:
            (out / name).chmod(0o755)
    return {name: File.of(out / name) for name in sorted(contents)}


def _laid_out(values: NDArray[np.float32], layout: Layout) -> NDArray[np.float32]:
    """Images or maps ``[N,C,H,W]`` in the runtime's layout; rows stay as they are."""
    return values if layout == "channels first" or values.ndim == 2 else values.transpose(0, 2, 3, 1)


def _pixels(pixels: golden_pixels.GoldenPixels, preprocess: Preprocess) -> dict[str, object]:
    """The manifest's section of golden pixels."""
    return {
        "sources": list(pixels.sources),
        "pixels": "golden_pixels.npy",
        "tolerance": golden_pixels.TOLERANCE,
        "resampler": golden_pixels.resampler(preprocess),
    }


def _words(metadata: ModelMetadata, target: Target) -> dict[str, str]:
    """Values of a README's placeholders that follow from the network and the target."""
    return {
        "MODEL": metadata.name,
        "TITLE": target.title,
        "RUNTIME": target.runtime.name,
        "TYPE": metadata.preprocess.input,
        "PYTHON": _python(target),
    }


def _preprocess(exported: Exported, name: str, shape: tuple[object, ...]) -> dict[str, object]:
    """``preprocess.json``, for an input of that name and shape."""
    preprocess = exported.metadata.preprocess
    first = "turning the image upright by its EXIF orientation, " if preprocess.exif == "apply" else ""
    return {
        "preprocess": plain(preprocess),
        "channels": preprocess.channels.upper(),
        "formula": f"{_formula(preprocess)} after {first}{_RESIZING[preprocess.resize_mode]} and cropping the centre",
        "input": {"name": name, "shape": list(shape), "type": preprocess.input},
        "resampler": golden_pixels.resampler(preprocess),
        "task": exported.metadata.head.task,
        "classes": list(exported.metadata.classes),
        "scored": list(exported.metadata.head.scored),
    }


def _formula(preprocess: Preprocess) -> str:
    """The arithmetic of the preprocessing in words."""
    if preprocess.input == "uint8":
        return f"the pixels as they are, {preprocess.layout.upper()} (the network normalises them),"
    low, high = preprocess.range or (0, 255)
    pixel = "pixel" if not low else f"(pixel - {low:g})"
    order = ", mean and std in the order red, green, blue," if preprocess.channels in ("rgb", "bgr") else ""
    return f"({pixel} / {high - low:g} - mean) / std per channel{order}"


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


def _npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


@dataclass(frozen=True, slots=True)
class Golden:
    """Normalised images float32 ``[8,C,H,W]`` and their logits ``[8,classes]``.

    ``near`` is the largest difference of a logit in a network that does not enlarge roundings, 3 % of the range of
    logits; ``tolerance`` that on a device: at least three times what ONNX Runtime's integer kernels differ by.
    """

    inputs: NDArray[Any]
    outputs: NDArray[np.float32]
    near: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class GraphInput:
    """The image input of a graph: its name, its shape ``(C, H, W)``, and whether its batch size is free."""

    name: str
    shape: tuple[int, int, int]
    free: bool


def graph_input(graph: Path) -> GraphInput:
    """Reads the image input of an ONNX file.

    Raises:
        StageError: It is not an image of one size.
    """
    import onnx

    image = onnx.load(graph, load_external_data=False).graph.input[0]
    dims = image.type.tensor_type.shape.dim
    if len(dims) != 4:
        raise StageError(f"{graph.name}: the input has {len(dims)} dimensions", "edgeres compiles [N,C,H,W] graphs")
    channels, height, width = (dim.dim_value for dim in dims[1:])
    if not (channels and height and width):
        raise StageError(f"{graph.name}: the input has no fixed size", "export the graph for images of one size")
    return GraphInput(image.name, (channels, height, width), free=not dims[0].HasField("dim_value"))


def golden(exported: Exported) -> Golden:
    """The golden images of a graph with their logits by ONNX Runtime without optimisations.

    Raises:
        StageError: The logits are all alike or not finite, and so unsuitable as a check.
    """
    graph = exported.model.path
    inputs = golden_inputs(exported.metadata.preprocess, *_planar(exported, graph_input(graph).shape))
    with onnx_session(graph, optimise=False, threads=1) as session:
        outputs = session.run(inputs[:1])
        if outputs.nbytes * COUNT > _MOST:
            inputs = inputs[: max(1, _MOST // outputs.nbytes)]
        outputs = session.run(inputs)
    with onnx_session(graph, optimise=True, threads=1) as session:
        rounded = float(np.abs(session.run(inputs) - outputs).max())
    spread = float(outputs.max() - outputs.min())
    if not np.isfinite(spread) or spread == 0:
        raise StageError(f"{graph.name} answers every golden image alike or not at all", "check weights and scales")
    return Golden(inputs, outputs, TOLERANCE * spread, max(TOLERANCE * spread, _KERNELS * rounded))


def _planar(exported: Exported, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Channels, height and width of a graph's input."""
    return shape if exported.metadata.preprocess.layout == "nchw" else (shape[2], shape[0], shape[1])


def golden_inputs(preprocess: Preprocess, channels: int, height: int, width: int) -> NDArray[Any]:
    """Eight normalised images ``[8,C,H,W]``, the same on every machine: smooth coloured blobs with noise.

    Values are drawn in ``[0,1]`` as pixels are and normalised as the network's images are, so that activations are near
    their calibrated ranges.
    """
    rng = np.random.Generator(np.random.PCG64(SEED))
    coarse = rng.random((COUNT, channels, 7, 7), dtype=np.float32)
    grain = rng.random((COUNT, channels, height, width), dtype=np.float32)
    rows, columns = (np.arange(size) * 7 // size for size in (height, width))
    pixels = np.float32(0.8) * coarse[:, :, rows][:, :, :, columns] + np.float32(0.2) * grain
    if preprocess.input == "uint8":
        codes = np.rint(255 * pixels).astype(np.uint8)
        return codes if preprocess.layout == "nchw" else np.ascontiguousarray(codes.transpose(0, 2, 3, 1))
    order = -1 if preprocess.channels == "bgr" else 1
    mean, std = (
        np.resize(np.asarray(value[::order], np.float32), channels).reshape(channels, 1, 1)
        for value in (preprocess.mean, preprocess.std)
    )
    return ((pixels - mean) / std).astype(np.float32)
