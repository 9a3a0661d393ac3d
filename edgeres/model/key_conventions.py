"""Keys of other libraries' state dicts, renamed to the graph's, which are torchvision's.

A convention is recognised by the key of the first block's first convolution; what stands before it is the prefix of the
network, whatever a framework calls it. Conventions: torchvision, timm, akamaster/pytorch_resnet_cifar10,
kuangliu/pytorch-cifar, weiaicunzai/pytorch-cifar100, Hugging Face transformers, detectron2, Caffe2, OpenAI's and
open_clip's CLIP, and ``nn.Sequential(*resnet.children())``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Rule = tuple[re.Pattern[str], str]
_BLOCK = r"^{}(\d+)\.(\d+)\."


TIMM = "timm"  # the convention whose names depend on each other: model/timm_keys.py


@dataclass(frozen=True, slots=True)
class Convention:
    """A library's names: the key of the first block's first convolution, and rules that lead to the graph's.

    Stage numbers of ``stage`` are shifted by ``shift`` to begin at 1. ``first`` is a further key that must be there. Of
    two conventions with one anchor the earlier is meant.
    """

    name: str
    anchor: re.Pattern[str]
    rules: tuple[Rule, ...] = ()
    stage: re.Pattern[str] | None = None
    shift: int = 0
    first: str = ""

    def renamed(self, key: str) -> str:
        """The graph's key, for a key without its prefix."""
        for pattern, replacement in self.rules:
            key = pattern.sub(replacement, key)
        if self.stage is not None and (match := self.stage.match(key)):
            key = f"layer{int(match[1]) + self.shift}.{match[2]}.{key[match.end() :]}"
        return key


def _anchor(key: str) -> re.Pattern[str]:
    return re.compile(rf"^((?:.*\.)?){key}$")


def _rule(pattern: str, replacement: str) -> Rule:
    return re.compile(pattern), replacement


def _conv_number(match_offset: int) -> tuple[Rule, ...]:
    """Convolutions and norms of a block that are counted from ``match_offset`` in steps, as conv1, bn1, ..."""
    return tuple(
        rule
        for number in range(3)
        for rule in (
            _rule(rf"\.residual_function\.{number * match_offset}\.", f".conv{number + 1}."),
            _rule(rf"\.residual_function\.{number * match_offset + 1}\.", f".bn{number + 1}."),
        )
    )


def _transformers() -> tuple[Rule, ...]:
    numbered = tuple(
        rule
        for number in range(3)
        for rule in (
            _rule(rf"\.layer\.{number}\.convolution\.", f".conv{number + 1}."),
            _rule(rf"\.layer\.{number}\.normalization\.", f".bn{number + 1}."),
        )
    )
    return (
        _rule(r"^embedder\.embedder\.convolution\.", "conv1."),
        _rule(r"^embedder\.embedder\.normalization\.", "bn1."),
        _rule(r"^encoder\.stages\.(\d+)\.layers\.", r"stages.\1."),
        _rule(r"\.shortcut\.convolution\.", ".downsample.0."),
        _rule(r"\.shortcut\.normalization\.", ".downsample.1."),
        *numbered,
    )


_CAFFE2 = (
    _rule(r"^(?:res_)?conv1_bn_([sb])$", r"bn1_\1"),
    _rule(r"^res(\d+)_(\d+)_branch2([abc])(.*)$", r"res\1.\2.branch2\3\4"),
    _rule(r"^res(\d+)_(\d+)_branch1(.*)$", r"res\1.\2.downsample.0\3"),
    _rule(r"\.downsample\.0_bn_", ".downsample.1_"),
    *(_rule(rf"\.branch2{letter}_bn_", f".bn{number}_") for number, letter in enumerate("abc", start=1)),
    *(_rule(rf"\.branch2{letter}_", f".conv{number}_") for number, letter in enumerate("abc", start=1)),
    _rule(r"^(?:pred|fc1000|fc)_", "fc_"),
    _rule(r"_[ws]$", ".weight"),
    _rule(r"_b$", ".bias"),
)

_SHORTCUT = (
    _rule(r"\.downsample\.conv\.", ".downsample.0."),
    _rule(r"\.downsample\.norm\.", ".downsample.1."),
    _rule(r"\.shortcut\.(\d)\.", r".downsample.\1."),
)

_CLIP = (
    *(_rule(rf"^conv{number}\.", f"conv1.{3 * number - 3}.") for number in (1, 2, 3)),
    *(_rule(rf"^bn{number}\.", f"conv1.{3 * number - 2}.") for number in (1, 2)),
    _rule(r"^bn3\.", "bn1."),
    _rule(r"\.downsample\.1\.", ".downsample.2."),
    _rule(r"\.downsample\.0\.", ".downsample.1."),
    _rule(r"^attnpool\.positional_embedding$", "attnpool.weight"),
    _rule(r"^attnpool\.([qkv])_proj\.", r"attnpool.\1."),
    _rule(r"^attnpool\.c_proj\.", "fc."),
)

CONVENTIONS = (
    Convention("CLIP", _anchor(r"layer1\.0\.conv1\.weight"), _CLIP, first="attnpool.q_proj.weight"),
    Convention("torchvision", _anchor(r"layer1\.0\.conv1\.weight"), _SHORTCUT),
    Convention(TIMM, _anchor(r"stages\.0\.(?:blocks\.)?0\.(?:conv1|conv1_\w+\.conv)\.weight")),
    Convention(
        "transformers",
        _anchor(r"encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight"),
        _transformers(),
        re.compile(_BLOCK.format(r"stages\.")),
        1,
    ),
    Convention(
        "detectron2",
        _anchor(r"res2\.0\.conv1\.weight"),
        (
            _rule(r"^stem\.fc\.", "fc."),
            _rule(r"^stem\.conv1\.norm\.", "bn1."),
            _rule(r"^stem\.conv1\.", "conv1."),
            _rule(r"\.conv(\d)\.norm\.", r".bn\1."),
            _rule(r"\.shortcut\.norm\.", ".downsample.1."),
            _rule(r"\.shortcut\.", ".downsample.0."),
        ),
        re.compile(_BLOCK.format("res")),
        -1,
    ),
    Convention("Caffe2", _anchor("res2_0_branch2a_w"), _CAFFE2, re.compile(_BLOCK.format("res")), -1),
    Convention(
        "weiaicunzai",
        _anchor(r"conv2_x\.0\.residual_function\.0\.weight"),
        (
            _rule(r"^conv1\.0\.", "conv1."),
            _rule(r"^conv1\.1\.", "bn1."),
            _rule(r"^conv(\d)_x\.", r"stages\1."),
            *_conv_number(3),
            *_SHORTCUT,
        ),
        re.compile(_BLOCK.format("stages")),
        -1,
    ),
    Convention(
        "children",
        _anchor(r"4\.0\.conv1\.weight"),
        (_rule(r"^0\.", "conv1."), _rule(r"^1\.", "bn1."), *_SHORTCUT),
        re.compile(_BLOCK.format("")),
        -3,
        "0.weight",
    ),
)
