"""``Companion``: class names and preprocessing stored with weights.

Sources are strings inside the file (safetensors' metadata, ONNX's ``metadata_props``) and JSON beside it:

* ``edgeres.classes`` and ``edgeres.preprocess``, which edgeres itself writes into ONNX files;
* class names under ``names`` (Ultralytics), ``class_names``, ``classes``, ``labels``, ``label_names`` or ``id2label``:
  a list, or a dictionary from the index, as JSON or as Python writes it;
* the same keys of a PyTorch file, beside its weights or under ``meta`` (OpenMMLab), ``hyper_parameters`` (Lightning),
  ``args`` or ``config``;
* ``config.json``: ``label_names`` and ``pretrained_cfg`` (timm), ``id2label`` (Hugging Face transformers);
* ``classes.txt``, ``labels.txt``, ``class_names.txt``, one name a line, and ``class_indices.json``,
  ``index_to_name.json``, ``labels.json``, ``imagenet_class_index.json``, as training scripts write them; only where
  they have as many names as the network has outputs;
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
from edgeres.data.size import Size
from edgeres.errors import EdgeresError, ModelError
from edgeres.model.presets import preset
from edgeres.model.state_dict import entries
from edgeres.model.weight_files import INDEX, json_object
from edgeres.model.weights import torch_file
from edgeres.model.zoo import published, read_checkpoint, recognised
from edgeres.onnx_graph.external import parse as parse_onnx
from edgeres.onnx_graph.main_output import with_main_output
from edgeres.onnx_graph.signature import signature
from edgeres.settings import parse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgeres.artifacts.source import Source

_NAMES = ("edgeres.classes", "names", "class_names", "classes", "labels", "label_names", "id2label", "CLASSES")
"""Keys of class names, the most reliable first."""

_LISTS = (
    "classes.txt", "labels.txt", "class_names.txt", "class_indices.json", "index_to_name.json", "labels.json",
    "imagenet_class_index.json",
)  # fmt: skip
"""Files of class names that may lie beside weights."""

_DESCRIPTIONS = ("meta", "hyper_parameters", "args", "config")
"""Keys of a training checkpoint under which frameworks store what a network was trained on."""

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
    config, processor = (json_object(path.parent / name) for name in ("config.json", "preprocessor_config.json"))
    inside = _classes(strings)
    classes = inside or _classes(_described(config))
    preprocess = _checked(_value(strings.get("edgeres.preprocess"))) or _timm(config) or _transformers(processor)
    where = path.name if inside else "config.json beside it"
    if not classes:
        classes, where = _beside(path.parent)
    return Companion(classes, preprocess, where if classes else "")


def _beside(folder: Path) -> tuple[tuple[str, ...], str]:
    """Class names in the first list of them in a folder, and its name."""
    for name in _LISTS:
        try:
            text = (folder / name).read_text(encoding="utf-8-sig") if (folder / name).is_file() else ""
        except (OSError, UnicodeDecodeError):
            continue
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if len(text) <= _MOST_BYTES and (names := _listed(_value(text) if name.endswith(".json") else lines)):
            return names, f"{name} beside it"
    return (), ""


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


def outputs(source: Source) -> int | None:
    """Number of outputs of a network from a file; None where it cannot be read, which the loading stage reports."""
    if source.file is None:
        return None
    try:
        if source.file.path.suffix == ".onnx":
            model, _ = with_main_output(parse_onnx(source.file.path), source.main_output)
            return signature(model).classes
        return read_checkpoint(source.file.path, preset(source.model)).spec.classes
    except EdgeresError:
        return None


def _metadata(path: Path) -> dict[str, Any]:
    if path.suffix == ".onnx":
        return {entry.key: entry.value for entry in parse_onnx(path).metadata_props}
    if path.name.endswith(INDEX):
        return {}
    if path.suffix != ".safetensors":
        return _described_in(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            strings: dict[str, Any] = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return {}  # the stage that reads the tensors reports errors in the file
    own = _value(strings.get("edgeres", ""))
    return {**strings, "edgeres.classes": own.get("classes")} if isinstance(own, dict) else strings


def _described_in(path: Path) -> dict[str, Any]:
    """Entries of a PyTorch file that may hold class names."""
    try:
        content = entries(torch_file(path).content) or {}
    except ModelError:
        return {}  # the stage that reads the tensors reports errors in the file
    places = [content, *(entries(content.get(name)) or {} for name in _DESCRIPTIONS)]
    places += [entries(place.get("dataset_meta")) or {} for place in places]
    return {name: place[name] for place in reversed(places) for name in _NAMES if name in place}


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
    """Names of a list, or of a dictionary from or to all indices from 0 on; placeholders are no names.

    A name may be a list of several, such as Keras' WordNet id and word.
    """
    if isinstance(value, dict) and value and all(type(index) is int for index in value.values()):
        value = {index: name for name, index in value.items()}
    if isinstance(value, dict):
        try:
            numbered = {int(key): name for key, name in value.items()}
        except (TypeError, ValueError):
            return ()
        if sorted(numbered) != list(range(len(value))):
            return ()
        value = [numbered[index] for index in range(len(value))]
        lists = (isinstance(name, list) and name and all(isinstance(word, str) for word in name) for name in value)
        value = [", ".join(name) for name in value] if all(lists) else value
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
    crop = _size(size[-2:]) if isinstance(size, list) else None
    share = cfg.get("test_crop_pct") or cfg.get("crop_pct") or 0.875
    interpolation = cfg.get("interpolation", "bicubic")
    return _sized(crop, share, {"mean": cfg["mean"], "std": cfg["std"], "interpolation": interpolation})


def _transformers(processor: Mapping[str, Any]) -> Preprocess | None:
    """``preprocessor_config.json``: ConvNextImageProcessor's share of the resize, or explicit sizes."""
    mean, std = processor.get("image_mean"), processor.get("image_std")
    if mean is None or std is None or processor.get("do_normalize") is False:
        return None
    interpolation = _FILTERS.get(processor.get("resample", 2), "bilinear")
    size, crop = processor.get("size"), processor.get("crop_size")
    normalisation = {"mean": mean, "std": std, "interpolation": interpolation}
    if isinstance(size, dict) and "height" in size:  # ViTImageProcessor's and others' size of the whole image
        normalisation["resize_mode"] = "stretch"
    if crop is not None and processor.get("do_center_crop", True):
        return _checked({"resize": _stated(size), "crop": _stated(crop), **normalisation})
    return _sized(_size(_stated(size)), processor.get("crop_pct", 1.0), normalisation)


def _stated(size: object) -> object:
    """A size in Hugging Face's form: a number, the shortest edge, or height and width."""
    if not isinstance(size, dict):
        return size
    return size.get("shortest_edge", (size.get("height"), size.get("width")))


def _size(value: object) -> Size | None:
    try:
        return Size.read(tuple(value) if isinstance(value, list) else value)
    except ValueError:
        return None


def _sized(crop: Size | None, share: object, normalisation: dict[str, object]) -> Preprocess | None:
    """A crop that is a share of the resize."""
    if crop is None or not isinstance(share, int | float) or not 0 < share <= 1:
        return None
    resize = Size(*(int(side / share) for side in crop))
    return _checked({"resize": resize, "crop": crop, **normalisation})


def _checked(content: object) -> Preprocess | None:
    if not isinstance(content, dict):
        return None
    try:
        return parse(Preprocess, content, "preprocessing")
    except EdgeresError:
        return None
