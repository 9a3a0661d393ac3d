"""The architecture that a weights file or its ``config.json`` names, beside the model that the user names.

Tensors do not tell an anti-aliased network from a plain one, nor where a stride is. The name does: in the metadata of a
``.safetensors`` file, or in the ``config.json`` that timm writes beside it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from edgeres.errors import ModelError
from edgeres.model.likeness import bare, preset_name
from edgeres.model.presets import PRESETS
from edgeres.model.weight_files import CONFIG, json_object

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.model.spec import ResNetSpec

_BLURRED = re.compile(r"res(?:net|next)(?:blur|aa)")
_KEY = "architecture"
_HARMLESS = frozenset(("num_classes", "in_chans", "drop_rate", "drop_path_rate", "drop_block_rate", "img_size"))
"""Arguments of timm's models that change no operation of inference, or that tensors tell."""

_PLAIN: dict[str, object] = {"global_pool": "avg", "output_stride": 32, "act_layer": None, "norm_layer": None}
"""Other arguments, with their values in the networks that bear the name."""


def check_architecture(path: Path, hint: ResNetSpec, stated: str = "") -> None:
    """Compares the architecture that a file states with the model that the user named.

    ``stated`` is a name from inside the file; by default its metadata and the ``config.json`` beside it are read.

    Raises:
        ModelError: It is another network, or a variant of the named one by an argument.
    """
    config = json_object(path.parent / CONFIG)
    for where, content in ((path.name, {_KEY: stated or _metadata(path).get(_KEY)}), ("config.json beside it", config)):
        name = content.get(_KEY)
        if not isinstance(name, str):
            continue
        model = name.partition(".")[0].removesuffix("_pruned")  # behind a point timm has the training, not the network
        named = preset_name(hint)
        if model not in PRESETS and _BLURRED.match(model):
            what = f"{where} says that the network is {model[:40]}, which blurs as it downsamples and is no preset"
            raise ModelError(what, "export the model to ONNX and compile the .onnx file")
        if model in PRESETS and bare(PRESETS[model]) != bare(hint):
            what = f"{where} says that the network is {name}; the model named is {named or 'another one'}"
            raise ModelError(what, f"name {model} instead")
    arguments = config.get("model_args")
    for argument, value in (
        arguments.items() if isinstance(arguments, dict) and isinstance(config.get(_KEY), str) else ()
    ):
        if argument not in _HARMLESS and (argument not in _PLAIN or value != _PLAIN[argument]):
            what = f"config.json beside it has {argument}={value!r}, which makes another network of {config[_KEY]}"
            raise ModelError(what, "export the model to ONNX and compile the .onnx file")


def _metadata(path: Path) -> dict[str, Any]:
    if path.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(str(path), framework="np") as file:
        return dict(file.metadata() or {})
