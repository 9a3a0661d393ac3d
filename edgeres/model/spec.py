"""``ResNetSpec``: a residual network as a frozen value; presets, its named instances, and errors for other names.

Sources: He et al. 2015 (arXiv 1512.03385) for v1 and the CIFAR family of section 4.2, He et al. 2016 (arXiv
1603.05027) for pre-activation, Xie et al. 2017 (arXiv 1611.05431) for ResNeXt, Zagoruyko 2016 (arXiv 1605.07146) for
wide networks, Hu et al. 2018 (arXiv 1709.01507) for squeeze and excitation; v1.5 (stride in the 3x3) is torchvision's.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edgeres.errors import ModelError
from edgeres.settings import settings

Kind = Literal["basic", "bottleneck"]
Shortcut = Literal["projection", "padding"]
Count = Annotated[int, Field(ge=1, le=1 << 20)]

WEIGHT_SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".th", ".ckpt", ".bin", ".tar"})  # suffixes of weight files
_BUILT = {
    ".engine": "a TensorRT engine",
    ".plan": "a TensorRT engine",
    ".trt": "a TensorRT engine",
    ".tflite": "a LiteRT model",
    ".lite": "a LiteRT model",
    ".ort": "a model in ONNX Runtime's own format",
    ".pte": "an ExecuTorch program",
    ".xml": "an OpenVINO model",
    ".mlmodel": "a Core ML model",
    ".mlpackage": "a Core ML model",
    ".pb": "a TensorFlow graph",
    ".h5": "a Keras model",
    ".keras": "a Keras model",
}
"""Suffixes of compiled or saved files that edgeres does not read."""

_SOURCE = "pass the .onnx it was made from, or its weights with --weights"
_PLACE = "edgeres compile {} --target TARGET --data DIR"


@settings
class Stem:
    """First convolution, with ``kernel // 2`` padding, and the 3x3 stride-2 max-pool that may follow it."""

    width: Count = 64
    kernel: Count = 7
    stride: Count = 2
    pool: bool = True


@settings
class Block:
    """One residual block.

    ``inner`` are the widths between its convolutions: one for a basic block, two for a bottleneck, whose 3x3 has
    ``groups``. ``out`` are the channels of the residual stream after it. The identity of a ``projected`` block goes
    through a 1x1 convolution. ``squeeze`` is the width of the squeeze-and-excitation bottleneck; 0 for none.
    """

    inner: tuple[Count, ...]
    out: Count
    stride: Count = 1
    groups: Count = 1
    projected: bool = False
    squeeze: Annotated[int, Field(ge=0)] = 0


@settings
class ResNetSpec:
    """A residual network without its weights.

    Blocks are basic (3x3, 3x3) or bottlenecks (1x1, 3x3, 1x1). An identity changes shape by a 1x1 projection (option B)
    or by strided zero-padding (option A). The stride of a bottleneck is in its 3x3 (v1.5) or in its first 1x1 (the
    paper's). ``preactivation`` is the order of v2: norm and ReLU before each convolution. ``norm`` is False once batch
    norms are folded; a pre-activation network keeps those after a residual add.
    """

    kind: Kind
    stem: Stem
    stages: tuple[tuple[Block, ...], ...]
    classes: Count = 1000
    channels: Count = 3
    shortcut: Shortcut = "projection"
    stride_in: Literal["3x3", "1x1"] = "3x3"
    preactivation: bool = False
    norm: bool = True

    def __post_init__(self) -> None:
        if not self.stages or not all(self.stages):
            raise ModelError("a network needs at least one stage, and every stage a block")
        if self.stem.kernel % 2 == 0:
            raise ModelError(f"stem kernel {self.stem.kernel} is even", "padding of kernel // 2 wants an odd kernel")
        expected = 2 if self.kind == "bottleneck" else 1
        for name, width, block in self.blocks:
            if len(block.inner) != expected:
                raise ModelError(f"{name}: {len(block.inner)} inner widths, a {self.kind} block has {expected}")
            if self.kind == "basic" and block.groups != 1:
                raise ModelError(f"{name}: {block.groups} groups", "only the 3x3 of a bottleneck has groups")
            if any(inner % block.groups for inner in block.inner):
                raise ModelError(f"{name}: widths {block.inner} do not divide into {block.groups} groups")
            if not block.projected and block.out < width:
                raise ModelError(f"{name}: an identity of {width} channels cannot be padded to {block.out}")

    @property
    def blocks(self) -> tuple[tuple[str, int, Block], ...]:
        """Every block in order as ``(name, input channels, block)``, named as torchvision names it: ``layer1.0``."""
        blocks: list[tuple[str, int, Block]] = []
        width = self.stem.width
        for number, stage in enumerate(self.stages, start=1):
            for index, block in enumerate(stage):
                blocks.append((f"layer{number}.{index}", width, block))
                width = block.out
        return tuple(blocks)


def imagenet(
    kind: Kind,
    depths: tuple[int, ...],
    *,
    groups: int = 1,
    group_width: int = 64,
    squeeze_ratio: int = 0,
    stride_in: Literal["3x3", "1x1"] = "3x3",
    preactivation: bool = False,
) -> ResNetSpec:
    """The ImageNet family: 7x7 stem with pooling, four stages of 64, 128, 256, 512 planes.

    The 3x3 of a bottleneck has ``planes * group_width / 64 * groups`` channels, as in torchvision.
    """
    expansion = 4 if kind == "bottleneck" else 1
    stages: list[tuple[Block, ...]] = []
    width = 64
    for number, depth in enumerate(depths):
        planes = 64 << number
        inner = planes * group_width * groups // 64
        out = planes * expansion
        blocks = []
        for index in range(depth):
            stride = 2 if number > 0 and index == 0 else 1
            widths = (inner, inner) if kind == "bottleneck" else (planes,)
            squeeze = out // squeeze_ratio if squeeze_ratio else 0
            projected = stride != 1 or width != out
            blocks.append(
                Block(inner=widths, out=out, stride=stride, groups=groups, projected=projected, squeeze=squeeze)
            )
            width = out
        stages.append(tuple(blocks))
    return ResNetSpec(kind=kind, stem=Stem(), stages=tuple(stages), stride_in=stride_in, preactivation=preactivation)


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


def _presets() -> dict[str, ResNetSpec]:
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
    return table


PRESETS: dict[str, ResNetSpec] = _presets()


def preset(name: str) -> ResNetSpec:
    """The spec of a known network; ``ModelError`` describes any other name, or has the nearest one."""
    if name not in PRESETS:
        raise _no_preset(name)
    return PRESETS[name]


def _no_preset(word: str) -> ModelError:
    """The error for a MODEL that is no preset, with a hint on how to give such a file."""
    known, path = {name.casefold(): name for name in sorted(PRESETS)}, Path(word)
    suffix = path.suffix.lower()
    if path.is_dir() and suffix not in _BUILT:
        return _folder(path)
    if suffix in WEIGHT_SUFFIXES:
        name = max((known[name] for name in known if name in path.stem.casefold()), key=len, default="resnet18")
        what = f"{word} is a weights file, and a MODEL is a preset or an .onnx file"
        hint = f"name its network and pass the file with --weights: {_PLACE.format(f'{name} --weights {word}')}"
    elif suffix in _BUILT:
        what, hint = f"{word} is {_BUILT[suffix]}, which cannot be read back into a network", _SOURCE
    elif word.lower().endswith((".yaml", ".yml")):
        what, hint = f"{word} is no MODEL", f"a recipe file is given with --recipe {word}"
    elif word.isupper() and "_" in word:
        what = f"{word} names weights, not a MODEL"
        hint = f"pass it with --weights: {_PLACE.format(f'resnet50 --weights {word}')}"
    elif path.is_file():
        what, hint = f"{word} is no preset and no .onnx file", "'edgeres models' lists presets"
    else:
        close = get_close_matches(word.casefold(), known, n=1, cutoff=0.7)
        listed = (
            "'edgeres models' lists the presets, all of them ResNets; any other classifier is given as an .onnx file"
        )
        what, hint = f"unknown model {word!r}", f"did you mean {known[close[0]]!r}?" if close else listed
    return ModelError(what, hint)


def weights_in(folder: Path) -> tuple[Path, ...]:
    """Weight files in a folder, in alphabetical order."""
    return tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in WEIGHT_SUFFIXES and path.is_file()))


def _folder(path: Path) -> ModelError:
    """Description of a folder, and a hint."""
    what, hint = "a folder", "name a preset ('edgeres models' lists them) or an .onnx file"
    weights = weights_in(path)
    if (path / "request.json").is_file() or (path / "report.json").is_file():
        what = "the folder of a run"
        hint = f"edgeres quantize {path}, export, build, verify and report take it as RUN"
        if weights:
            hint = f"name its network and pass its weights: {_PLACE.format(f'resnet18 --weights {weights[0]}')}"
    elif (path / "train").is_dir() or (path / "val").is_dir():
        what = "a folder of images"
        hint = f"name a network and pass it with --data: edgeres compile resnet18 --target TARGET --data {path}"
    elif weights:
        hint = f"name its network and the file in it: {_PLACE.format(f'resnet18 --weights {weights[0]}')}"
    return ModelError(f"{path} is {what}, not a MODEL", hint)
