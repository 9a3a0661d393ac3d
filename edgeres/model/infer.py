"""Inference of a ``ResNetSpec`` from the shapes of a state dict.

Shapes give depth, block kind, widths, groups, projections, squeeze and excitation, pre-activation, classes, input
channels and whether norms are present. They do not give strides and pooling: those are taken from a spec whose visible
part agrees, and otherwise follow the customary rules of ``_Reader.spec``.
"""

from __future__ import annotations

import re
from math import isqrt
from typing import TYPE_CHECKING

from edgeres.errors import ModelError
from edgeres.model.graph import check_shapes, graph
from edgeres.model.likeness import with_hidden_of
from edgeres.model.spec import Block, Kind, Pooling, ResNetSpec, Stem

if TYPE_CHECKING:
    from collections.abc import Mapping

Shape = tuple[int, ...]

_BLOCK = re.compile(r"^layer(\d+)\.(\d+)\.")
_STEM = re.compile(r"^conv1\.(\d+)\.weight$")
_POSITIONS = "attnpool.weight"
_NOT_A_RESNET = "edgeres reads ResNets; take any other classifier in as an .onnx file"
_FOREIGN = (
    (re.compile(r"\.downsample\.[3-9]\."), "a downsample path of more than a pool, a convolution and a norm"),
    (re.compile(r"\.aa\."), "anti-aliased downsampling with learned filters"),
    (re.compile(r"\.se\.conv_(reduce|expand)\.|\.se\.(mlp|conv2)"), "channel attention of another kind"),
    (re.compile(r"\.(conv_attn|context_conv|mlp_add)\."), "global context attention"),
    (re.compile(r"\.conv2\.(paths|attn)\."), "selective kernels (SKNet)"),
    (re.compile(r"\.tau$"), "filter response normalization, whose statistics have no INT8 form"),
    (re.compile(r"(norm|bn)\d?\.v$"), "evolved normalization (EvoNorm), whose statistics have no INT8 form"),
    (re.compile(r"^head\.(qkv|pos_embed)"), "an attention pool with one matrix for queries, keys and values"),
    (re.compile(r"\.conv2b"), "blocks of four convolutions"),
    (re.compile(r"^head\.(norm|pre_logits)\."), "a classifier of several layers"),
    (re.compile(r"_packed_params|\.zero_point$|\.scale$"), "an already quantized network"),
    (re.compile(r"\.attn\.|\.qkv\.|cls_token"), "a transformer"),
    (re.compile(r"^features\.[\dcdnt]|denseblock"), "a plain or dense convolutional network"),
)
"""Keys of other architectures, checked first so that the message can name them."""


def infer(shapes: Mapping[str, Shape], hint: ResNetSpec | None = None) -> ResNetSpec:
    """The network whose state dict has these shapes under the graph's key names.

    ``hint`` gives strides and pooling, if its visible part agrees up to widths.

    Raises:
        ModelError: No ResNet has these tensors; the message names the key or the shape.
    """
    for key in shapes:
        for pattern, what in _FOREIGN:
            if pattern.search(key):
                raise ModelError(f"weight {key!r} belongs to {what}", _NOT_A_RESNET)
    spec = _Reader(shapes).spec()
    if hint is not None:
        spec = with_hidden_of(spec, hint)
    check_shapes(graph(spec), shapes)
    return spec


class _Reader:
    """Reads one state dict's shapes."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.shapes = shapes
        self.preactivation = "norm.weight" in shapes
        self.leading = "layer1.0.prelu.weight" in shapes
        self.first_norm = "layer1.0.bn2" if self.preactivation else "bn1"
        self.grouped = f"{self.first_norm}.weight" in shapes and f"{self.first_norm}.running_mean" not in shapes

    def spec(self) -> ResNetSpec:
        stem, channels = self.stem()
        classes, _ = self.shape("fc.weight", 2)
        depths = self.depths()
        kind: Kind = "bottleneck" if "layer1.0.conv3.weight" in self.shapes else "basic"
        stages = tuple(
            # Every stage but the first, and that too in ArcFace's, halves the resolution in its first block.
            tuple(
                self.block(f"layer{number}.{index}", kind, 2 if (number > 1 or self.leading) and index == 0 else 1)
                for index in range(depth)
            )
            for number, depth in enumerate(depths, start=1)
        )
        names = [f"layer{number}.{index}" for number, depth in enumerate(depths, start=1) for index in range(depth)]
        padded = len(stages) > 1 and not any(block.projected for stage in stages for block in stage)
        return ResNetSpec(
            kind=kind,
            stem=stem,
            stages=stages,
            classes=classes,
            channels=channels,
            shortcut="padding" if padded else "projection",
            preactivation=self.preactivation,
            norm=f"{self.first_norm}.weight" in self.shapes,
            # Behind a pool, the convolution of a projection has the number 1, which is that of its norm elsewhere.
            downsample="average" if self.of_rank(4, ".downsample.1.weight") else "stride",
            attention="3x3" if any(self.attends_inside(name, kind) for name in names) else "block",
            features=self.conv("final_conv", 1)[0] if "final_conv.weight" in self.shapes else 0,
            activation="prelu" if self.leading else "relu",
            leading_norm=self.leading,
            grid=self.grid(stages[-1][-1].out),
            attention_heads=self.heads(),
            hidden=self.conv("hidden", 1)[0] if "hidden.weight" in self.shapes else 0,
            normalization="group" if self.grouped else "batch",
        )

    def stem(self) -> tuple[Stem, int]:
        """The first convolutions, and the channels of the image."""
        numbers = [int(match[1]) for key in self.of_rank(4, ".weight") if (match := _STEM.match(key))]
        layers = [f"conv1.{number}" for number in sorted(numbers)] or ["conv1"]
        convolutions = [self.conv(name) for name in layers]
        kernel, width = convolutions[0][2], convolutions[-1][0]
        inner = tuple(out for out, *_ in convolutions[:-1])
        bare = [name for name in layers[:-1] if not {self.norm_of(name), f"{name}.bias"} & self.shapes.keys()]
        # A single 3x3 is the stem of CIFAR networks, which keeps the resolution; others are those of ImageNet.
        large = kernel > 3 or bool(inner)
        pooling: Pooling = "convolution" if "maxpool.0.weight" in self.shapes else "max"
        pooled = self.conv("maxpool.0", 3)[0] if pooling == "convolution" else width
        stem = Stem(
            width=width,
            kernel=kernel,
            stride=2 if large else 1,
            pool=large,
            inner=inner,
            bare=len(bare),
            pooling=pooling,
            pool_width=0 if pooled == width else pooled,
            normed=self.preactivation and bool({"bn1.weight", f"{layers[-1]}.bias"} & self.shapes.keys()),
            zero_frame=self.preactivation and self.grouped and not inner,  # only Big Transfer's have this stem
        )
        return stem, convolutions[0][1]

    @staticmethod
    def norm_of(conv: str) -> str:
        """Key of the gain of the norm after a convolution of a deep stem."""
        return f"conv1.{int(conv.rpartition('.')[2]) + 1}.weight"

    def grid(self, channels: int) -> tuple[int, int]:
        """Height and width of the features that a classifier takes without pooling, which are square; zeros if none."""
        if self.leading:
            pixels = self.shape("fc.weight", 2)[1] // channels
        elif _POSITIONS in self.shapes:
            pixels = self.shape(_POSITIONS, 2)[0] - 1
        else:
            return 0, 0
        side = isqrt(pixels)
        return (side, side) if side**2 == pixels else (1, pixels)

    def heads(self) -> int:
        """Heads of an attention pool, each of 64 channels as CLIP's; a narrower one is a single head."""
        return max(self.shape(_POSITIONS, 2)[1] // 64, 1) if _POSITIONS in self.shapes else 0

    def of_rank(self, rank: int, suffix: str) -> list[str]:
        """Keys with a suffix of tensors of so many dimensions."""
        return [key for key, shape in self.shapes.items() if key.endswith(suffix) and len(shape) == rank]

    def attends_inside(self, block: str, kind: Kind) -> bool:
        """Whether squeeze and excitation gates the channels of the 3x3, where those are not as many as the block's."""
        last = "conv3" if kind == "bottleneck" else "conv2"
        gate, out = (self.shapes.get(f"{block}.{part}.weight", ()) for part in ("se.fc2", last))
        return bool(gate) and gate[:1] != out[:1]

    def shape(self, key: str, rank: int) -> Shape:
        if key not in self.shapes:
            some = ", ".join(list(self.shapes)[:3])
            raise ModelError(f"weight {key!r} is missing (there are {some}, ...)", _NOT_A_RESNET)
        shape = tuple(self.shapes[key])
        if len(shape) != rank or 0 in shape:
            raise ModelError(f"weight {key!r} has shape {shape}, expected {rank} dimensions", _NOT_A_RESNET)
        return shape

    def conv(self, name: str, kernel: int | None = None) -> Shape:
        """Weight shape ``(out, in / groups, k, k)`` of a convolution."""
        shape = self.shape(f"{name}.weight", 4)
        expected = kernel or shape[2]
        if shape[2:] != (expected, expected) or expected % 2 == 0:
            wanted = f"{kernel}x{kernel}" if kernel else "a square odd one"
            what = f"weight '{name}.weight' has a {shape[2]}x{shape[3]} kernel, expected {wanted}"
            raise ModelError(what, _NOT_A_RESNET)
        return shape

    def depths(self) -> tuple[int, ...]:
        """Blocks per stage; a gap in the numbers is reported later as a missing weight."""
        last: dict[int, int] = {}
        for key in self.shapes:
            if match := _BLOCK.match(key):
                number, index = int(match[1]), int(match[2])
                last[number] = max(last.get(number, 0), index)
        if sorted(last) != list(range(1, len(last) + 1)) or not last:
            names = ", ".join(f"layer{number}" for number in sorted(last)) or "none"
            raise ModelError(f"stages must be layer1, layer2, ... without a gap, found {names}", _NOT_A_RESNET)
        return tuple(last[number] + 1 for number in sorted(last))

    def block(self, name: str, kind: Kind, stride: int) -> Block:
        if kind == "basic":
            first, second = self.conv(f"{name}.conv1", 3), self.conv(f"{name}.conv2", 3)
            inner: Shape = (first[0],)
            out, groups = second[0], 1
        else:
            reduce, spatial, expand = (self.conv(f"{name}.conv{n}", k) for n, k in ((1, 1), (2, 3), (3, 1)))
            inner, out = (reduce[0], spatial[0]), expand[0]
            groups, rest = divmod(reduce[0], spatial[1])
            if rest:
                raise ModelError(
                    f"weight '{name}.conv2.weight' has shape {spatial}: {reduce[0]} input channels "
                    f"do not divide into groups of {spatial[1]}"
                )
        squeeze = self.conv(f"{name}.se.fc1", 1)[0] if f"{name}.se.fc1.weight" in self.shapes else 0
        return Block(
            inner=inner,
            out=out,
            stride=stride,
            groups=groups,
            projected=any(len(self.shapes.get(f"{name}.downsample.{index}.weight", ())) == 4 for index in (0, 1)),
            squeeze=squeeze,
            eca=self.shape(f"{name}.se.conv.weight", 3)[2] if f"{name}.se.conv.weight" in self.shapes else 0,
        )
