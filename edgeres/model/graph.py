"""``Graph``: the operations of a network in execution order, derived from its spec.

This list is used by the torch module, the ONNX writer, the quantizer placement, the costs
and the pruner. An operation's name is also the name of its output tensor and the prefix of its weights, and equals the
torchvision module name wherever torchvision has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from edgeres.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeres.model.spec import Block, ResNetSpec

OpKind = Literal[
    "conv", "norm", "relu", "maxpool", "subsample", "zeropad", "add", "gap", "sigmoid", "mul", "flatten", "linear"
]

IMAGE = "image"  # name of the input tensor
NORM_EPS = 1e-5  # added to the variance by every batch norm: the value of torch, torchvision and timm


@dataclass(frozen=True, slots=True)
class Op:
    """One operation on ``[N,C,H,W]`` tensors; its inputs are names of tensors.

    ``subsample`` takes every ``stride``-th pixel, ``zeropad`` adds zero channels on both sides, ``gap`` is the global
    average pool to ``[N,C,1,1]``, ``mul`` broadcasts ``[N,C,1,1]`` over ``[N,C,H,W]``. ``add`` reads the residual
    branch first, the identity second.
    """

    kind: OpKind
    name: str
    inputs: tuple[str, ...]
    c_in: int
    c_out: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    bias: bool = False

    @property
    def padding(self) -> int:
        """Zero padding on each side of a convolution or pool."""
        return self.kernel // 2

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """State-dict keys of this operation with their shapes."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.kind == "conv":
            shapes["weight"] = (self.c_out, self.c_in // self.groups, self.kernel, self.kernel)
        elif self.kind == "linear":
            shapes["weight"] = (self.c_out, self.c_in)
        elif self.kind == "norm":
            shapes = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (self.c_out,))
        if self.bias:
            shapes["bias"] = (self.c_out,)
        return {f"{self.name}.{key}": shape for key, shape in shapes.items()}


@dataclass(frozen=True, slots=True)
class Graph:
    """Operations in execution order; a network reads tensor ``image``, and its last operation computes the logits."""

    ops: tuple[Op, ...]

    def __getitem__(self, name: str) -> Op:
        return next(op for op in self.ops if op.name == name)

    @property
    def output(self) -> str:
        """Name of the last operation's tensor, in a network the logits ``[N,classes]``."""
        return self.ops[-1].name

    @property
    def weighted(self) -> tuple[Op, ...]:
        """Convolutions and the classifier."""
        return tuple(op for op in self.ops if op.kind in ("conv", "linear"))

    def consumers(self, tensor: str) -> tuple[tuple[Op, int], ...]:
        """Every ``(operation, input index)`` that reads a tensor."""
        return tuple((op, i) for op in self.ops for i, name in enumerate(op.inputs) if name == tensor)

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Every state-dict key the network needs, with its shape."""
        return {key: shape for op in self.ops for key, shape in op.parameters.items()}


class _Builder:
    """Appends operations and returns the names of their output tensors."""

    def __init__(self, spec: ResNetSpec) -> None:
        self.spec = spec
        self.ops: list[Op] = []
        self.channels: dict[str, int] = {IMAGE: spec.channels}

    def add(self, kind: OpKind, name: str, *inputs: str, out: int = 0, bias: bool = False, **window: int) -> str:
        """An operation with ``out`` channels, by default as many as its input; ``window`` is as in ``Op``."""
        c_in = self.channels[inputs[0]]
        self.ops.append(Op(kind, name, inputs, c_in, out or c_in, bias=bias, **window))
        self.channels[name] = out or c_in
        return name

    def conv_norm(self, conv: str, norm: str, x: str, out: int, **window: int) -> str:
        """A convolution followed by a norm, or one convolution with a bias once that norm is folded."""
        x = self.add("conv", conv, x, out=out, bias=not self.spec.norm, **window)
        return self.add("norm", norm, x) if self.spec.norm else x

    def stem(self) -> str:
        spec, stem = self.spec, self.spec.stem
        if spec.preactivation:
            x = self.add("conv", "conv1", IMAGE, out=stem.width, kernel=stem.kernel, stride=stem.stride)
        else:
            x = self.conv_norm("conv1", "bn1", IMAGE, stem.width, kernel=stem.kernel, stride=stem.stride)
            x = self.add("relu", "relu", x)
        return self.add("maxpool", "maxpool", x, kernel=3, stride=2) if stem.pool else x

    def convolutions(self, block: Block) -> tuple[tuple[int, int, int, int], ...]:
        """``(width, kernel, stride, groups)`` of each convolution of a block."""
        if self.spec.kind == "basic":
            return (block.inner[0], 3, block.stride, 1), (block.out, 3, 1, 1)
        first, second = (block.stride, 1) if self.spec.stride_in == "1x1" else (1, block.stride)
        return ((block.inner[0], 1, first, 1), (block.inner[1], 3, second, block.groups), (block.out, 1, 1, 1))

    def identity(self, name: str, block: Block, x: str, activated: str) -> str:
        """The shortcut: unchanged, projected by a 1x1 convolution (B), or subsampled and zero-padded (A)."""
        if block.projected:
            if self.spec.preactivation:
                return self.add("conv", f"{name}.downsample.0", activated, out=block.out, stride=block.stride)
            return self.conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", x, block.out, stride=block.stride)
        if block.stride != 1:
            x = self.add("subsample", f"{name}.subsample", x, stride=block.stride)
        if self.channels[x] != block.out:
            x = self.add("zeropad", f"{name}.zeropad", x, out=block.out)
        return x

    def squeeze_excite(self, name: str, block: Block, x: str) -> str:
        if not block.squeeze:
            return x
        gate = self.add("gap", f"{name}.se.pool", x)
        gate = self.add("conv", f"{name}.se.fc1", gate, out=block.squeeze, bias=True)
        gate = self.add("relu", f"{name}.se.relu", gate)
        gate = self.add("conv", f"{name}.se.fc2", gate, out=block.out, bias=True)
        gate = self.add("sigmoid", f"{name}.se.gate", gate)
        return self.add("mul", f"{name}.se.scale", x, gate)

    def block(self, name: str, block: Block, x: str) -> str:
        """v1, or v2: norm and ReLU come first; a projection reads the activated input (arXiv 1603.05027, appendix)."""
        before = self.spec.preactivation
        y = activated = self.add("relu", f"{name}.relu1", self.add("norm", f"{name}.bn1", x)) if before else x
        convolutions = self.convolutions(block)
        for number, (width, kernel, stride, groups) in enumerate(convolutions, start=1):
            conv, after, last = f"{name}.conv{number}", number + before, number == len(convolutions)
            if before and last:
                y = self.add("conv", conv, y, out=width, kernel=kernel, stride=stride, groups=groups)
            else:
                y = self.conv_norm(conv, f"{name}.bn{after}", y, width, kernel=kernel, stride=stride, groups=groups)
            if not last:
                y = self.add("relu", f"{name}.relu{after}", y)
        y = self.squeeze_excite(name, block, y)
        y = self.add("add", f"{name}.add", y, self.identity(name, block, x, activated))
        return y if before else self.add("relu", f"{name}.relu", y)

    def head(self, x: str) -> None:
        if self.spec.preactivation:
            x = self.add("relu", "relu", self.add("norm", "norm", x))
        x = self.add("flatten", "flatten", self.add("gap", "avgpool", x))
        self.add("linear", "fc", x, out=self.spec.classes, bias=True)


@lru_cache(maxsize=64)
def graph(spec: ResNetSpec) -> Graph:
    """The operations of a network, in execution order."""
    builder = _Builder(spec)
    x = builder.stem()
    for name, _, block in spec.blocks:
        x = builder.block(name, block, x)
    builder.head(x)
    return Graph(tuple(builder.ops))


@dataclass(frozen=True, slots=True)
class Unit(Graph):
    """Neighbouring operations that read one tensor from outside: ``stem``, a residual block by its name, or ``head``.

    A residual block is the largest piece whose inner dependencies matter much more than those with its neighbours (Li
    et al. 2021, BRECQ, arXiv 2102.05426, section 3.2).
    """

    name: str

    @property
    def source(self) -> str:
        """The tensor read from outside."""
        return self.ops[0].inputs[0]


@lru_cache(maxsize=64)
def units(spec: ResNetSpec) -> tuple[Unit, ...]:
    """Every unit of a network, in execution order."""
    blocks = {name for name, _, _ in spec.blocks}

    def block_of(op: Op) -> str:
        prefix = ".".join(op.name.split(".")[:2])
        return prefix if prefix in blocks else ""

    pieces = [(name, tuple(ops)) for name, ops in groupby(graph(spec).ops, key=block_of)]
    return tuple(Unit(ops, name or ("head" if index else "stem")) for index, (name, ops) in enumerate(pieces))


def check_shapes(network: Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compares a state dict's shapes with those a network needs.

    Raises:
        ModelError: A key is missing, left over, or of another shape; the message names the first one.
    """
    needed = network.parameters
    if missing := [key for key in needed if key not in shapes]:
        raise ModelError(f"weight {missing[0]!r} {tuple(needed[missing[0]])} is missing{_others(missing)}")
    if surplus := sorted(set(shapes) - set(needed)):
        key = surplus[0]
        raise ModelError(f"weight {key!r} {tuple(shapes[key])} has no place in this network{_others(surplus)}")
    for key, shape in needed.items():
        if tuple(shapes[key]) != shape:
            raise ModelError(f"weight {key!r} has shape {tuple(shapes[key])}, the rest of the network needs {shape}")


def _others(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
