"""``Network``: the torch module of a spec, which interprets its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeres.model.graph import IMAGE, NORM_EPS, Graph, Op, check_shapes, graph
from edgeres.model.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edgeres.model.spec import ResNetSpec

    Tap = Callable[[str, Tensor], None]


class Network(nn.Module):
    """A residual network whose forward pass interprets ``graph(spec)``.

    Its state dict has the graph's keys (torchvision's names), plus ``num_batches_tracked`` while norms are present.
    Without weights it is initialised at random (Kaiming: He et al. 2015, arXiv 1502.01852), with the last norm of each
    block at zero (Goyal et al. 2017, arXiv 1706.02677).
    """

    def __init__(self, spec: ResNetSpec, weights: Weights | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.graph: Graph = graph(spec)
        self._last_use = {name: op.name for op in self.graph.ops for name in op.inputs}
        for op in self.graph.ops:
            if op.kind == "conv":
                window = (op.kernel, op.stride, op.padding)
                self._attach(op.name, nn.Conv2d(op.c_in, op.c_out, *window, groups=op.groups, bias=op.bias))
            elif op.kind == "norm":
                self._attach(op.name, nn.BatchNorm2d(op.c_out, eps=NORM_EPS))
            elif op.kind == "linear":
                self._attach(op.name, nn.Linear(op.c_in, op.c_out, bias=op.bias))
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
            if op.kind == "add" and self.graph[op.inputs[0]].kind == "norm":
                nn.init.zeros_(self.get_parameter(f"{op.inputs[0]}.weight"))

    def load(self, weights: Weights) -> None:
        """Copies weights into the module; ``ModelError`` where they do not fit the spec, see ``check_shapes``."""
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

    def apply_op(self, op: Op, inputs: list[Tensor]) -> Tensor:  # noqa: PLR0911  # one line per kind of operation
        """One operation on its input tensors."""
        x = inputs[0]
        match op.kind:
            case "conv":
                weight, bias = self.parameter(op, "weight"), self.parameter(op, "bias")
                assert weight is not None
                return F.conv2d(x, weight, bias, op.stride, op.padding, groups=op.groups)
            case "linear":
                weight = self.parameter(op, "weight")
                assert weight is not None
                return F.linear(x, weight, self.parameter(op, "bias"))
            case "norm":
                normed: Tensor = self.get_submodule(op.name)(x)
                return normed
            case "relu":
                return F.relu(x)
            case "maxpool":
                return F.max_pool2d(x, op.kernel, op.stride, op.padding)
            case "subsample":
                return x[:, :, :: op.stride, :: op.stride]
            case "zeropad":
                front = (op.c_out - op.c_in) // 2
                return F.pad(x, (0, 0, 0, 0, front, op.c_out - op.c_in - front))
            case "add":
                return x + inputs[1]
            case "mul":
                return x * inputs[1]
            case "gap":
                return x.mean((2, 3), keepdim=True)
            case "sigmoid":
                return torch.sigmoid(x)
            case "flatten":
                return x.flatten(1)

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
