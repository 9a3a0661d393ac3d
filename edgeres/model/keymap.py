"""Renaming of state-dict keys of other libraries to the graph's.

The graph uses torchvision's names. Supported besides: timm's ResNets and SE-ResNets (equal to torchvision's, with
``se.fc1`` and ``se.fc2``), timm's pre-activation ``resnetv2``, the CIFAR networks of akamaster/pytorch_resnet_cifar10
and kuangliu/pytorch-cifar (``linear``, ``shortcut.0``), and heads inside a Sequential (``fc.1``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from edgeres.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

V = TypeVar("V")

_PREFIX = re.compile(r"^((module|model|backbone|encoder|net|network|_orig_mod)\.)+")
"""Prefixes of data parallelism, EMA, Lightning modules and torch.compile."""

_BOOKKEEPING = re.compile(r"(^|\.)(num_batches_tracked|n_averaged)$")
"""Training counters that inference does not read."""

_RENAMES = (
    (re.compile(r"^stem\.conv\."), "conv1."),
    (re.compile(r"^stages\.(\d+)\.blocks\.(\d+)\.norm(\d)\."), r"stages.\1.blocks.\2.bn\3."),
    (re.compile(r"\.downsample\.conv\."), ".downsample.0."),
    (re.compile(r"\.downsample\.norm\."), ".downsample.1."),
    (re.compile(r"\.shortcut\.(\d)\."), r".downsample.\1."),
)

_STAGE = re.compile(r"^stages\.(\d+)\.blocks\.(\d+)\.")
_HEAD = re.compile(r"^((?:fc|linear|head|classifier)(?:\.fc|\.\d+)*)\.(weight|bias)$")


def canonical(tensors: Mapping[str, V]) -> dict[str, V]:
    """Renames a state dict's keys to the graph's and drops the counters.

    Args:
        tensors: Values of any kind under another library's keys.

    Returns:
        The same values under the graph's keys; a key that is not recognised keeps its name.

    Raises:
        ModelError: Two keys become one, or the head has several layers.
    """
    found: dict[str, V] = {}
    came_from: dict[str, str] = {}
    head = _head({_PREFIX.sub("", key) for key in tensors})
    for key, value in tensors.items():
        if _BOOKKEEPING.search(key):
            continue
        name = _renamed(_PREFIX.sub("", key), head)
        if name in found:
            raise ModelError(
                f"keys {came_from[name]!r} and {key!r} both stand for {name!r}", "save one network alone in the file"
            )
        found[name] = value
        came_from[name] = key
    return found


def _renamed(key: str, head: str) -> str:
    if head and key.startswith(f"{head}."):
        return f"fc.{key.removeprefix(f'{head}.')}"
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    if match := _STAGE.match(key):
        key = f"layer{int(match[1]) + 1}.{match[2]}.{key[match.end() :]}"
    return key


def _head(keys: Iterable[str]) -> str:
    """Name of the one linear layer of the classifier; empty when there is none."""
    layers = sorted({match[1] for key in keys if (match := _HEAD.match(key))})
    if len(layers) > 1:
        raise ModelError(
            f"the classifier has {len(layers)} layers ({', '.join(layers)}), a ResNet has one",
            "edgeres reads ResNets; take any other classifier in as an .onnx file",
        )
    return layers[0] if layers else ""
