"""Files of one network's weights: a folder as Hugging Face has it, an index of several files, and their companions."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeres.errors import ModelError
from edgeres.model.presets import weights_in
from edgeres.settings import digest, sha256_file

if TYPE_CHECKING:
    from edgeres.model.spec import ResNetSpec

INDEX = ".index.json"
CONFIG = "config.json"
_CUSTOMARY = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
"""Names of weights in a folder of Hugging Face's, the preferred first."""

_MOST_BYTES = 1 << 22  # bytes of the longest JSON file that is read


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def weights_of(path: Path) -> Path:
    """The file of weights, or their index, that a path names: itself, or the one in a folder.

    Raises:
        ModelError: A folder without weights, or with several files of which none has a customary name.
    """
    if not path.is_dir():
        return path
    for name in _CUSTOMARY:
        if (path / name).is_file():
            return path / name
    files = weights_in(path)
    if len(files) == 1:
        return files[0]
    if not files:
        raise ModelError(f"--weights {path} is a folder without weights", "name a file, such as model.safetensors")
    names = ", ".join(file.name for file in files[:5])
    raise ModelError(f"--weights {path} is a folder with several weights: {names}", f"name one: --weights {files[0]}")


def shards(index: Path) -> tuple[Path, ...]:
    """The files that an index names, each once.

    Raises:
        ModelError: The index is damaged, names a file outside of its folder, or one that is missing.
    """
    table = json_object(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ModelError(f"{index} has no weight_map", "fetch it again")
    files = []
    for name in sorted({str(name) for name in table.values()}):
        if Path(name).name != name or "\\" in name:
            raise ModelError(f"{index} names {name!r}, which is outside of its folder", "fetch it again")
        if not (index.parent / name).is_file():
            raise ModelError(f"{index} names {name}, which is missing", f"fetch it into {index.parent}")
        files.append(index.parent / name)
    return tuple(files)


def files_of(path: Path) -> tuple[Path, ...]:
    """Every file that says what a network is: its weights, and the configuration beside them."""
    beside = path.parent / CONFIG
    own = (path, *shards(path)) if path.name.endswith(INDEX) else (path,)
    return (*own, beside) if json_object(beside) else own


def content_digest(path: Path) -> str:
    """sha256 over the files of a network's weights, as 64 hex digits; that of the file itself where it is alone."""
    files = files_of(path)
    return sha256_file(path) if len(files) == 1 else digest([sha256_file(file) for file in files])


@dataclass(frozen=True, slots=True)
class Layout:
    """What tensors do not show of a network, as ``config.json`` states it; None where it does not.

    They are those of a ``ResNetConfig`` of Hugging Face transformers.
    """

    stride_in: Literal["3x3", "1x1"] | None = None
    first_stride: int | None = None

    def of(self, spec: ResNetSpec) -> ResNetSpec:
        """A spec with the strides that are stated.

        Raises:
            ModelError: A first stage that halves the resolution of basic blocks, whose shortcut no preset has.
        """
        if self.first_stride == 2 and spec.kind == "basic":
            what = f"{CONFIG} states downsample_in_first_stage, which no preset of basic blocks has"
            raise ModelError(what, "take the network in as an .onnx file")
        if self.stride_in is not None and spec.kind == "bottleneck":
            spec = replace(spec, stride_in=self.stride_in)
        if self.first_stride is not None:
            first, *rest = spec.stages
            changed = (replace(first[0], stride=self.first_stride), *first[1:])
            spec = replace(spec, stages=(changed, *rest))
        return spec


def read_layout(path: Path) -> Layout:
    """The layout that ``config.json`` beside weights states.

    Raises:
        ModelError: An activation that no ResNet has.
    """
    beside = path.parent / CONFIG
    config = json_object(beside)
    if config.get("model_type") == "resnet":
        if config.get("hidden_act", "relu") != "relu":
            what = f"{beside}: hidden_act is {str(config['hidden_act'])[:40]!r}, a ResNet has relu"
            raise ModelError(what, "take the network in as an .onnx file")
        stride_in: Literal["3x3", "1x1"] = "1x1" if config.get("downsample_in_bottleneck") is True else "3x3"
        return Layout(stride_in, 2 if config.get("downsample_in_first_stage") is True else 1)
    return Layout()
