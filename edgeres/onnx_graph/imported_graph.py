"""``ImportedGraph``: an ONNX classifier as a ``Graph`` with ``Weights``, for the techniques that quantize ResNets.

Convolutions and products with a constant matrix become weighted operations; every other node is one ``operator``, which
is computed in torch, or by ONNX Runtime where torch has no form of it. Each is compared with ONNX Runtime on its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeres.onnx_graph import channels, imported_weights
from edgeres.onnx_graph.execute import open_session, session_options
from edgeres.onnx_graph.torch_execution import Execution, batch_axis
from edgeres.quant.algorithms.channel_scaling import ScalableGraph, Units

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto, NodeProto
    from torch import Tensor

    from edgeres.model.operation import Op
    from edgeres.model.weights import Weights
    from edgeres.onnx_graph.graph_index import GraphIndex
    from edgeres.onnx_graph.imported_weights import Site
    from edgeres.onnx_graph.torch_execution import Shape
    from edgeres.quant.algorithms.channel_scaling import ChannelScales
    from edgeres.quant.placement import Placement

PIECE = 3
"""Least number of weighted operations between two cuts."""


@dataclass(frozen=True, eq=False)
class ImportedGraph(ScalableGraph):
    """The operations of an ONNX classifier.

    Attributes:
        view: The folded float graph for one image: constants instead of what it computes from shapes.
        model: The folded float graph for any number of images.
        names: Operation of every tensor, by the tensor's name.
        sites: Where each operation is, by its name.
        shapes: Shape of every tensor for one and for two images.
        by_runtime: Operations that ONNX Runtime computes.
    """

    model: ModelProto = field(kw_only=True)
    view: GraphIndex = field(kw_only=True)
    names: Mapping[str, str] = field(kw_only=True)
    sites: Mapping[str, Site] = field(kw_only=True)
    shapes: tuple[Mapping[str, Shape], Mapping[str, Shape]] = field(kw_only=True)
    by_runtime: frozenset[str] = frozenset()

    __eq__, __hash__ = object.__eq__, object.__hash__

    def __deepcopy__(self, memo: object) -> ImportedGraph:
        return self

    def placed(self, placement: Placement) -> ImportedGraph:
        """The graph with a Q/DQ placement."""
        return replace(self, placement=placement)

    @property
    def differentiable(self) -> bool:
        """Whether torch computes every operation."""
        return not self.by_runtime

    @cached_property
    def tensors(self) -> dict[str, str]:
        """The tensor of every operation, by the operation's name."""
        return {name: tensor for tensor, name in self.names.items()}

    def node(self, op: Op) -> NodeProto:
        """The node of an operation."""
        return self.view.producers[self.sites[op.name].node]

    def compute(self, op: Op, inputs: list[Tensor], constants: Mapping[str, Tensor]) -> Tensor:
        """Output of an ``operator``."""
        site, node = self.sites[op.name], self.node(op)
        tensors = {node.input[index]: x for index, x in zip(site.data, inputs, strict=True)}
        tensors |= {node.input[index]: constants[key] for key, (_, index) in site.constants.items()}
        if op.name in self.by_runtime:
            return self._by_runtime(node, site, tensors)
        return Execution(self.view, self.shapes, tensors).run(node, site.output)

    def _by_runtime(self, node: NodeProto, site: Site, tensors: Mapping[str, Tensor]) -> Tensor:
        import torch

        name = node.output[site.output]
        if name not in self._sessions:
            self._sessions[name] = open_session(
                imported_weights.single_node(self.view, node, name, list(tensors)), session_options("none")
            )
        feeds = {key: x.detach().contiguous().numpy() for key, x in tensors.items()}
        return torch.from_numpy(np.array(self._sessions[name].run([name], feeds)[0]))

    @cached_property
    def _sessions(self) -> dict[str, Any]:
        return {}

    @cached_property
    def pieces(self) -> tuple[tuple[str, tuple[Op, ...]], ...]:
        """Neighbouring operations between tensors that alone carry what was computed before them."""
        last = {name: index for index, op in enumerate(self.ops) for name in op.inputs}
        pieces: list[tuple[str, tuple[Op, ...]]] = []
        start, live = 0, set(self.ops[0].inputs)
        for index, op in enumerate(self.ops):
            live = {name for name in (*live, op.name) if last.get(name, -1) > index}
            layers = sum(one.kind != "operator" for one in self.ops[start : index + 1])
            if live == {op.name} and layers >= PIECE and self._is_batch(op.name):
                pieces.append((op.name, self.ops[start : index + 1]))
                start = index + 1
        return (*pieces, (self.output, self.ops[start:])) if start < len(self.ops) else tuple(pieces)

    def _is_batch(self, name: str) -> bool:
        """Whether the images of a batch lie along the first axis of a tensor, one after another."""
        one, two = (shapes[self.tensors[name]] for shapes in self.shapes)
        return batch_axis(one, two) == 0 and one[0] == 1

    @cached_property
    def units(self) -> Units:
        """The units of its tensors; those without an operation keep their own names."""
        units = channels.channel_units(self.model)
        return Units({self.names.get(name, name): of for name, of in units.of.items()}, units.group)

    def rescaled(self, weights: Weights, scales: ChannelScales) -> Weights:
        """Weights of the same function, in which every channel is divided by its scale."""
        by_tensor = {self.tensors.get(name, name): np.asarray(scale) for name, scale in scales.items()}
        changed = channels.rescaled(self.with_weights(weights), by_tensor)
        return self.read_weights(changed)

    def read_weights(self, model: ModelProto) -> Weights:
        """The weights and constants in a file of the same nodes."""
        return imported_weights.read_weights(self.ops, self.sites, model)

    def with_weights(self, weights: Weights) -> ModelProto:
        """The float graph with other weights and constants."""
        return imported_weights.with_weights(self.ops, self.sites, self.model, weights)
