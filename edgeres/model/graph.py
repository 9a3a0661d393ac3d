"""``Graph``: the operations of a network in execution order, derived from a spec.

An operation's name is also the name of its output tensor and the prefix of its weights, and equals the torchvision
module name wherever torchvision has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING, Any

from edgeres.errors import ModelError
from edgeres.model.operation import IMAGE, Op

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from edgeres.model.operation import OpKind
    from edgeres.model.spec import Block, ResNetSpec


@dataclass(frozen=True, slots=True)
class Graph:
    """Operations in execution order; a network reads tensor ``image``, and its last operation computes the logits.

    ``blocks`` are the names of the residual blocks, of whose operations they are prefixes.
    """

    ops: tuple[Op, ...]
    blocks: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Op:
        return next(op for op in self.ops if op.name == name)

    @property
    def output(self) -> str:
        """Name of the last operation's tensor, in a network the logits ``[N,classes]``."""
        return self.ops[-1].name

    @property
    def channels(self) -> int:
        """Channels of the image."""
        return self.ops[0].c_in

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.ops[-1].c_out

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

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow through every operation."""
        return True

    @property
    def pieces(self) -> tuple[tuple[str, tuple[Op, ...]], ...]:
        """Neighbouring operations with the name of their block, empty outside of blocks, in execution order."""

        def block_of(op: Op) -> str:
            return next((name for name in self.blocks if op.name.startswith(f"{name}.")), "")

        return tuple((name, tuple(ops)) for name, ops in groupby(self.ops, key=block_of))

    def compute(self, op: Op, inputs: list[Tensor], constants: Mapping[str, Tensor]) -> Tensor:
        """Output of an ``operator`` for its inputs and its constants by key; only an imported graph has such."""
        raise ModelError(f"{op.name}: no ResNet has {op.operator or op.kind}", "please report it")


class _Builder:
    """Appends operations and returns the names of their output tensors."""

    def __init__(self, spec: ResNetSpec) -> None:
        self.spec = spec
        self.ops: list[Op] = []
        self.channels: dict[str, int] = {IMAGE: spec.channels}

    def add(self, kind: OpKind, name: str, *inputs: str, out: int = 0, bias: bool = False, **window: Any) -> str:
        """An operation with ``out`` channels, by default as many as its input; ``window`` is as in ``Op``."""
        c_in = self.channels[inputs[0]]
        paddings = {"conv": self.spec.padding, "maxpool": self.spec.stem.pool_padding}
        same = paddings.get(kind) == "same" and window.get("stride", 1) > 1 and window.get("kernel", 1) > 1
        same = same and not window.get("valid", False)
        self.ops.append(Op(kind, name, inputs, c_in, out or c_in, bias=bias, same=same, eps=self.spec.eps, **window))
        self.channels[name] = out or c_in
        return name

    def norm(self, name: str, x: str) -> str:
        """A batch norm or a group norm."""
        if self.spec.normalization == "group":
            return self.add("groupnorm", name, x, groups=self.spec.norm_groups)
        return self.add("norm", name, x)

    def conv_norm(self, conv: str, norm: str, x: str, out: int, **window: Any) -> str:
        """A convolution followed by a norm, or one convolution with a bias once that batch norm is folded."""
        folded = self.spec.normalization == "batch" and not self.spec.norm
        x = self.add("conv", conv, x, out=out, bias=folded, **window)
        return x if folded else self.norm(norm, x)

    def stem(self) -> str:
        """The convolutions, named as torchvision's one or as timm's Sequential of three, and the pooling."""
        spec, stem, x = self.spec, self.spec.stem, IMAGE
        for index, width in enumerate(stem.inner):
            window: dict[str, Any] = {"kernel": stem.kernel, "stride": stem.stride if index == 0 else 1}
            if index < stem.bare:
                x = self.add("conv", f"conv1.{3 * index}", x, out=width, **window)
                continue
            x = self.conv_norm(f"conv1.{3 * index}", f"conv1.{3 * index + 1}", x, width, **window)
            x = self.add(spec.activation, f"conv1.{3 * index + 2}", x)
        last = f"conv1.{3 * len(stem.inner)}" if stem.inner else "conv1"
        window = {"kernel": stem.kernel, "stride": stem.last_stride if stem.inner else stem.stride}
        if spec.preactivation and not stem.normed:
            x = self.add("conv", last, x, out=stem.width, **window)
        else:
            x = self.conv_norm(last, "bn1", x, stem.width, **window)
            name = "relu1" if spec.preactivation else "prelu" if spec.activation == "prelu" else "relu"
            x = self.add(spec.activation, name, x)
        return self.pooled(x) if stem.pool else x

    def pooled(self, x: str) -> str:
        """The stem's pooling; an anti-aliased max-pool has stride 1 and a blur behind it, or is an average."""
        spec, stem = self.spec, self.spec.stem
        if stem.pooling == "convolution":
            x = self.conv_norm("maxpool.0", "maxpool.1", x, stem.out, kernel=3, stride=2)
            return self.add(spec.activation, "maxpool.2", x)
        if stem.pooling == "average" or spec.antialias == "average":
            return self.add("avgpool", "maxpool", x, kernel=2, stride=2, valid=True)
        if stem.zero_frame:
            x = self.add("pad", "maxpool.pad", x, kernel=3)
            return self.add("maxpool", "maxpool", x, kernel=3, stride=2, valid=True)
        if spec.antialias == "blur":
            return self.filtered("maxpool.1", self.add("maxpool", "maxpool.0", x, kernel=3), 2)
        return self.add("maxpool", "maxpool", x, kernel=3, stride=2)

    def filtered(self, name: str, x: str, stride: int) -> str:
        """The anti-aliasing filter with a stride."""
        if self.spec.antialias == "average":
            return self.add("avgpool", name, x, kernel=stride, stride=stride, valid=True)
        x = self.add("pad", f"{name}.pad", x, kernel=3, reflected=True)
        return self.add("blur", name, x, kernel=3, stride=stride, valid=True)

    def convolutions(self, block: Block) -> tuple[tuple[int, int, int, int, int], ...]:
        """``(width, kernel, stride, groups, dilation)`` of each convolution of a block."""
        if self.spec.kind == "basic":
            return (block.inner[0], 3, block.stride, 1, 1), (block.out, 3, 1, 1, 1)
        first, second = (block.stride, 1) if self.spec.stride_in == "1x1" else (1, block.stride)
        spatial = (block.inner[1], 3, second, block.groups, block.dilation)
        return ((block.inner[0], 1, first, 1, 1), spatial, (block.out, 1, 1, 1, 1))

    def identity(self, name: str, block: Block, x: str, activated: str) -> str:
        """The shortcut: unchanged, projected by a 1x1 convolution (B), or subsampled and zero-padded (A)."""
        if block.projected:
            return self.projection(f"{name}.downsample", block, activated if self.spec.preactivation else x)
        if block.stride != 1:
            x = self.add("subsample", f"{name}.subsample", x, stride=block.stride)
        if self.channels[x] != block.out:
            x = self.add("zeropad", f"{name}.zeropad", x, out=block.out)
        return x

    def projection(self, name: str, block: Block, x: str) -> str:
        """A 1x1 convolution with the block's stride, or behind an average pool that has it (ResNet-D)."""
        stride, first = block.stride, 0
        if self.spec.downsample == "average":
            if stride != 1:
                x = self.add("avgpool", f"{name}.0", x, kernel=2, stride=stride, valid=True, ceil=True)
            stride, first = 1, 1
        if self.spec.preactivation:
            return self.add("conv", f"{name}.{first}", x, out=block.out, stride=stride)
        return self.conv_norm(f"{name}.{first}", f"{name}.{first + 1}", x, block.out, stride=stride)

    def attended(self, name: str, block: Block, x: str) -> str:
        """A tensor scaled by the gates of its channels: squeeze and excitation, or efficient channel attention."""
        if not block.squeeze and not block.eca:
            return x
        gate = self.add("gap", f"{name}.se.pool", x)
        if block.eca:
            gate = self.add("channelconv", f"{name}.se.conv", gate, kernel=block.eca)
        else:
            gate = self.add("conv", f"{name}.se.fc1", gate, out=block.squeeze, bias=True)
            gate = self.add("relu", f"{name}.se.relu", gate)
            gate = self.add("conv", f"{name}.se.fc2", gate, out=self.channels[x], bias=True)
        gate = self.add("sigmoid", f"{name}.se.gate", gate)
        return self.add("mul", f"{name}.se.scale", x, gate)

    def block(self, name: str, block: Block, x: str) -> str:
        """v1, or v2: norm and ReLU come first; a projection reads the activated input (arXiv 1603.05027, appendix)."""
        before, activation = self.spec.preactivation, self.spec.activation
        y = activated = self.add(activation, f"{name}.relu1", self.norm(f"{name}.bn1", x)) if before else x
        convolutions = self.convolutions(block)
        for number, (width, kernel, stride, groups, dilation) in enumerate(convolutions, start=1):
            conv, after, last = f"{name}.conv{number}", number + before, number == len(convolutions)
            aliased = stride if kernel == 3 and stride > 1 and self.spec.antialias != "none" else 0
            window: dict[str, Any] = {"kernel": kernel, "groups": groups, "dilation": dilation}
            window["stride"] = 1 if aliased else stride
            if before and last:
                y = self.add("conv", conv, y, out=width, **window)
            else:
                y = self.conv_norm(conv, f"{name}.bn{after}", y, width, **window)
            if not last:
                y = self.add(activation, f"{name}.relu{after}", y)
            if aliased:
                y = self.filtered(f"{name}.aa", y, aliased)
            if self.spec.attention == "3x3" and kernel == 3 and not last:
                y = self.attended(name, block, y)
        if self.spec.attention == "block":
            y = self.attended(name, block, y)
        y = self.add("add", f"{name}.add", y, self.identity(name, block, x, activated))
        return y if before else self.add(activation, f"{name}.relu", y)

    def leading_block(self, name: str, block: Block, x: str) -> str:
        """Norm, convolution, norm, activation, convolution, norm; then the add (arXiv 1801.07698, section 3.2.2)."""
        y = self.norm(f"{name}.bn1", x)
        y = self.conv_norm(f"{name}.conv1", f"{name}.bn2", y, block.inner[0], kernel=3)
        y = self.add(self.spec.activation, f"{name}.prelu", y)
        y = self.conv_norm(f"{name}.conv2", f"{name}.bn3", y, block.out, kernel=3, stride=block.stride)
        y = self.attended(name, block, y)
        return self.add("add", f"{name}.add", y, self.identity(name, block, x, x))

    def flat_head(self, x: str) -> None:
        """Norm, all pixels of the features, a matrix product and a norm; the norms fold into the product."""
        rows, columns = self.spec.grid
        x = self.norm("bn2", x) if self.spec.norm else x
        x = self.add("flatten", "flatten", x, out=self.channels[x] * rows * columns)
        x = self.add("linear", "fc", x, out=self.spec.classes, bias=True)
        if self.spec.norm:
            self.norm("features", x)

    def attention_pool(self, x: str) -> str:
        """Features ``[N,C,1,1]``: what the mean of all pixels attends to (arXiv 2103.00020, section 2.4)."""
        count, heads = prod(self.spec.grid) + 1, self.spec.attention_heads
        x = self.add("tokens", "attnpool", x, kernel=count)
        first = self.add("subsample", "attnpool.token", x, stride=count)
        query = self.add("conv", "attnpool.q", first, bias=True)
        key, value = (self.add("conv", f"attnpool.{name}", x, bias=True) for name in "kv")
        return self.add("attention", "attnpool.attention", query, key, value, kernel=count, groups=heads)

    def head(self, x: str) -> None:
        """Norm of a pre-activation network, further features, the pool and the classifier of one or two layers."""
        if self.spec.preactivation:
            x = self.add(self.spec.activation, "relu", self.norm("norm", x))
        if self.spec.features:
            x = self.conv_norm("final_conv", "final_bn", x, self.spec.features)
            x = self.add(self.spec.activation, "final_relu", x)
        x = self.attention_pool(x) if self.spec.attention_heads else self.add("gap", "avgpool", x)
        if self.spec.hidden:
            x = self.norm("hidden_norm", x) if self.spec.norm else x
            x = self.add("conv", "hidden", x, out=self.spec.hidden, bias=True)
            x = self.add(self.spec.activation, "hidden_relu", x)
        self.add("linear", "fc", self.add("flatten", "flatten", x), out=self.spec.classes, bias=True)


@lru_cache(maxsize=64)
def graph(spec: ResNetSpec) -> Graph:
    """The operations of a network, in execution order."""
    builder = _Builder(spec)
    x = builder.stem()
    add_block = builder.leading_block if spec.leading_norm else builder.block
    for name, _, block in spec.blocks:
        x = add_block(name, block, x)
    add_head = builder.flat_head if spec.leading_norm else builder.head
    add_head(x)
    return Graph(tuple(builder.ops), tuple(name for name, _, _ in spec.blocks))


def check_shapes(network: Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compares a state dict's shapes with those a network needs.

    Raises:
        ModelError: A key is missing, left over, or of another shape; the message names the first one.
    """
    needed = network.parameters
    if missing := [key for key in needed if key not in shapes]:
        raise ModelError(f"weight {missing[0]!r} {tuple(needed[missing[0]])} is missing{_others(missing)}")
    if surplus := sorted(set(shapes) - set(needed)):
        raise ModelError(f"weight {surplus[0]!r} {shapes[surplus[0]]} has no place in this network{_others(surplus)}")
    for key, shape in needed.items():
        if tuple(shapes[key]) != shape:
            raise ModelError(f"weight {key!r} has shape {tuple(shapes[key])}, the rest of the network needs {shape}")


def _others(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
