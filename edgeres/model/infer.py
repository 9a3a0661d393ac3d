"""Inference of a ``ResNetSpec`` from the shapes of a state dict.

Shapes give depth, block kind, widths, groups, projections, squeeze and excitation, pre-activation, classes, input
channels and whether norms are present. They do not give strides and pooling: those are taken from a spec whose visible
part agrees, and otherwise follow the customary rules (``_stem`` and ``_stride``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgeres.errors import ModelError
from edgeres.model.graph import check_shapes, graph
from edgeres.model.match import with_hidden_of
from edgeres.model.spec import Block, Kind, ResNetSpec, Stem

if TYPE_CHECKING:
    from collections.abc import Mapping

Shape = tuple[int, ...]

_BLOCK = re.compile(r"^layer(\d+)\.(\d+)\.")
_NOT_A_RESNET = "edgeres reads ResNets; take any other classifier in as an .onnx file"
_FOREIGN = (
    (re.compile(r"^conv1\.\d+\."), "a deep stem (ResNet-C/D)"),
    (re.compile(r"\.downsample\.[2-9]\."), "a downsample path of more than a convolution and a norm"),
    (re.compile(r"\.aa\."), "anti-aliased downsampling"),
    (re.compile(r"_packed_params|\.zero_point$|\.scale$"), "an already quantized network"),
    (re.compile(r"\.attn\.|\.qkv\.|cls_token"), "a transformer"),
    (re.compile(r"^features\.|denseblock"), "a plain or dense convolutional network"),
)
"""Keys of other architectures, checked first so that the message can name them."""


def infer(shapes: Mapping[str, Shape], hint: ResNetSpec | None = None) -> ResNetSpec:
    """The network whose state dict has these shapes.

    Args:
        shapes: Shape of every tensor under the graph's key names.
        hint: Spec that gives strides and pooling, if its visible part agrees up to widths.

    Raises:
        ModelError: No ResNet has these tensors; the message names the key or the shape.
    """
    for key in shapes:
        for pattern, what in _FOREIGN:
            if pattern.search(key):
                raise ModelError(f"weight {key!r} belongs to {what}", _NOT_A_RESNET)
    found = _Reader(shapes).spec()
    if hint is not None:
        found = with_hidden_of(found, hint)
    check_shapes(graph(found), shapes)
    return found


class _Reader:
    """Reads one state dict's shapes."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.shapes = shapes
        self.preactivation = "norm.weight" in shapes

    def spec(self) -> ResNetSpec:
        width, channels, kernel, _ = self.conv("conv1")
        classes, _ = self.shape("fc.weight", 2)
        depths = self.depths()
        kind: Kind = "bottleneck" if "layer1.0.conv3.weight" in self.shapes else "basic"
        stages = tuple(
            tuple(self.block(f"layer{number}.{index}", kind, _stride(number, index)) for index in range(depth))
            for number, depth in enumerate(depths, start=1)
        )
        padded = len(stages) > 1 and not any(block.projected for stage in stages for block in stage)
        return ResNetSpec(
            kind=kind,
            stem=_stem(width, kernel),
            stages=stages,
            classes=classes,
            channels=channels,
            shortcut="padding" if padded else "projection",
            preactivation=self.preactivation,
            norm=("layer1.0.bn2.weight" if self.preactivation else "bn1.weight") in self.shapes,
        )

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
        projected = f"{name}.downsample.0.weight" in self.shapes
        return Block(inner=inner, out=out, stride=stride, groups=groups, projected=projected, squeeze=squeeze)


def _stem(width: int, kernel: int) -> Stem:
    """7x7 with stride 2 and pooling for ImageNet; a 3x3 is the CIFAR stem, which keeps the resolution."""
    large = kernel > 3
    return Stem(width=width, kernel=kernel, stride=2 if large else 1, pool=large)


def _stride(number: int, index: int) -> int:
    """Every stage but the first halves the resolution in its first block."""
    return 2 if number > 1 and index == 0 else 1
