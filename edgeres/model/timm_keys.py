"""Key names of timm's pre-activation ResNets and of its ByobNet as those of the graph.

timm's other ResNets have the graph's names already. A ByobNet is a ResNet assembled of named layers: ``conv1_1x1.conv``
and ``conv1_1x1.bn`` are a block's ``conv1`` and ``bn1``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_BLOCK = re.compile(r"^stages\.(\d+)\.(?:blocks\.)?(\d+)\.")
_LAYER = re.compile(r"^conv(\d)_(?:1x1|kxk)\.(conv|bn)\.")
_IN_BLOCK = (
    (re.compile(r"^norm(\d)\."), r"bn\1."),
    (re.compile(r"^attn\."), "se."),
    (re.compile(r"^shortcut\.conv\.conv\."), "downsample.1."),
    (re.compile(r"^shortcut\.conv\.bn\."), "downsample.2."),
    (re.compile(r"^shortcut\.conv\."), "downsample.0."),
    (re.compile(r"^shortcut\.bn\."), "downsample.1."),
)
_STEM = re.compile(r"^stem\.(conv|norm)(\d)\.(?:(conv|bn)\.)?")
_OUTSIDE = (
    (re.compile(r"^stem\.conv\."), "conv1."),
    (re.compile(r"^final_conv\.conv\."), "final_conv."),
    (re.compile(r"^final_conv\.bn\."), "final_bn."),
    (re.compile(r"^head\.pos_embed$"), "attnpool.weight"),
    (re.compile(r"^head\.([qkv])\."), r"attnpool.\1."),
    (re.compile(r"^head\.proj\."), "fc."),
    (re.compile(r"^head\.norm\."), "hidden_norm."),
    (re.compile(r"^head\.pre_logits\.fc\."), "hidden."),
)


def timm_keys(keys: Iterable[str]) -> Mapping[str, str]:
    """The graph's name of every key that is one of timm's, and the key itself otherwise.

    A deep stem counts its convolutions from 1. The pre-activation networks that have one pool their shortcuts by an
    average, which leaves no trace in the names.
    """
    keys = list(keys)
    numbers = [int(match[2]) for key in keys if (match := _STEM.match(key)) and match[1] == "conv"]
    return {key: _renamed(key, max(numbers, default=0)) for key in keys}


def _renamed(key: str, convolutions: int) -> str:
    if match := _STEM.match(key):
        return f"{_stem(match, convolutions)}.{key[match.end() :]}"
    if match := _BLOCK.match(key):
        block, rest = f"layer{int(match[1]) + 1}.{match[2]}", key[match.end() :]
        if layer := _LAYER.match(rest):
            return f"{block}.{layer[2]}{layer[1]}.{rest[layer.end() :]}"
        rest = re.sub(r"^downsample\.conv\.", f"downsample.{int(convolutions > 0)}.", rest)
        rest = re.sub(r"^downsample\.norm\.", f"downsample.{1 + (convolutions > 0)}.", rest)
        for pattern, replacement in _IN_BLOCK:
            rest = pattern.sub(replacement, rest)
        return f"{block}.{rest}"
    for pattern, replacement in _OUTSIDE:
        key = pattern.sub(replacement, key)
    return key


def _stem(match: re.Match[str], convolutions: int) -> str:
    """Name of a layer of a deep stem: the norm of its last convolution is ``bn1``, others follow theirs."""
    number = int(match[2])
    if match[1] == "norm" or match[3] == "bn":
        return "bn1" if number == convolutions else f"conv1.{3 * number - 2}"
    return f"conv1.{3 * number - 3}"
