"""Tiny networks of every kind of the ResNet family, by what is special about them."""

from __future__ import annotations

from edgeres.model.spec import Block, ResNetSpec, Stem

CONVOLVED = Stem(width=12, kernel=3, inner=(8, 8), pooling="convolution")
WIDTHS = {"inner": (8, 8), "out": 16}
DEEP = Stem(width=12, kernel=3, inner=(8, 8))


def family(kind="basic", *, stem=DEEP, groups=1, **fields):
    """Three blocks: one that keeps its shape, one that halves it, one behind; block fields are told by their names."""
    inner = (8,) if kind == "basic" else (8, 8)
    of_block = {name: fields.pop(name) for name in ("squeeze", "eca") if name in fields}
    first = Block(inner=inner, out=stem.out, groups=groups, **of_block)
    second = Block(inner=inner, out=16, stride=2, groups=groups, projected=True, **of_block)
    third = Block(inner=inner, out=16, groups=groups, **of_block)
    return ResNetSpec(kind=kind, stem=stem, stages=((first,), (second, third)), classes=5, norm=False, **fields)


NETWORKS = {
    "deep stem": family(),
    "averaged shortcut": family(downsample="average"),
    "efficient channel attention": family(eca=3, downsample="average"),
    "blur": family(antialias="blur", stem=Stem(width=12)),
    "averaged downsampling": family("bottleneck", antialias="average", downsample="average", groups=2),
    "pool by convolution": family("bottleneck", squeeze=4, stem=CONVOLVED),
    "SiLU": family(
        "bottleneck", activation="silu", squeeze=4, attention="3x3", features=20,
        stem=Stem(width=12, kernel=3, inner=(6, 8), last_stride=2, pool=False),
    ),
    "pool by average": family(stem=Stem(width=12, kernel=3, inner=(8, 8), pooling="average"), antialias="average"),
    "deep pre-activation": family(preactivation=True, downsample="average"),
    "bare convolutions": family(stem=Stem(width=12, kernel=3, inner=(4, 6, 8), bare=2), activation="silu"),
    "group norm": family(normalization="group", norm_groups=4),
    "Big Transfer": family(
        "bottleneck", stem=Stem(width=12, zero_frame=True), normalization="group", norm_groups=4, preactivation=True
    ),
    "ArcFace": ResNetSpec(
        kind="basic",
        stem=Stem(width=8, kernel=3, stride=1, pool=False),
        stages=tuple(
            (Block(inner=(width,), out=width, stride=2, projected=True), Block(inner=(width,), out=width))
            for width in (8, 12)
        ),
        classes=6,
        activation="prelu",
        leading_norm=True,
        grid=(8, 8),
        norm=False,
    ),
    "normed pre-activation": family(preactivation=True, stem=Stem(width=12, normed=True)),
    "projected pre-activation": ResNetSpec(
        kind="bottleneck",
        stem=Stem(width=8, kernel=3, stride=1, pool=False),
        stages=((Block(**WIDTHS, projected=True),), (Block(**WIDTHS, stride=2, projected=True),)),
        preactivation=True,
        classes=5,
        norm=False,
    ),
    "SAME padding": family("bottleneck", padding="same", stem=Stem(width=12, pool_padding="same")),
    "attention pool": family(
        "bottleneck", stem=Stem(width=12, kernel=3, inner=(8, 8), pooling="average"), downsample="average",
        antialias="average", attention_heads=4, grid=(4, 4),
    ),
    "classifier of two layers": family(downsample="average", hidden=10),
    "dilated": ResNetSpec(
        kind="bottleneck",
        stem=Stem(width=8, kernel=3),
        stages=((Block(**WIDTHS, projected=True),), (Block(**WIDTHS), Block(**WIDTHS, dilation=2))),
        classes=5,
        norm=False,
    ),
}  # fmt: skip
