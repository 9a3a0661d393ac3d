"""Inference of a ``ResNetSpec`` from the shapes of a state dict, and its comparison with the model the user named.

Shapes give depth, block kind, widths, groups, projections, squeeze and excitation, pre-activation, classes, input
channels and whether norms are present. They do not give strides and pooling: those are taken from a spec whose visible
part agrees, and otherwise follow the customary rules of ``_Reader.spec``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeres.errors import ModelError
from edgeres.model.graph import check_shapes, graph
from edgeres.model.spec import PRESETS, Block, Kind, ResNetSpec, Stem

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
        spec = _with_hidden_of(spec, hint)
    check_shapes(graph(spec), shapes)
    return spec


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
            # Every stage but the first halves the resolution in its first block.
            tuple(
                self.block(f"layer{number}.{index}", kind, 2 if number > 1 and index == 0 else 1)
                for index in range(depth)
            )
            for number, depth in enumerate(depths, start=1)
        )
        padded = len(stages) > 1 and not any(block.projected for stage in stages for block in stage)
        return ResNetSpec(
            kind=kind,
            # A kernel above 3x3 is ImageNet's stem; a 3x3 is that of CIFAR, which keeps the resolution.
            stem=Stem(width=width, kernel=kernel, stride=2 if kernel > 3 else 1, pool=kernel > 3),
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


def _skeleton(spec: ResNetSpec) -> tuple[object, ...]:
    """Properties that two specs share when they are the same network up to widths, stem, classes and input channels."""
    return (
        spec.kind,
        spec.preactivation,
        tuple(
            tuple((block.projected, block.groups > 1, block.squeeze > 0) for block in stage) for stage in spec.stages
        ),
    )


def _widths(spec: ResNetSpec) -> tuple[int, ...]:
    """Every width and group count, in order.

    The widths inside squeeze and excitation are left out: libraries round them differently.
    """
    blocks = ((*block.inner, block.out, block.groups) for _, _, block in spec.blocks)
    return (spec.stem.width, *(width for block in blocks for width in block))


def _with_hidden_of(spec: ResNetSpec, hint: ResNetSpec) -> ResNetSpec:
    """A copy with the strides, pooling, shortcut and ``stride_in`` of a hint, as far as the two agree."""
    if _skeleton(spec) != _skeleton(hint):
        return spec
    same_stem = spec.stem.kernel == hint.stem.kernel
    stem = replace(hint.stem, width=spec.stem.width) if same_stem else spec.stem
    stages = tuple(
        tuple(replace(block, stride=model.stride) for block, model in zip(stage, models, strict=True))
        for stage, models in zip(spec.stages, hint.stages, strict=True)
    )
    return replace(spec, stem=stem, stages=stages, shortcut=hint.shortcut, stride_in=hint.stride_in)


def reconcile(spec: ResNetSpec, hint: ResNetSpec) -> tuple[str, ...]:
    """Accepted differences of the network in a file from the one the user named: another stem, other widths.

    Raises:
        ModelError: They are different networks; the hint names the right one.
    """
    has, usual = _widths(spec), _widths(hint)
    same = _skeleton(spec) == _skeleton(hint)
    if not same or has != usual:
        alike = {name: _widths(known) for name, known in PRESETS.items() if _skeleton(known) == _skeleton(spec)}
        exact = next((name for name, widths in alike.items() if widths == has), None)
        if exact or not same:
            wider = next((name for name, widths in alike.items() if _within(has, widths)), None)
            right, named = exact or wider, preset_name(hint)
            described = f"{right}, {describe(spec)}" if right else describe(spec)
            what = f"the weights are {described}; the model named is {f'{named}, ' if named else ''}{describe(hint)}"
            way = f"name {right} instead" if right else "name the model the weights belong to"
            raise ModelError(what, f"{way}, or pass weights of {named}" if named else way)
    notes = []
    if spec.stem.kernel != hint.stem.kernel:
        how = "with" if spec.stem.pool else "without"
        size = f"{spec.stem.kernel}x{spec.stem.kernel}"
        notes.append(f"the stem is {size}, taken as stride {spec.stem.stride} {how} pooling")
    if has != usual:
        how = "narrower than" if _within(has, usual) else "different from"
        notes.append(f"widths are {how} those of {preset_name(hint) or 'the named model'}, and taken from the weights")
    return tuple(notes)


def _within(widths: Shape, others: Shape) -> bool:
    """Whether no width is larger than the other at its place."""
    return all(width <= other for width, other in zip(widths, others, strict=True))


def preset_name(spec: ResNetSpec) -> str | None:
    """Name of the preset that is this spec, apart from classes, input channels and folding."""

    def bare(network: ResNetSpec) -> ResNetSpec:
        return replace(network, classes=1, channels=1, norm=True)

    return next((name for name, known in PRESETS.items() if bare(known) == bare(spec)), None)


def describe(spec: ResNetSpec) -> str:
    """Short description of a spec: ``a bottleneck network of 3-4-6-3 blocks with groups``."""
    depths = "-".join(str(len(stage)) for stage in spec.stages)
    order = "pre-activation " if spec.preactivation else ""
    blocks = [block for _, _, block in spec.blocks]
    extras = {
        "groups": any(block.groups > 1 for block in blocks),
        "squeeze and excitation": any(block.squeeze for block in blocks),
        "projections": any(block.projected for block in blocks),
    }
    present = ", ".join(word for word, holds in extras.items() if holds)
    return f"a {order}{spec.kind} network of {depths} blocks" + (f" with {present}" if present else "")
