"""The networks of the ResNet family by name: depths, widths and kinds of stems, blocks and shortcuts."""

from __future__ import annotations

from math import log2
from typing import Any

from edgeres.errors import ModelError
from edgeres.model.spec import Block, Kind, ResNetSpec, Shortcut, Stem


def imagenet(
    kind: Kind,
    depths: tuple[int, ...],
    *,
    outs: tuple[int, ...] = (),
    groups: int = 1,
    group_width: int = 64,
    squeeze_ratio: int = 0,
    eca: bool = False,
    **fields: Any,
) -> ResNetSpec:
    """The ImageNet family: 7x7 stem with pooling, four stages of 64, 128, 256, 512 planes.

    The 3x3 of a bottleneck has ``planes * group_width / 64 * groups`` channels, as in torchvision. ``outs`` are the
    channels of the stages where they are not those; the 3x3 has a quarter of them then, in groups of ``group_width``
    channels where ``groups`` is 0. ``fields`` are those of ``ResNetSpec``.
    """
    expansion = 4 if kind == "bottleneck" else 1
    stages: list[tuple[Block, ...]] = []
    stem: Stem = fields.setdefault("stem", Stem())
    width = stem.width
    for number, depth in enumerate(depths):
        out = outs[number] if outs else (64 << number) * expansion
        planes = out // expansion
        inner = planes if outs else planes * group_width * groups // 64
        attended, least = (inner, 8) if fields.get("attention") == "3x3" else (out, 1)
        blocks = []
        for index in range(depth):
            stride = 2 if number > 0 and index == 0 else 1
            block = Block(
                inner=(inner, inner) if kind == "bottleneck" else (planes,),
                out=out,
                stride=stride,
                groups=groups or inner // group_width,
                projected=stride != 1 or width != out,
                squeeze=max(attended // squeeze_ratio, least) if squeeze_ratio else 0,
                eca=_eca_kernel(attended) if eca else 0,
            )
            blocks.append(block)
            width = out
        stages.append(tuple(blocks))
    return ResNetSpec(kind=kind, stages=tuple(stages), **fields)


def _eca_kernel(width: int) -> int:
    """Kernel of efficient channel attention over so many channels (Wang et al. 2019, equation 12)."""
    reach = int((log2(width) + 1) / 2)
    return max(reach if reach % 2 else reach + 1, 3)


def cifar(depth: int, shortcut: Shortcut = "padding") -> ResNetSpec:
    """The CIFAR family of He et al. section 4.2: ``depth = 6 n + 2``, widths 16, 32, 64, no pooling."""
    count, rest = divmod(depth - 2, 6)
    if rest or count < 1:
        raise ModelError(f"resnet{depth} is no CIFAR ResNet", "depths are 6 n + 2, such as 20, 32, 44, 56 and 110")
    stages = tuple(
        tuple(
            Block(
                inner=(16 << number,),
                out=16 << number,
                stride=2 if number and not index else 1,
                projected=shortcut == "projection" and number > 0 and index == 0,
            )
            for index in range(count)
        )
        for number in range(3)
    )
    stem = Stem(width=16, kernel=3, stride=1, pool=False)
    return ResNetSpec(kind="basic", stem=stem, stages=stages, classes=10, shortcut=shortcut)


_BASIC = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3)}
_BOTTLENECK = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}
_DEPTHS = {
    "10": (1, 1, 1, 1),
    "14": (1, 1, 1, 1),
    **_BASIC,
    "26": (2, 2, 2, 2),
    **_BOTTLENECK,
    "200": (3, 24, 36, 3),
    "201": (3, 24, 36, 4),
    "269": (3, 30, 48, 8),
}
_SHALLOW = frozenset(("10", "18", "34"))  # depths of basic blocks
_RESNET_RS = {
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
    "200": (3, 24, 36, 3),
    "270": (4, 29, 53, 4),
    "350": (4, 36, 72, 4),
    "420": (4, 44, 87, 4),
}
_CLIP = {
    "50": (64, (3, 4, 6, 3), 7),
    "101": (64, (3, 4, 23, 3), 7),
    "50x4": (80, (4, 6, 10, 6), 9),
    "50x16": (96, (6, 8, 18, 8), 12),
    "50x64": (128, (3, 15, 36, 10), 14),
}
"""CLIP's networks (arXiv 2103.00020): width of the stem, a quarter of the first stage's; depths; side of features."""
_HEAD_WIDTH = 64  # channels of one head of CLIP's attention pool

_BIT = {"50x1": 1, "50x3": 3, "101x1": 1, "101x3": 3, "152x2": 2, "152x4": 4}
"""Big Transfer's networks (arXiv 1912.11370) with their width factors."""

_STEMS = {
    "": Stem(),
    "c": Stem(kernel=3, inner=(32, 32)),
    "d": Stem(kernel=3, inner=(32, 32)),
    "s": Stem(kernel=3, inner=(64, 64), width=128),
    "t": Stem(kernel=3, inner=(24, 32)),
}
"""Stems by the letter behind the depth in a name of timm; ``d`` and ``t`` also pool their shortcuts by averages."""

_TIMM = {
    "resnet": "10t 14t 18d 26 26d 26t 34d 50c 50d 50s 50t 101c 101d 101s 152c 152d 152s 200 200d",
    "seresnet": "50t 152d 200d 269d",
    "resnetblur": "18 50 50d 101d",
    "resnetaa": "34d 50 50d 101d",
    "seresnetaa": "50d",
    "ecaresnet": "26t 50d 50t 101d 200d 269d",
    "resnext": "50d_32x4d 101_32x4d 101_32x16d 101_32x32d",
    "seresnext": "26d_32x4d 26t_32x4d 50_32x4d 101_32x4d 101_32x8d 101_64x4d 101d_32x8d",
    "seresnextaa": "101d_32x8d 201d_32x8d",
    "ecaresnext": "26t_32x4d 50t_32x4d",
    "resnetv2_": "18d 34d 50d 50t 101d 152d",
}
"""Names of timm's that are made of their prefix, depth, stem, groups and group width."""


def _regular(prefix: str, suffix: str) -> ResNetSpec:
    """The network of a name in ``_TIMM``."""
    depth = next(depth for depth in sorted(_DEPTHS, key=len, reverse=True) if suffix.startswith(depth))
    letter, _, grouping = suffix.removeprefix(depth).partition("_")
    groups, _, group_width = grouping.removesuffix("d").partition("x")
    stem = _STEMS[letter]
    return imagenet(
        "basic" if depth in _SHALLOW else "bottleneck",
        _DEPTHS[depth],
        groups=int(groups or 1),
        group_width=int(group_width or 64),
        squeeze_ratio=16 if prefix.startswith("se") else 0,
        eca=prefix.startswith("eca"),
        stem=Stem(kernel=3, inner=(64, 64), width=128) if depth == "201" else stem,
        downsample="average" if letter in ("d", "t") else "stride",
        antialias="blur" if "blur" in prefix else "average" if prefix.endswith("aa") else "none",
        preactivation=prefix.endswith("v2_"),
    )


def _irregular() -> dict[str, ResNetSpec]:
    """Networks of timm's that have a rule of their own."""
    table = {"ecaresnetlight": imagenet("bottleneck", (1, 1, 11, 3), eca=True, downsample="average")}
    deep = Stem(kernel=3, inner=(32, 32), pooling="convolution")
    for name, depths in _RESNET_RS.items():
        table[f"resnetrs{name}"] = imagenet("bottleneck", depths, squeeze_ratio=4, stem=deep, downsample="average")
    tiered = Stem(kernel=3, inner=(24, 32), last_stride=2, pool=False)
    late: dict[str, Any] = {"outs": (256, 512, 1536, 1536), "stem": tiered, "activation": "silu", "attention": "3x3"}
    table["resnet32ts"] = imagenet("bottleneck", (2, 3, 3, 2), **late)
    table["resnet33ts"] = imagenet("bottleneck", (2, 3, 3, 2), features=1280, **late)
    table["seresnet33ts"] = imagenet("bottleneck", (2, 3, 3, 2), features=1280, squeeze_ratio=16, **late)
    table["eca_resnet33ts"] = imagenet("bottleneck", (2, 3, 3, 2), features=1280, eca=True, **late)
    late = {**late, "outs": (256, 512, 1024, 2048), "stem": Stem(kernel=3, inner=(24, 32)), "groups": 0}
    table["resnext26ts"] = imagenet("bottleneck", _DEPTHS["26"], group_width=32, **late)
    table["seresnext26ts"] = imagenet("bottleneck", _DEPTHS["26"], group_width=32, squeeze_ratio=16, **late)
    table["eca_resnext26ts"] = imagenet("bottleneck", _DEPTHS["26"], group_width=32, eca=True, **late)
    clip: dict[str, Any] = {"downsample": "average", "antialias": "average"}
    for name, (width, depths, side) in _CLIP.items():
        clip["stem"] = Stem(kernel=3, inner=(width // 2, width // 2), width=width, pooling="average")
        outs = tuple(width * 4 << number for number in range(4))
        table[f"resnet{name}_clip_gap"] = imagenet("bottleneck", depths, outs=outs, **clip)
        pool: dict[str, Any] = {"attention_heads": outs[-1] // _HEAD_WIDTH, "grid": (side, side)}
        table[f"resnet{name}_clip"] = imagenet("bottleneck", depths, outs=outs, **clip, **pool)
    clip["stem"] = Stem(kernel=3, inner=(32, 32), pooling="average")
    table["resnet50_mlp"] = imagenet("bottleneck", _BOTTLENECK["50"], hidden=1024, **clip)
    table["resnet50_gn"] = imagenet("bottleneck", _BOTTLENECK["50"], normalization="group")
    average: dict[str, Any] = {"stem": _STEMS["d"], "downsample": "average"}
    grouped: dict[str, Any] = {"normalization": "group", "preactivation": True}
    table["resnetv2_50d_gn"] = imagenet("bottleneck", _BOTTLENECK["50"], **average, **grouped)
    for name, factor in _BIT.items():
        outs = tuple(256 * factor << number for number in range(4))
        stem = Stem(width=64 * factor, zero_frame=True)
        depths = _BOTTLENECK[name.partition("x")[0]]
        table[f"resnetv2_{name}_bit"] = imagenet("bottleneck", depths, outs=outs, stem=stem, **grouped)
    return table


def iresnet(depths: tuple[int, ...]) -> ResNetSpec:
    """ArcFace's networks of insightface for faces of 112x112 pixels, with an embedding of 512 numbers."""
    stages = tuple(
        tuple(
            Block(inner=(64 << number,), out=64 << number, stride=1 if index else 2, projected=index == 0)
            for index in range(depth)
        )
        for number, depth in enumerate(depths)
    )
    stem = Stem(kernel=3, stride=1, pool=False)
    return ResNetSpec(
        kind="basic",
        stem=stem,
        stages=stages,
        classes=512,
        activation="prelu",
        leading_norm=True,
        grid=(7, 7),
    )


_IRESNET = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "50": (3, 4, 14, 3), "100": (3, 13, 30, 3)}


def named_networks() -> dict[str, ResNetSpec]:
    """Every network with a name: torchvision's, timm's, the CIFAR family and ArcFace's."""
    table: dict[str, ResNetSpec] = {}
    for name, depths in _BASIC.items():
        table[f"resnet{name}"] = imagenet("basic", depths)
        table[f"seresnet{name}"] = imagenet("basic", depths, squeeze_ratio=16)
        table[f"resnetv2_{name}"] = imagenet("basic", depths, preactivation=True)
    for name, depths in _BOTTLENECK.items():
        table[f"resnet{name}"] = imagenet("bottleneck", depths)
        table[f"resnet{name}_v1"] = imagenet("bottleneck", depths, stride_in="1x1")
        table[f"seresnet{name}"] = imagenet("bottleneck", depths, squeeze_ratio=16)
        table[f"resnetv2_{name}"] = imagenet("bottleneck", depths, preactivation=True)
    table["resnext50_32x4d"] = imagenet("bottleneck", _BOTTLENECK["50"], groups=32, group_width=4)
    table["resnext101_32x8d"] = imagenet("bottleneck", _BOTTLENECK["101"], groups=32, group_width=8)
    table["resnext101_64x4d"] = imagenet("bottleneck", _BOTTLENECK["101"], groups=64, group_width=4)
    table["wide_resnet50_2"] = imagenet("bottleneck", _BOTTLENECK["50"], group_width=128)
    table["wide_resnet101_2"] = imagenet("bottleneck", _BOTTLENECK["101"], group_width=128)
    for depth in (20, 32, 44, 56, 110):
        table[f"resnet{depth}"] = cifar(depth)
        table[f"resnet{depth}_b"] = cifar(depth, "projection")
    table |= {f"iresnet{name}": iresnet(depths) for name, depths in _IRESNET.items()}
    for prefix, suffixes in _TIMM.items():
        table |= {f"{prefix}{suffix}": _regular(prefix, suffix) for suffix in suffixes.split()}
    return table | _irregular()
