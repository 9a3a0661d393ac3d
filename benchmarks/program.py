"""Networks that torchao quantized run in torch and nowhere else: there they are made and judged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgeres.artifacts.artifact import KernelCounts
from edgeres.model.network import Network

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from benchmarks.pixels import Pixels
    from edgeres.model.graph import Graph
    from edgeres.model.operation import Op
    from edgeres.model.weights import Weights

BATCH = 32
_DEQUANTIZE = "quantized_decomposed.dequantize_per_"
_WEIGHTED = ("aten.conv2d.default", "aten.linear.default")


class Modules(Network):
    """The network with a module behind each operation: torchao's quantizers look for these, not for functions."""

    def __init__(self, graph: Graph, weights: Weights) -> None:
        super().__init__(graph, weights)
        self._relus = nn.ModuleDict({_flat(op): nn.ReLU() for op in self.graph.ops if op.kind == "relu"})

    def apply_op(self, op: Op, inputs: list[Tensor]) -> Tensor:
        """One operation on its input tensors."""
        match op.kind:
            case "conv" | "linear":
                module = self.get_submodule(op.name)
            case "relu":
                module = self._relus[_flat(op)]
            case "gap":
                return nn.functional.adaptive_avg_pool2d(inputs[0], 1)
            case _:
                return super().apply_op(op, inputs)
        made: Tensor = module(inputs[0])
        return made


def _flat(op: Op) -> str:
    return op.name.replace(".", "_")


def loaded(path: Path) -> torch.fx.GraphModule:
    """The program of a ``.pt2`` file."""
    import torchao.quantization.pt2e  # noqa: F401  # registers the operations the file names

    module = torch.export.load(path).module()
    assert isinstance(module, torch.fx.GraphModule)
    return module


def fused(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The same program with each Q/DQ pair of a tensor as one operation, and weights dequantized once.

    ``fake_quantize_per_tensor_affine`` multiplies by the reciprocal of the scale as ``quantize_per_tensor`` does, so
    results are the same to the last bit, several times as fast. The pair's parameters are constants of the graph.
    """
    graph = module.graph
    for node in list(graph.nodes):
        name = str(node.target)
        if name.startswith(f"{_DEQUANTIZE}tensor") and str(getattr(node.args[0], "target", "")).startswith(
            "quantized_decomposed.quantize_per_tensor"
        ):
            source, scale, zero, low, high, *_ = node.args[0].args
            with graph.inserting_before(node):
                paired = graph.call_function(
                    torch.ops.aten.fake_quantize_per_tensor_affine.default, (source, scale, zero, low, high)
                )
            node.replace_all_uses_with(paired)
        elif name.startswith(f"{_DEQUANTIZE}channel"):
            _fold(module, node)
    graph.eliminate_dead_code()
    module.recompile()
    return module


def _fold(module: torch.fx.GraphModule, node: torch.fx.Node) -> None:
    """Dequantizes one constant weight now instead of on every run."""
    assert callable(node.target)
    values = [_constant(module, argument) for argument in node.args]
    name = f"folded_{node.name}"
    module.register_buffer(name, node.target(*values, **node.kwargs))
    with module.graph.inserting_before(node):
        node.replace_all_uses_with(module.graph.get_attr(name))


def _constant(module: torch.fx.GraphModule, argument: Any) -> Any:
    if not isinstance(argument, torch.fx.Node):
        return argument
    assert argument.op == "get_attr", f"{argument} is no constant"
    parent, _, leaf = str(argument.target).rpartition(".")
    return getattr(module.get_submodule(parent), leaf)


def answers(path: Path, pixels: Pixels) -> NDArray[np.float32]:
    """Logits ``[N,classes]`` by torch."""
    module, found = fused(loaded(path)), []
    with torch.inference_mode():
        for batch in pixels.batches(BATCH):
            alone = len(batch) == 1  # the program wants two images at least
            images = torch.from_numpy(np.concatenate([batch, batch]) if alone else batch)
            logits = module(images.to(memory_format=torch.channels_last))
            found.append(np.asarray(logits[: len(batch)]))
    return np.concatenate(found)


def kernels(path: Path) -> KernelCounts:
    """Weighted layers whose data and weight both come out of a dequantization: what a torch backend may fuse."""
    nodes = loaded(path).graph.nodes
    weighted = [node for node in nodes if str(node.target) in _WEIGHTED]
    integer = sum(all(_DEQUANTIZE in str(source.target) for source in node.args[:2]) for node in weighted)
    return KernelCounts(integer=integer, weighted=len(weighted), counts={}, how="read off torch's graph")
