"""A float ONNX graph in plain torch: each operator of the graph is the torch function of that name."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper, load, numpy_helper

from edgeres.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import NodeProto
    from torch import Tensor

    Step = Callable[[list[Tensor]], Tensor]


class EagerSession:
    """A graph whose operators are called one by one, images in channels-last layout."""

    def __init__(self, path: Path) -> None:
        import torch

        graph = load(str(path)).graph
        values = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
        self._constants = {name: _last(value) for name, value in values.items()}
        self._steps = [(_step(node), list(node.input), node.output[0]) for node in graph.node]
        self._input, self._output = graph.input[0].name, graph.output[0].name

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``."""
        import torch

        with torch.inference_mode():
            values = {**self._constants, self._input: _last(torch.from_numpy(images))}
            for step, inputs, output in self._steps:
                values[output] = step([values[name] for name in inputs])
            return np.asarray(values[self._output].numpy(), dtype=np.float32)


@contextmanager
def eager_session(path: Path, threads: int) -> Iterator[EagerSession]:
    """Opens a float graph in torch.

    Raises:
        StageError: It holds an operator that is not translated.
    """
    import torch

    torch.set_num_threads(threads)
    yield EagerSession(path)


def _last(tensor: Tensor) -> Tensor:
    import torch

    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _step(node: NodeProto) -> Step:
    """One operator as a function of its inputs (onnx.ai/onnx/operators)."""
    facts = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    made = _windowed(node.op_type, facts) or _plain(node.op_type, facts)
    if made is None:
        raise StageError(f"{node.op_type} is not translated to torch", "leave torch out of --runtimes")
    return made


def _windowed(kind: str, facts: dict[str, Any]) -> Step | None:
    """Convolution and pooling; their padding is symmetric in every ResNet."""
    from torch.nn import functional as F

    pads = facts.get("pads", [0, 0, 0, 0])
    stride, padding = facts.get("strides", [1, 1]), pads[:2]
    if kind not in ("Conv", "MaxPool") or pads[:2] != pads[2:] or facts.get("ceil_mode", 0):
        return None
    dilation = facts.get("dilations", [1, 1])
    if kind == "MaxPool":
        return lambda x: F.max_pool2d(x[0], facts["kernel_shape"], stride, padding, dilation)
    bias: Callable[[list[Tensor]], Tensor | None] = lambda x: x[2] if len(x) > 2 else None  # noqa: E731 - one place
    return lambda x: F.conv2d(x[0], x[1], bias(x), stride, padding, dilation, facts.get("group", 1))


def _plain(kind: str, facts: dict[str, Any]) -> Step | None:
    import torch
    from torch.nn import functional as F

    table: dict[str, Step] = {
        "Add": lambda x: x[0] + x[1],
        "Mul": lambda x: x[0] * x[1],
        "Relu": lambda x: F.relu(x[0]),
        "Sigmoid": lambda x: torch.sigmoid(x[0]),
        "GlobalAveragePool": lambda x: x[0].mean((2, 3), keepdim=True),
        "Flatten": lambda x: x[0].flatten(facts.get("axis", 1)),
    }
    if kind == "Gemm" and not facts.get("transA", 0) and facts.get("alpha", 1.0) == facts.get("beta", 1.0) == 1.0:
        turned = bool(facts.get("transB", 0))
        return lambda x: F.linear(x[0], x[1] if turned else x[1].T, x[2])
    return table.get(kind)
