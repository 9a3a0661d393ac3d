"""Errors for a MODEL argument that is no preset: a file or folder of another kind, or a misspelling."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

WEIGHT_SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".th", ".ckpt", ".bin", ".tar"})  # suffixes of weight files
_BUILT = {
    ".engine": "a TensorRT engine",
    ".plan": "a TensorRT engine",
    ".trt": "a TensorRT engine",
    ".tflite": "a LiteRT model",
    ".lite": "a LiteRT model",
    ".ort": "a model in ONNX Runtime's own format",
    ".pte": "an ExecuTorch program",
    ".xml": "an OpenVINO model",
    ".mlmodel": "a Core ML model",
    ".mlpackage": "a Core ML model",
    ".pb": "a TensorFlow graph",
    ".h5": "a Keras model",
    ".keras": "a Keras model",
}
"""Suffixes of compiled or saved files that edgeres does not read."""

_SOURCE = "pass the .onnx it was made from, or its weights with --weights"
_PLACE = "edgeres compile {} --target TARGET --data DIR"


def no_preset(word: str, presets: Iterable[str]) -> ModelError:
    """The error for a MODEL that is none of the presets, with a hint on how to give such a file."""
    known, path = {name.casefold(): name for name in sorted(presets)}, Path(word)
    suffix = path.suffix.lower()
    if path.is_dir() and suffix not in _BUILT:
        return _folder(path)
    if suffix in WEIGHT_SUFFIXES:
        name = max((known[name] for name in known if name in path.stem.casefold()), key=len, default="resnet18")
        what = f"{word} is a weights file, and a MODEL is a preset or an .onnx file"
        hint = f"name its network and pass the file with --weights: {_PLACE.format(f'{name} --weights {word}')}"
    elif suffix in _BUILT:
        what, hint = f"{word} is {_BUILT[suffix]}, which cannot be read back into a network", _SOURCE
    elif word.lower().endswith((".yaml", ".yml")):
        what, hint = f"{word} is no MODEL", f"a recipe file is given with --recipe {word}"
    elif word.isupper() and "_" in word:
        what = f"{word} names weights, not a MODEL"
        hint = f"pass it with --weights: {_PLACE.format(f'resnet50 --weights {word}')}"
    elif path.is_file():
        what, hint = f"{word} is no preset and no .onnx file", "'edgeres models' lists presets"
    else:
        close = get_close_matches(word.casefold(), known, n=1, cutoff=0.7)
        others = (
            "'edgeres models' lists the presets, all of them ResNets; any other classifier is given as an .onnx file"
        )
        what, hint = f"unknown model {word!r}", f"did you mean {known[close[0]]!r}?" if close else others
    return ModelError(what, hint)


def weights_in(folder: Path) -> tuple[Path, ...]:
    """Weight files in a folder, in alphabetical order."""
    return tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in WEIGHT_SUFFIXES and path.is_file()))


def _folder(path: Path) -> ModelError:
    """Description of a folder, and a hint."""
    what, hint = "a folder", "name a preset ('edgeres models' lists them) or an .onnx file"
    weights = weights_in(path)
    if (path / "request.json").is_file() or (path / "report.json").is_file():
        what = "the folder of a run"
        hint = f"edgeres quantize {path}, export, build, verify and report take it as RUN"
        if weights:
            hint = f"name its network and pass its weights: {_PLACE.format(f'resnet18 --weights {weights[0]}')}"
    elif (path / "train").is_dir() or (path / "val").is_dir():
        what = "a folder of images"
        hint = f"name a network and pass it with --data: edgeres compile resnet18 --target TARGET --data {path}"
    elif weights:
        hint = f"name its network and the file in it: {_PLACE.format(f'resnet18 --weights {weights[0]}')}"
    return ModelError(f"{path} is {what}, not a MODEL", hint)
