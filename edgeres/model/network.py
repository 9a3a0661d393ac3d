"""``Network``: the torch module that interprets a graph."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeres.errors import ModelError
from edgeres.model.graph import check_shapes
from edgeres.model.operation import BLUR, IMAGE, Op
from edgeres.model.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edgeres.model.graph import Graph

    Tap = Callable[[str, Tensor], None]

_WEIGHTED = ("conv", "linear", "prelu", "tokens")  # operations that read a weight, quantized in a subclass


class _Positions(nn.Module):
    """The positions ``[T,C]`` of tokens, at random about as large as those of a trained network."""

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, channels) / channels**0.5)


def _attended(inputs: list[Tensor], heads: int) -> Tensor:
    """``[N,C,1,1]`` of a query ``[N,C,1,1]`` and keys and values ``[N,C,T,1]``, head by head."""
    query, key, value = (part.reshape(len(part), heads, -1, part.shape[2]) for part in inputs)
    scores = query.transpose(2, 3) @ key / float(query.shape[2]) ** 0.5
    pooled: Tensor = value @ scores.softmax(-1).transpose(2, 3)
    return pooled.reshape(len(pooled), -1, 1, 1)


class _Constants(nn.Module):
    """The constants of an operator, which are not learned."""

    def __init__(self, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> None:
        super().__init__()
        for key, shape in shapes:
            self.register_buffer(key, torch.zeros(shape))


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, op: Op) -> Tensor:
    """A convolution of ``[N,C,H,W]``, or of ``[N,C,L]`` as of one row."""
    if x.ndim == 3:
        return _convolved(x.unsqueeze(2), weight, bias, op).squeeze(2)
    _, strides, _, dilations = op.window
    x, padding = _padded(x, op)
    return F.conv2d(x, weight, bias, strides, padding, dilations, op.groups)


def _without_weights(op: Op, inputs: list[Tensor]) -> Tensor:  # noqa: PLR0911, PLR0912  # one case per kind
    """An operation that has no weights, on its input tensors."""
    x = inputs[0]
    match op.kind:
        case "relu":
            return F.relu(x)
        case "silu":
            return F.silu(x)
        case "sigmoid":
            return torch.sigmoid(x)
        case "add":
            return x + inputs[1]
        case "mul":
            return x * inputs[1]
        case "attention":
            return _attended(inputs, op.groups)
        case "maxpool":
            x, padding = _padded(x, op, -inf)
            return F.max_pool2d(x, op.kernel, op.stride, padding)
        case "avgpool":
            return F.avg_pool2d(x, op.kernel, op.stride, ceil_mode=op.ceil)
        case "gap":
            return x.mean((2, 3), keepdim=True)
        case "blur":
            row = torch.tensor(BLUR, dtype=x.dtype, device=x.device)
            filters = (torch.outer(row, row) / row.sum() ** 2).expand(op.c_in, 1, op.kernel, op.kernel)
            return F.conv2d(x, filters, None, op.stride, groups=op.c_in)
        case "pad":
            return F.pad(x, (op.padding,) * 4, "reflect" if op.reflected else "constant")
        case "zeropad":
            front = (op.c_out - op.c_in) // 2
            return F.pad(x, (0, 0, 0, 0, front, op.c_out - op.c_in - front))
        case "subsample":
            return x[:, :, :: op.stride, :: op.stride]
        case "flatten":
            return x.flatten(1)
    raise ModelError(f"{op.name}: no operation {op.kind}", "please report it")


class Network(nn.Module):
    """A residual network whose forward pass interprets a graph.

    Its state dict has the graph's keys (torchvision's names), plus ``num_batches_tracked`` while norms are present.
    Without weights it is initialised at random (Kaiming: He et al. 2015, arXiv 1502.01852), with the last norm of each
    block at zero (Goyal et al. 2017, arXiv 1706.02677).
    """

    def __init__(self, graph: Graph, weights: Weights | None = None) -> None:
        super().__init__()
        self.graph = graph
        self._last_use = {name: op.name for op in self.graph.ops for name in op.inputs}
        for op in self.graph.ops:
            if op.kind == "conv":
                kernel, strides, _, dilations = op.window
                layer = nn.Conv2d(op.c_in, op.c_out, kernel, strides, 0, dilations, groups=op.groups, bias=op.bias)
                self._attach(op.name, layer)
            elif op.kind == "norm":
                flat = self.graph[op.inputs[0]].kind == "linear"
                self._attach(op.name, (nn.BatchNorm1d if flat else nn.BatchNorm2d)(op.c_out, eps=op.eps))
            elif op.kind == "prelu":
                self._attach(op.name, nn.PReLU(op.c_out))
            elif op.kind == "groupnorm":
                self._attach(op.name, nn.GroupNorm(op.groups, op.c_out, eps=op.eps))
            elif op.kind == "channelconv":
                self._attach(op.name, nn.Conv1d(1, 1, op.kernel, padding=op.padding, bias=False))
            elif op.kind == "tokens":
                self._attach(op.name, _Positions(op.kernel, op.c_out))
            elif op.kind == "linear":
                self._attach(op.name, nn.Linear(op.c_in, op.c_out, bias=op.bias))
            elif op.constants:
                self._attach(op.name, _Constants(op.constants))
        if weights is None:
            self._initialise()
        else:
            self.load(weights)

    def _attach(self, path: str, module: nn.Module) -> None:
        parent: nn.Module = self
        *parents, leaf = path.split(".")
        for part in parents:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(leaf, module)

    def _initialise(self) -> None:
        for op in self.graph.ops:
            if op.kind == "conv":
                nn.init.kaiming_normal_(self.get_parameter(f"{op.name}.weight"), mode="fan_out", nonlinearity="relu")
                if op.bias:
                    nn.init.zeros_(self.get_parameter(f"{op.name}.bias"))
            if op.kind == "add" and self.graph[op.inputs[0]].kind in ("norm", "groupnorm"):
                nn.init.zeros_(self.get_parameter(f"{op.inputs[0]}.weight"))

    def load(self, weights: Weights) -> None:
        """Copies weights into the module; ``ModelError`` where they do not fit the graph, see ``check_shapes``."""
        check_shapes(self.graph, {key: array.shape for key, array in weights.items()})
        self.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in weights.items()}, strict=False)

    def weights(self) -> Weights:
        """The module's current values as frozen weights."""
        state = self.state_dict()
        return Weights({key: state[key].detach().cpu().numpy() for key in self.graph.parameters})

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]`` in inference mode, without gradients.

        Pixels are laid out channels last, which oneDNN's convolutions run up to twice as fast on.
        """
        was_training = self.training
        self.eval()
        with torch.inference_mode():
            device = next(self.parameters()).device
            x = torch.from_numpy(images).to(device, memory_format=torch.channels_last)
            logits: NDArray[np.float32] = self(x).cpu().numpy()
        self.train(was_training)
        return logits

    def read(self, op: Op, index: int, values: dict[str, Tensor]) -> Tensor:
        """The value that an operation reads from one of its inputs; a quantized network overrides it with Q/DQ."""
        return values[op.inputs[index]]

    def parameter(self, op: Op, key: str) -> Tensor | None:
        """A weight or bias of an operation; a quantized network overrides it with Q/DQ."""
        return self.get_parameter(f"{op.name}.{key}") if key == "weight" or op.bias else None

    def apply_op(self, op: Op, inputs: list[Tensor]) -> Tensor:  # noqa: PLR0911  # one case per kind
        """One operation on its input tensors."""
        x, weight = inputs[0], self.parameter(op, "weight") if op.kind in _WEIGHTED else None
        match op.kind:
            case "conv":
                assert weight is not None
                return _convolved(x, weight, self.parameter(op, "bias"), op)
            case "linear":
                assert weight is not None
                return F.linear(x, weight, self.parameter(op, "bias"))
            case "prelu":
                assert weight is not None
                return F.prelu(x, weight)
            case "tokens":
                assert weight is not None
                rows = torch.cat([x.mean((2, 3)).unsqueeze(2), x.flatten(2)], 2)
                return (rows + weight.T).unsqueeze(3)
            case "norm" | "groupnorm":
                normed: Tensor = self.get_submodule(op.name)(x)
                return normed
            case "channelconv":
                along: Tensor = self.get_submodule(op.name)(x.flatten(1).unsqueeze(1))
                return along.reshape(x.shape)
            case "operator":
                constants = {key: self.get_buffer(f"{op.name}.{key}") for key, _ in op.constants}
                return self.graph.compute(op, inputs, constants)
        return _without_weights(op, inputs)

    def step(self, op: Op, values: dict[str, Tensor]) -> None:
        """Adds an operation's output to the tensors by name, and drops those that are no longer read."""
        values[op.name] = self.apply_op(op, [self.read(op, index, values) for index in range(len(op.inputs))])
        for name in set(op.inputs):
            if self._last_use[name] == op.name:
                del values[name]

    def forward(self, image: Tensor, tap: Tap | None = None) -> Tensor:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``; ``tap`` gets every tensor by name, including the image."""
        values = {IMAGE: image}
        if tap is not None:
            tap(IMAGE, image)
        for op in self.graph.ops:
            self.step(op, values)
            if tap is not None:
                tap(op.name, values[op.name])
        return values[self.graph.output]


def _padded(x: Tensor, op: Op, value: float = 0.0) -> tuple[Tensor, tuple[int, int]]:
    """The input of a window, and the padding above and left that is left to it: all, where it is even on both sides."""
    above, left, below, right = op.pads(x.shape[2:])
    if (above, left) == (below, right):
        return x, (above, left)
    return F.pad(x, (left, right, above, below), value=value), (0, 0)
