"""Channel scaling of a float ONNX graph: units of channels that can be scaled, and the rescaled graph.

``edgeres.quant.algorithms.channel_scaling`` has the rules; here units are found node by node in any network: operators
that map channels to channels and are positively homogeneous keep units, an Add joins its inputs, a Concat places them
side by side, and weighted nodes and norms begin new ones. Fixed are the image, the logits, and the inputs and outputs
of any other operator: SiLU, HardSwish, Sigmoid and a Clip at 6 are not homogeneous.
"""

from __future__ import annotations

from copy import deepcopy
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgeres.onnx_graph.edit import prune, store
from edgeres.onnx_graph.graph_index import COUNTED, GraphIndex, attribute, has_transposed_weight, input_at
from edgeres.onnx_graph.operator_counts import tensor_shapes
from edgeres.quant.algorithms.channel_scaling import FIXED, Ties, partition

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.onnx_graph.operator_counts import Shapes
    from edgeres.quant.algorithms.channel_scaling import Units

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

_HOMOGENEOUS = (
    "Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Dropout",
)  # fmt: skip
"""Operators with ``f(x / s) = f(x) / s`` for every channel."""

_UNBOUNDED = 1e30
"""Bound from which on a Clip has no effect."""


def channel_units(model: ModelProto) -> Units:
    """The units of the tensors ``[N,C,...]`` of a folded float graph of fixed image size, numbered in execution order.

    Raises:
        ModelError: Shapes cannot be inferred.
    """
    finder = _Finder(model)
    for node in finder.view.nodes:
        if any(name not in finder.view.constants for name in node.input if name):
            finder.visit(node)
    for value in model.graph.output:
        finder.fix(value.name)
    return partition(finder.channels, finder.ties)


class _Finder:
    """Numbers the channels of tensors node by node: ``channels`` has those of each tensor, ``ties`` joins them."""

    def __init__(self, model: ModelProto) -> None:
        self.view = GraphIndex.of(model)
        self.shapes = tensor_shapes(model)
        self.ties = Ties()
        inputs = [value.name for value in model.graph.input if value.name not in self.view.constants]
        self.channels: dict[str, Ints] = {name: self._fixed(name) for name in inputs}

    def visit(self, node: NodeProto) -> None:
        """Numbers the channels of a node's outputs; inputs and outputs of an unknown operator become fixed."""
        numbers = self._first_output(node)
        if numbers is not None and len(numbers) == self._count(node.output[0]):
            self.channels[node.output[0]] = numbers
            rest = node.output[1:]
        else:
            for name in node.input:
                self.fix(name)
            rest = node.output
        self.channels |= {name: self._fixed(name) for name in rest if name}

    def fix(self, tensor: str) -> None:
        """Fixes every channel of a tensor."""
        if tensor in self.channels:
            self.ties.join(self.channels[tensor], self._fixed(tensor))

    def _first_output(self, node: NodeProto) -> Ints | None:
        """Channels of a node's first output; None where they cannot be followed through it."""
        data = self.channels.get(node.input[0])
        if data is not None and (weighted(self.view, node, self.shapes) or _norm(self.view, node)):
            return self.ties.fresh(self._count(node.output[0]))
        match node.op_type:
            case "Add" | "Sub" | "Mul" | "Div":
                return self._elementwise(node)
            case "Concat":
                return np.concatenate([self.channels[name] for name in node.input]) if self._joins(node) else None
            case "Pad":
                return self._padded(node, data) if data is not None else None
            case "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze":
                return self._reshaped(node, data) if data is not None else None
        return data if node.op_type in _HOMOGENEOUS or self._is_relu(node) or self._spatial(node) else None

    def _elementwise(self, node: NodeProto) -> Ints | None:
        """An Add of two tensors, one of a constant per channel, a constant factor, or a gate that is fixed."""
        computed = [name for name in node.input if name not in self.view.constants]
        shape = self.shapes[node.output[0]]
        whole = [name for name in computed if name in self.channels and self.shapes[name] == shape]
        if len(computed) == 1:
            ordered = node.op_type in ("Add", "Mul") or computed[0] == node.input[0]
            follows = ordered and per_channel(self.view, node, self.shapes) is not None
            return self.channels[whole[0]] if follows and whole else None
        if node.op_type == "Add" and len(whole) == 2:
            self.ties.join(self.channels[whole[0]], self.channels[whole[1]])
            return self.channels[whole[0]]
        if node.op_type != "Mul":
            return None
        units = self.ties.units()
        gates = [name for name in computed if name in self.channels and np.all(units[self.channels[name]] == FIXED)]
        data = [name for name in whole if name not in gates[:1]]
        return self.channels[data[0]] if gates and data else None

    def _joins(self, node: NodeProto) -> bool:
        """Whether a Concat places channels side by side."""
        rank = len(self.shapes[node.output[0]])
        return attribute(node, "axis") % rank == 1 and all(name in self.channels for name in node.input)

    def _is_relu(self, node: NodeProto) -> bool:
        """Whether a Clip has the lower bound 0 and no upper bound."""
        if node.op_type != "Clip":
            return False
        low, high = self._bound(node, 1, "min"), self._bound(node, 2, "max")
        return low == 0 and (high is None or high >= _UNBOUNDED)

    def _bound(self, node: NodeProto, index: int, name: str) -> float | None:
        if not input_at(node, index):
            stated = attribute(node, name)
            return None if stated is None else float(stated)
        value = self.view.value(node.input[index])
        return float("nan") if value is None else float(value.reshape(-1)[0])

    def _spatial(self, node: NodeProto) -> bool:
        """Whether a node slices or averages over pixels only."""
        rank = len(self.shapes[node.input[0]])
        place = {"ReduceMean": 1, "Slice": 3}.get(node.op_type)
        axes = self._numbers(node, place, "axes") if place is not None else None
        return axes is not None and not {axis % rank for axis in axes} & {0, 1}

    def _padded(self, node: NodeProto, data: Ints) -> Ints | None:
        """Zeros around pixels and as further channels; a channel of zeros may have any scale."""
        pads, filling = self._numbers(node, 1, "pads"), self._bound(node, 2, "value")
        plain = (attribute(node, "mode") or b"constant") == b"constant" and filling in (None, 0.0)
        rank = len(self.shapes[node.input[0]])
        if not plain or pads is None or len(pads) != 2 * rank or pads[0] or pads[rank] or min(pads) < 0:
            return None
        return np.concatenate([self.ties.fresh(pads[1]), data, self.ties.fresh(pads[rank + 1])])

    def _numbers(self, node: NodeProto, index: int, name: str) -> list[int] | None:
        stated: Any = attribute(node, name)
        if input_at(node, index):
            stated = self.view.value(node.input[index])
        return None if stated is None else [int(number) for number in np.asarray(stated).reshape(-1)]

    def _reshaped(self, node: NodeProto, data: Ints) -> Ints | None:
        """Pixels that become features of their channel, or added and removed dimensions of size one."""
        before, after = self.shapes[node.input[0]], self.shapes[node.output[0]]
        if len(after) < 2 or before[0] != after[0]:
            return None
        if after[1] == before[1]:
            return data
        return np.repeat(data, prod(before[2:])) if after[1:] == (prod(before[1:]),) else None

    def _count(self, tensor: str) -> int:
        shape = self.shapes.get(tensor, ())
        return shape[1] if len(shape) > 1 else 0

    def _fixed(self, tensor: str) -> Ints:
        return np.full(self._count(tensor), FIXED)


def weighted(view: GraphIndex, node: NodeProto, shapes: Shapes) -> bool:
    """Whether a node multiplies channels by a constant float weight."""
    if node.op_type not in COUNTED or node.input[1] not in view.constants:
        return False
    if not all(name in view.constants for name in node.input[2:] if name or node.op_type != "Conv"):
        return False
    computed = node.input[0] not in view.constants and len(shapes[node.input[0]]) == 2
    return node.op_type == "Conv" or (computed and not attribute(node, "transA", 0))


def _norm(view: GraphIndex, node: NodeProto) -> bool:
    return node.op_type == "BatchNormalization" and all(name in view.constants for name in node.input[1:])


def per_channel(view: GraphIndex, node: NodeProto, shapes: Shapes) -> Floats | None:
    """The constant operand of an element-wise node as ``[1,C,1,...]``; None where it is not one number per channel."""
    value = next((view.value(name) for name in node.input if name in view.constants), None)
    shape = shapes[node.output[0]]
    if value is None or not 2 <= len(shape) >= value.ndim:
        return None
    try:
        return np.array(np.broadcast_to(value, (1, shape[1], *[1] * (len(shape) - 2))), dtype=np.float64)
    except ValueError:  # it varies over pixels
        return None


def kernel(node: NodeProto, weight: NDArray[np.generic]) -> Floats:
    """A weight as ``[groups, O, I, K]``: output and input channels of each group, and kernel elements."""
    wide = weight.astype(np.float64)
    wide = wide.T if has_transposed_weight(node) else wide
    groups = int(attribute(node, "group", 1)) if node.op_type == "Conv" else 1
    return wide.reshape(groups, len(wide) // groups, wide.shape[1], -1)


def rescaled(model: ModelProto, scales: Mapping[str, Floats]) -> ModelProto:
    """A graph of the same function in which every channel is divided by its scale; ``model`` is unchanged.

    ``scales`` are positive, ``[C]`` for every tensor of ``channel_units``, equal within a unit and 1 for the fixed one.
    """
    changed = deepcopy(model)
    changed.graph.ClearField("value_info")
    divider = _Divider(changed, tensor_shapes(model), scales)
    for node in changed.graph.node:
        if node.output and node.output[0] in scales:
            divider.divide(node)
    prune(changed)
    return changed


class _Divider:
    """Divides the outputs of nodes by their scales, and multiplies their inputs by theirs, in the constants."""

    def __init__(self, model: ModelProto, shapes: Shapes, scales: Mapping[str, Floats]) -> None:
        self.model, self.shapes, self.scales, self.view = model, shapes, scales, GraphIndex.of(model)

    def divide(self, node: NodeProto) -> None:
        """Rewrites the constants of one node."""
        output = self.scales[node.output[0]]
        if _norm(self.view, node):
            gain, shift, mean = (self._value(node, index) for index in (1, 2, 3))
            data = self.scales[node.input[0]]
            for index, value in ((1, gain * data / output), (2, shift / output), (3, mean / data)):
                self._store(node, index, value)
        elif weighted(self.view, node, self.shapes):
            self._weighted(node, self.scales[node.input[0]], output)
        elif node.op_type in ("Add", "Sub") and any(name in self.view.constants for name in node.input):
            operand = per_channel(self.view, node, self.shapes)
            if operand is not None:
                index = next(place for place, name in enumerate(node.input) if name in self.view.constants)
                self._store(node, index, operand / output.reshape(operand.shape))

    def _weighted(self, node: NodeProto, data: Floats, output: Floats) -> None:
        """``W'[o,i] = W[o,i] s_i / s_o`` and ``b'[o] = b[o] / s_o``."""
        weight = self._value(node, 1)
        parts = kernel(node, weight)
        groups, outputs, inputs, _ = parts.shape
        ratio = data.reshape(groups, 1, inputs, 1) / output.reshape(groups, outputs, 1, 1)
        flat = (parts * ratio).reshape(groups * outputs, -1)
        self._store(node, 1, flat.T if has_transposed_weight(node) else flat.reshape(weight.shape))
        if input_at(node, 2):
            self._store(node, 2, np.broadcast_to(self._value(node, 2).reshape(-1), len(output)) / output)

    def _value(self, node: NodeProto, index: int) -> Floats:
        value = self.view.value(node.input[index])
        assert value is not None, "units are new behind constants alone"
        return value.astype(np.float64)

    def _store(self, node: NodeProto, index: int, value: Floats) -> None:
        node.input[index] = store(self.model, f"{node.input[index]}.scaled", value.astype(np.float32))
