"""``Companion``: class names and preprocessing stored with weights.

Sources are strings inside the file (safetensors' metadata, ONNX's ``metadata_props``) and JSON beside it:

* ``edgeres.classes`` and ``edgeres.preprocess``, which edgeres itself writes into ONNX files;
* class names under ``names`` (Ultralytics), ``class_names``, ``classes``, ``labels``, ``label_names`` or ``id2label``:
  a list, or a dictionary from the index, as JSON or as Python writes it;
* ``config.json``: ``label_names`` and ``pretrained_cfg`` (timm), ``id2label`` (Hugging Face transformers);
* ``preprocessor_config.json``: ``image_mean``, ``image_std``, ``size``, ``crop_pct`` (Hugging Face transformers).

All content is treated as text; what cannot be parsed is ignored.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeres.data.preprocess import Preprocess
from edgeres.errors import EdgeresError
from edgeres.model.spec import preset
from edgeres.model.zoo import published, recognised
from edgeres.onnx_graph.external import parse as parse_onnx
from edgeres.settings import parse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgeres.artifacts.artifact import Source

_NAMES = ("edgeres.classes", "names", "class_names", "classes", "labels", "label_names", "id2label")
"""Keys of class names, the most reliable first."""

_PLACEHOLDER = re.compile(r"(label|class)?[ _-]?\d+", re.IGNORECASE)
"""Names that are only a number, such as ``LABEL_3``."""

_MOST_BYTES = 1 << 22
"""Longest text that is read."""

_FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of resampling filters, as in Hugging Face's files."""


@dataclass(frozen=True, slots=True)
class Companion:
    """Class names of a weights file in the order of the network's outputs, their source, and its preprocessing."""

    classes: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    where: str = ""


def read_companion(path: Path) -> Companion:
    """The companion of a ``.safetensors``, a ``.onnx`` or a PyTorch file."""
    strings = _metadata(path)
    config, processor = (_json_file(path.parent / name) for name in ("config.json", "preprocessor_config.json"))
    inside = _classes(strings)
    classes = inside or _classes(_described(config))
    preprocess = _checked(_value(strings.get("edgeres.preprocess"))) or _timm(config) or _transformers(processor)
    where = path.name if inside else "config.json beside it"
    return Companion(classes, preprocess, where if classes else "")


def published_companion(source: Source) -> Companion | None:
    """The class names of weights that torchvision publishes; None for any other weights.

    Raises:
        ModelError: The name is unknown to torchvision.
    """
    if source.weights is not None:
        member = published(source.weights, preset(source.model))
    elif source.file is not None and source.file.path.suffix != ".onnx":
        member = recognised(source.file.path, preset(source.model))
    else:
        return None
    return None if member is None else Companion(tuple(member.meta["categories"]), None, "torchvision")


def _metadata(path: Path) -> dict[str, Any]:
    if path.suffix == ".onnx":
        return {entry.key: entry.value for entry in parse_onnx(path).metadata_props}
    if path.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            strings: dict[str, Any] = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return {}  # the stage that reads the tensors reports errors in the file
    own = _value(strings.get("edgeres", ""))
    return {**strings, "edgeres.classes": own.get("classes")} if isinstance(own, dict) else strings


def _json_file(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _value(text: object) -> object:
    if not isinstance(text, str) or len(text) > _MOST_BYTES:
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _classes(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names by the first key that has any."""
    return next(filter(None, (_listed(_value(content.get(key))) for key in _NAMES)), ())


def _described(config: dict[str, Any]) -> dict[str, Any]:
    """The config, each of timm's ``label_names`` followed by its words in ``label_descriptions`` where it has them."""
    cfg = config.get("pretrained_cfg")
    both = {**(cfg if isinstance(cfg, dict) else {}), **config}
    names, words = both.get("label_names"), both.get("label_descriptions")
    if isinstance(names, list) and isinstance(words, dict) and all(isinstance(words.get(name), str) for name in names):
        return {"label_names": [f"{name}, {words[name]}" for name in names]}
    return both


def _listed(value: object) -> tuple[str, ...]:
    """Names of a list, or of a dictionary whose keys are all indices from 0 on; placeholders are no names."""
    if isinstance(value, dict):
        try:
            numbered = {int(key): name for key, name in value.items()}
        except (TypeError, ValueError):
            return ()
        if sorted(numbered) != list(range(len(value))):
            return ()
        value = [numbered[index] for index in range(len(value))]
    if not isinstance(value, list | tuple) or len(value) < 2 or not all(isinstance(name, str) for name in value):
        return ()
    names = tuple(str(name) for name in value)
    return () if all(_PLACEHOLDER.fullmatch(name) for name in names) else names


def _timm(config: Mapping[str, Any]) -> Preprocess | None:
    """``pretrained_cfg``: the crop is the input size, and a share ``crop_pct`` of the resize."""
    cfg = config.get("pretrained_cfg")
    if not isinstance(cfg, dict) or "mean" not in cfg or "std" not in cfg:
        return None
    size = cfg.get("test_input_size") or cfg.get("input_size")
    side = size[-1] if isinstance(size, list) and size else None
    share = cfg.get("test_crop_pct") or cfg.get("crop_pct") or 0.875
    interpolation = cfg.get("interpolation", "bicubic")
    return _sized(side, share, {"mean": cfg["mean"], "std": cfg["std"], "interpolation": interpolation})


def _transformers(processor: Mapping[str, Any]) -> Preprocess | None:
    """``preprocessor_config.json``: ConvNextImageProcessor's share of the resize, or explicit sizes."""
    mean, std = processor.get("image_mean"), processor.get("image_std")
    if mean is None or std is None or processor.get("do_normalize") is False:
        return None
    interpolation = _FILTERS.get(processor.get("resample", 2), "bilinear")
    size, crop = processor.get("size"), processor.get("crop_size")
    resize = size.get("shortest_edge", size.get("height")) if isinstance(size, dict) else size
    side = crop.get("height") if isinstance(crop, dict) else crop
    normalisation = {"mean": mean, "std": std, "interpolation": interpolation}
    if side is not None and processor.get("do_center_crop", True):
        return _checked({"resize": resize, "crop": side, **normalisation})
    return _sized(resize, processor.get("crop_pct", 1.0), normalisation)


def _sized(side: object, share: object, normalisation: dict[str, object]) -> Preprocess | None:
    """A crop that is a share of the resize."""
    if not isinstance(side, int) or not isinstance(share, int | float) or not 0 < share <= 1:
        return None
    return _checked({"resize": int(side / share), "crop": side, **normalisation})


def _checked(content: object) -> Preprocess | None:
    if not isinstance(content, dict):
        return None
    try:
        return parse(Preprocess, content, "preprocessing")
    except EdgeresError:
        return None
