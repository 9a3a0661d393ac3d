"""``PRESETS``: the named networks of the ResNet family, and errors for other names."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from edgeres.errors import ModelError
from edgeres.model.families import named_networks
from edgeres.model.file_formats import other_format
from edgeres.model.spec import WEIGHT_SUFFIXES, ResNetSpec

_OTHERS = (
    (r"resnetv2_50d_evos", "EvoNorm takes statistics of each image that have no INT8 form"),
    (r"resnetv2_50d_frn", "filter response normalization takes statistics of each image that have no INT8 form"),
    (r"resnet(51|61)q", "its blocks are of several kinds and have up to four convolutions"),
    (r"gcresne(x?)t\w+", "it has global context attention"),
    (r"sk(resnet|resnext)\w+", "it has selective kernels"),
    (r"legacy_se\w+|senet154", "its squeeze and excitation, stem and shortcuts are those of SENet"),
    (r"test_resnet", "its stages have blocks of different kinds"),
)
"""timm's names of ResNets that are no preset, and why."""

_PLACE = "edgeres compile {} --target TARGET --data DIR"


PRESETS: dict[str, ResNetSpec] = named_networks()


def preset(name: str) -> ResNetSpec:
    """The spec of a known network; ``ModelError`` describes any other name, or has the nearest one."""
    if name not in PRESETS:
        raise _no_preset(name)
    return PRESETS[name]


def _no_preset(word: str) -> ModelError:
    """The error for a MODEL that is no preset, with a hint on how to give such a file."""
    known, path = {name.casefold(): name for name in sorted(PRESETS)}, Path(word)
    suffix = path.suffix.lower()
    if (other := other_format(word)) is not None:
        return other
    if path.is_dir():
        return _folder(path)
    if suffix in WEIGHT_SUFFIXES:
        name = max((known[name] for name in known if name in path.stem.casefold()), key=len, default="resnet18")
        what = f"{word} is a weights file, and a MODEL is a preset or an .onnx file"
        hint = f"name its network and pass the file with --weights: {_PLACE.format(f'{name} --weights {word}')}"
    elif word.lower().endswith((".yaml", ".yml")):
        what, hint = f"{word} is no MODEL", f"a recipe file is given with --recipe {word}"
    elif word.isupper() and "_" in word:
        what = f"{word} names weights, not a MODEL"
        hint = f"pass it with --weights: {_PLACE.format(f'resnet50 --weights {word}')}"
    elif reason := next((why for name, why in _OTHERS if re.fullmatch(name, word)), ""):
        what = f"{word} of timm is no preset: {reason}"
        hint = "export it with torch.onnx.export, and compile the .onnx file"
    elif path.is_file():
        what, hint = f"{word} is no preset and no .onnx file", "'edgeres models' lists presets"
    else:
        close = get_close_matches(word.casefold(), known, n=1, cutoff=0.7)
        listed = (
            "'edgeres models' lists the presets, all of them ResNets; any other classifier is given as an .onnx file"
        )
        what, hint = f"unknown model {word!r}", f"did you mean {known[close[0]]!r}?" if close else listed
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
