"""What the modules of a whole pickled network state beside their tensors: strides, dilations, padding, pools, norms."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from edgeres.errors import ModelError
from edgeres.model.graph import graph
from edgeres.model.operation import NORM_EPS
from edgeres.model.pickled_values import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeres.model.spec import Block, ResNetSpec

_NN = "torch.nn.modules."
_ACTIVATIONS = re.compile(r"^torch\.nn\.modules\.activation\.(?!(?:P?ReLU|Sigmoid|Softmax|LogSoftmax)$)(\w+)$")
_OTHERS = re.compile(r"^torch\.nn\.modules\.(?:instancenorm\.\w+|pooling\.(?:AdaptiveMax|LP|FractionalMax)\w+)$")
_MAX_POOL, _IDENTITY = f"{_NN}pooling.MaxPool2d", f"{_NN}linear.Identity"
_STEM_POOL = {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 1, "ceil_mode": False}
_AS_ONNX = "take the network in as an .onnx file"


@dataclass(frozen=True, slots=True)
class Convolution:
    """Stride, dilation, kernel and padding of a convolution, each ``(rows, columns)``."""

    stride: tuple[int, int]
    dilation: tuple[int, int]
    kernel: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ModuleSettings:
    """Settings of convolutions by the keys of their weights; whether the stem has a pool, None where nothing says."""

    convolutions: Mapping[str, Convolution] = field(default_factory=dict)
    pool: bool | None = None

    def renamed(self, keys: Mapping[str, str]) -> ModuleSettings:
        """The settings under other keys; ``keys`` has the key here for each of them, and leaves others out."""
        known = self.convolutions
        return replace(self, convolutions={name: known[key] for name, key in keys.items() if key in known})

    def inside(self, prefix: str) -> ModuleSettings:
        """The settings of the convolutions under a prefix, without it."""
        return self.renamed({key.removeprefix(prefix): key for key in self.convolutions if key.startswith(prefix)})


def module_settings(modules: Sequence[tuple[object, Mapping[str, object], str]]) -> ModuleSettings:
    """Settings of modules, each with its attributes and the prefix of its tensors' keys.

    Attributes that are absent, as in files of older releases, say nothing.

    Raises:
        ModelError: A module computes something else than that of a ResNet.
    """
    convolutions: dict[str, Convolution] = {}
    pool: bool | None = None
    for module, attributes, prefix in modules:
        name, place = module.name if isinstance(module, Record) else "", prefix.rstrip(".")
        _check(name, attributes, place)
        if name == _MAX_POOL:
            _check_pool(attributes, place)
            pool = True
        elif name == _IDENTITY and place.rpartition(".")[2] == "maxpool":
            pool = False
        elif (found := _convolution(attributes, place)) is not None:
            convolutions[f"{prefix}weight"] = found
    _check_padding(convolutions)
    return ModuleSettings(convolutions, pool)


def _check(name: str, attributes: Mapping[str, object], place: str) -> None:
    eps = attributes.get("eps")
    if isinstance(eps, float) and attributes.get("track_running_stats") and abs(eps - NORM_EPS) > 1e-9:
        raise ModelError(f"holds a norm {place!r} with eps {eps:g}, a ResNet has {NORM_EPS:g}", _AS_ONNX)
    if match := _ACTIVATIONS.match(name):
        raise ModelError(f"holds an activation {place!r} that is {match[1]}, a ResNet has ReLU", _AS_ONNX)
    if _OTHERS.match(name):
        raise ModelError(f"holds {place!r}, which is {name.rpartition('.')[2]}; a ResNet has none", _AS_ONNX)


def _check_pool(attributes: Mapping[str, object], place: str) -> None:
    for name, usual in _STEM_POOL.items():
        value = attributes.get(name, usual)
        if value not in (usual, (usual, usual), [usual, usual]):
            raise ModelError(f"holds a pool {place!r} with {name} {value!r}, a ResNet has {usual!r}", _AS_ONNX)


def _convolution(attributes: Mapping[str, object], place: str) -> Convolution | None:
    """The settings of a convolution of two dimensions; None for any other module."""
    kernel, stride = _pair(attributes.get("kernel_size")), _pair(attributes.get("stride"))
    if kernel is None or stride is None or "in_channels" not in attributes:
        return None
    if attributes.get("padding_mode", "zeros") != "zeros":
        what = f"holds a convolution {place!r} with padding_mode {attributes['padding_mode']!r}, a ResNet has zeros"
        raise ModelError(what, _AS_ONNX)
    if attributes.get("transposed") is True:
        raise ModelError(f"holds a transposed convolution {place!r}, a ResNet has none", _AS_ONNX)
    dilation, padding = _pair(attributes.get("dilation")) or (1, 1), attributes.get("padding")
    same = tuple(gap * (taps - 1) // 2 for gap, taps in zip(dilation, kernel, strict=True))
    pads = (0, 0) if padding == "valid" else _pair(padding)
    return Convolution(stride, dilation, kernel, pads if pads is not None else (same[0], same[1]))


def _pair(value: object) -> tuple[int, int] | None:
    match value:
        case (int(rows), int(columns)):
            return rows, columns
    return None


def _check_padding(convolutions: Mapping[str, Convolution]) -> None:
    """Compares paddings with half the kernel; where all are zero, the network's own code pads, which is not read."""
    wide = {key: one for key, one in convolutions.items() if max(one.kernel) > 1}
    if not any(any(one.padding) for one in wide.values()):
        return
    for key, one in wide.items():
        usual = tuple(gap * (taps - 1) // 2 for gap, taps in zip(one.dilation, one.kernel, strict=True))
        if one.padding != usual:
            what = f"convolution {key.removesuffix('.weight')!r} has padding {one.padding}, where a ResNet has {usual}"
            raise ModelError(what, _AS_ONNX)


def settled(spec: ResNetSpec, settings: ModuleSettings) -> ResNetSpec:
    """A spec with the pool, the strides and the dilations that the modules state.

    Raises:
        ModelError: No ResNet has its strides or dilations there.
    """
    stated = settings.convolutions
    if settings.pool is not None and spec.stem.pooling == "max":
        spec = replace(spec, stem=replace(spec.stem, pool=settings.pool))
    if "conv1.weight" in stated:
        spec = replace(spec, stem=replace(spec.stem, stride=stated["conv1.weight"].stride[0]))
    if stated and spec.kind == "bottleneck":
        reduced = any(one.stride[0] > 1 and key.endswith(".conv1.weight") for key, one in stated.items())
        stride_in: Literal["3x3", "1x1"] = "1x1" if reduced else "3x3"
        spec = replace(spec, stride_in=stride_in)
        if any(one.dilation != (1, 1) for one in stated.values()):
            spec = _dilated(spec, stated)
    for op in graph(spec).ops:
        one = stated.get(f"{op.name}.weight") if op.kind == "conv" else None
        if one is None:
            continue
        for name, value, usual in (("stride", one.stride, op.stride), ("dilation", one.dilation, op.dilation)):
            if value != (usual, usual):
                text = value[0] if value[0] == value[1] else value
                raise ModelError(f"convolution {op.name!r} has {name} {text}, where a ResNet has {usual}", _AS_ONNX)
    return spec


def _dilated(spec: ResNetSpec, stated: Mapping[str, Convolution]) -> ResNetSpec:
    """The spec of bottlenecks whose last stages are dilated instead of strided, as in segmentation."""

    def block(given: Block, name: str) -> Block:
        first, spatial = (stated.get(f"{name}.{layer}.weight") for layer in ("conv1", "conv2"))
        if first is None or spatial is None:
            return given
        return replace(given, stride=first.stride[0] * spatial.stride[0], dilation=spatial.dilation[0])

    stages = tuple(
        tuple(block(one, f"layer{number}.{index}") for index, one in enumerate(stage))
        for number, stage in enumerate(spec.stages, start=1)
    )
    return replace(spec, stages=stages)
