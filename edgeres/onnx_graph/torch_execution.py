"""Execution of single ONNX nodes in torch, for batches of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgeres.onnx_graph.torch_operators import OPERATORS
from edgeres.onnx_graph.torch_translator import Translator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import NodeProto
    from torch import Tensor

    from edgeres.onnx_graph.graph_index import GraphIndex

    Shape = tuple[int, ...]


def batch_axis(one: Shape, two: Shape) -> int | None:
    """The axis of a tensor along which the images of a batch lie, from its shapes for one and for two images."""
    return next((axis for axis, (some, more) in enumerate(zip(one, two, strict=True)) if some != more), None)


class Execution(Translator):
    """Computes one node at once: the torch operators of ``edgeres.onnx_graph.torch_operators`` on tensors.

    ``shapes`` are those of every tensor for one and for two images, ``tensors`` the node's computed inputs and those
    constants that replace the graph's. A constant with a batch axis is repeated for every image.
    """

    def __init__(
        self, view: GraphIndex, shapes: tuple[Mapping[str, Shape], Mapping[str, Shape]], tensors: Mapping[str, Tensor]
    ) -> None:
        self.view = view
        self._one, self._two = shapes
        self._tensors = tensors
        self.integer = frozenset()
        self._images = next(filter(None, map(self._counted, tensors)), 1)

    def _counted(self, name: str) -> int:
        """Number of images that a computed tensor holds; 0 where it does not depend on the batch."""
        one, two = self._one.get(name, ()), self._two.get(name, ())
        if name in self.view.constants:
            return 0
        axis = batch_axis(one, two)
        return 0 if axis is None else self._tensors[name].shape[axis] // one[axis]

    def run(self, node: NodeProto, output: int) -> Tensor:
        """One output of a node; ``KeyError`` for an operator without a form in torch."""
        results: Any = OPERATORS[node.op_type](self, node)
        tensor: Tensor = results[output] if isinstance(results, list) else results
        return tensor

    def call(self, operator: Any, *arguments: Any) -> Any:
        """Runs a torch operator."""
        return operator(*arguments)

    def shape(self, tensor: str) -> Shape:
        """Shape of a tensor for the images at hand."""
        if tensor not in self._one:
            value = self.view.value(tensor)
            return () if value is None else value.shape
        pairs = zip(self._one[tensor], self._two[tensor], strict=True)
        return tuple(one + (self._images - 1) * (two - one) for one, two in pairs)

    def constant(self, value: NDArray[np.generic]) -> Any:
        """A constant as a tensor."""
        return torch.from_numpy(np.array(value))

    def tensor(self, name: str) -> Any:
        """An input of the node."""
        if name not in self.view.constants:
            return self._tensors[name]
        value = self.view.value(name)
        constant = self._tensors[name] if name in self._tensors or value is None else self.constant(value)
        return constant.expand(self.shape(name)) if name in self._one else constant
