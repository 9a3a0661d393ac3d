"""Which channels of a float ONNX graph can be scaled without a change of its function, and the graph that has them so.

``edgeres.quant.algorithms.channel_scaling`` has the law; here a unit is found node by node, in whatever network: what
maps channels to channels and is positively homogeneous keeps units, an Add ties its inputs together, a Concat puts them
side by side, and weighted nodes and norms begin new ones. Fixed are the image, the answers, and whatever any other
operator reads or makes: SiLU, HardSwish, Sigmoid and a Clip at 6 are not homogeneous.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
from onnx import numpy_helper

from edgeres.onnx_graph.graph_index import COUNTED, GraphIndex, attribute, free_name
from edgeres.onnx_graph.operator_counts import tensor_shapes
from edgeres.onnx_graph.rewrite import prune
from edgeres.quant.algorithms.channel_scaling import FIXED, UnionFind, numbered

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.quant.algorithms.channel_scaling import Units

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

_HOMOGENEOUS = (
    "Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Dropout",
)  # fmt: skip
"""Operators with ``f(x / s) = f(x) / s`` for every channel by itself."""

_UNBOUNDED = 1e30
"""A Clip at or beyond this clips nothing."""


def channel_units(model: ModelProto) -> Units:
    """The units of a float graph's tensors ``[N,C,...]``, numbered in execution order.

    Args:
        model: A folded float graph of fixed image size.

    Raises:
        ModelError: Shapes cannot be inferred.
    """
    finder = _Finder(model)
    for node in finder.view.nodes:
        if any(name not in finder.view.constants for name in node.input if name):
            finder.visit(node)
    for value in model.graph.output:
        finder.fix(value.name)
    return numbered(finder.found, finder.union)


class _Finder:
    """Units of the tensors made so far."""

    def __init__(self, model: ModelProto) -> None:
        self.view = GraphIndex.of(model)
        self.shapes = tensor_shapes(model)
        self.union = UnionFind()
        self.found: dict[str, Ints] = {}
        for value in model.graph.input:
            if value.name not in self.view.constants:
                self.found[value.name] = self._fixed(value.name)

    def visit(self, node: NodeProto) -> None:
        """Finds the units of what a node makes; outputs of an unknown operator, and what it reads, become fixed."""
        units = self._units(node)
        if units is not None and len(units) == self._channels(node.output[0]):
            self.found[node.output[0]] = units
            rest = node.output[1:]
        else:
            for name in node.input:
                self.fix(name)
            rest = node.output
        for name in filter(None, rest):
            self.found[name] = self._fixed(name)

    def fix(self, tensor: str) -> None:
        """No channel of the tensor can be scaled."""
        if tensor in self.found:
            self.union.join(self.found[tensor], self._fixed(tensor))

    def _units(self, node: NodeProto) -> Ints | None:
        """Units of a node's first output, None where channels cannot be followed through it."""
        given = self.found.get(node.input[0])
        if given is not None and (weighted(self.view, node, self.shapes) or _norm(self.view, node)):
            return self.union.fresh(self._channels(node.output[0]))
        match node.op_type:
            case "Add" | "Sub" | "Mul" | "Div":
                return self._elementwise(node)
            case "Concat":
                return np.concatenate([self.found[name] for name in node.input]) if self._on_channels(node) else None
            case "Pad":
                return self._padded(node, given) if given is not None else None
            case "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze":
                return self._reshaped(node, given) if given is not None else None
        keeps = node.op_type in _HOMOGENEOUS or self._is_relu(node) or self._spatial(node)
        return given if keeps else None

    def _elementwise(self, node: NodeProto) -> Ints | None:
        """An Add of two tensors, one of a constant per channel, a constant factor, or a gate that is fixed."""
        made = self.shapes[node.output[0]]
        computed = [name for name in node.input if name not in self.view.constants]
        whole = [name for name in computed if name in self.found and self.shapes[name] == made]
        if len(computed) == 1:
            ordered = node.op_type in ("Add", "Mul") or computed[0] == node.input[0]
            keeps = ordered and per_channel(self.view, node, self.shapes) is not None
            return self.found[whole[0]] if keeps and whole else None
        if node.op_type == "Add" and len(whole) == 2:
            self.union.join(self.found[whole[0]], self.found[whole[1]])
            return self.found[whole[0]]
        gates = [name for name in computed if name in self.found and self._is_fixed(name)]
        data = [name for name in whole if name not in gates[:1]]
        return self.found[data[0]] if node.op_type == "Mul" and gates and data else None

    def _is_fixed(self, tensor: str) -> bool:
        return all(self.union.find(element) == FIXED for element in self.found[tensor].tolist())

    def _on_channels(self, node: NodeProto) -> bool:
        rank = len(self.shapes[node.output[0]])
        return attribute(node, "axis") % rank == 1 and all(name in self.found for name in node.input)

    def _is_relu(self, node: NodeProto) -> bool:
        """Whether a Clip cuts at 0 from below and nowhere from above."""
        if node.op_type != "Clip":
            return False
        low, high = (self._bound(node, index, name) for index, name in ((1, "min"), (2, "max")))
        return low == 0 and (high is None or high >= _UNBOUNDED)

    def _bound(self, node: NodeProto, index: int, name: str) -> float | None:
        if len(node.input) <= index or not node.input[index]:
            stated = attribute(node, name)
            return None if stated is None else float(stated)
        value = self.view.value(node.input[index])
        return float("nan") if value is None else float(value.reshape(-1)[0])

    def _spatial(self, node: NodeProto) -> bool:
        """Whether a node slices or averages over pixels alone."""
        rank = len(self.shapes[node.input[0]])
        place = {"ReduceMean": 1, "Slice": 3}.get(node.op_type)
        axes = self._numbers(node, place, "axes") if place is not None else None
        return axes is not None and not {axis % rank for axis in axes} & {0, 1}

    def _padded(self, node: NodeProto, given: Ints) -> Ints | None:
        """Zeros around pixels and beside channels; a channel of zeros may have any scale."""
        pads, filling = self._numbers(node, 1, "pads"), self._bound(node, 2, "value")
        plain = (attribute(node, "mode") or b"constant") == b"constant" and filling in (None, 0.0)
        rank = len(self.shapes[node.input[0]])
        if not plain or pads is None or len(pads) != 2 * rank or pads[0] or pads[rank] or min(pads) < 0:
            return None
        return np.concatenate([self.union.fresh(pads[1]), given, self.union.fresh(pads[rank + 1])])

    def _numbers(self, node: NodeProto, index: int, name: str) -> list[int] | None:
        stated: Any = attribute(node, name)
        if len(node.input) > index and node.input[index]:
            stated = self.view.value(node.input[index])
        return None if stated is None else [int(number) for number in np.asarray(stated).reshape(-1)]

    def _reshaped(self, node: NodeProto, given: Ints) -> Ints | None:
        """Pixels that become features of their channel, or dimensions of one that come and go."""
        before, after = self.shapes[node.input[0]], self.shapes[node.output[0]]
        if len(after) < 2 or before[0] != after[0]:
            return None
        if after[1] == before[1]:
            return given
        return np.repeat(given, prod(before[2:])) if after[1:] == (prod(before[1:]),) else None

    def _channels(self, tensor: str) -> int:
        shape = self.shapes.get(tensor, ())
        return shape[1] if len(shape) > 1 else 0

    def _fixed(self, tensor: str) -> Ints:
        return np.full(self._channels(tensor), FIXED)


def weighted(view: GraphIndex, node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a node multiplies channels by a float weight that is a constant."""
    if node.op_type not in COUNTED or node.input[1] not in view.constants:
        return False
    if node.op_type == "Conv":
        return all(name in view.constants for name in node.input[2:] if name)
    computed = node.input[0] not in view.constants and len(shapes[node.input[0]]) == 2
    return computed and not attribute(node, "transA", 0) and all(name in view.constants for name in node.input[2:])


def _norm(view: GraphIndex, node: NodeProto) -> bool:
    return node.op_type == "BatchNormalization" and all(name in view.constants for name in node.input[1:])


def per_channel(view: GraphIndex, node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> Floats | None:
    """The constant operand of an elementwise node as ``[1,C,1,...]``; None where it is not one number per channel."""
    value = next((view.value(name) for name in node.input if name in view.constants), None)
    shape = shapes[node.output[0]]
    if value is None or len(shape) < 2:
        return None
    wanted = (1, shape[1], *[1] * (len(shape) - 2))
    padded = value.reshape((1,) * (len(shape) - value.ndim) + value.shape) if value.ndim <= len(shape) else value
    if padded.ndim != len(shape) or not all(size in (1, most) for size, most in zip(padded.shape, wanted, strict=True)):
        return None
    return np.array(np.broadcast_to(padded, wanted), dtype=np.float64)


def kernel(node: NodeProto, weight: NDArray[np.generic]) -> Floats:
    """A weight as ``[groups, O, I, K]``: output channels and input channels of each group, and the pixels between."""
    wide = weight.astype(np.float64)
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0)):
        wide = wide.T
    groups = int(attribute(node, "group", 1)) if node.op_type == "Conv" else 1
    return wide.reshape(groups, len(wide) // groups, wide.shape[1], -1)


def rescaled(model: ModelProto, scales: Mapping[str, Floats]) -> ModelProto:
    """A graph of the same function in which every channel is divided by its scale; the model is left as it is.

    Args:
        model: What ``channel_units`` was asked about.
        scales: Positive scale ``[C]`` of every tensor's channels, equal within a unit and 1 for the fixed one.
    """
    changed = type(model)()
    changed.CopyFrom(model)
    changed.graph.ClearField("value_info")
    writer = _Writer(changed, tensor_shapes(model))
    for node in changed.graph.node:
        if node.output and node.output[0] in scales:
            writer.divide(node, scales)
    prune(changed)
    return changed


class _Writer:
    """Writes the constants of a graph anew."""

    def __init__(self, model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.model, self.shapes, self.view = model, shapes, GraphIndex.of(model)
        self.taken = {*self.view.constants, *self.view.producers}

    def divide(self, node: NodeProto, scales: Mapping[str, Floats]) -> None:
        """Makes a node divide what it makes, and multiply what it reads, by their scales."""
        made = scales[node.output[0]]
        if _norm(self.view, node):
            gain, shift, mean = (self._value(node, index) for index in (1, 2, 3))
            given = scales[node.input[0]]
            for index, value in ((1, gain * given / made), (2, shift / made), (3, mean / given)):
                self.store(node, index, value)
        elif weighted(self.view, node, self.shapes):
            self._weighted(node, scales[node.input[0]], made)
        elif node.op_type in ("Add", "Sub") and any(name in self.view.constants for name in node.input):
            operand = per_channel(self.view, node, self.shapes)
            if operand is not None:
                index = next(place for place, name in enumerate(node.input) if name in self.view.constants)
                self.store(node, index, operand / made.reshape(operand.shape))

    def _weighted(self, node: NodeProto, given: Floats, made: Floats) -> None:
        """``W'[o,i] = W[o,i] s_i / s_o`` and ``b'[o] = b[o] / s_o``."""
        weight = self._value(node, 1)
        parts = kernel(node, weight)
        groups, outputs, inputs, _ = parts.shape
        ratio = given.reshape(groups, 1, inputs, 1) / made.reshape(groups, outputs, 1, 1)
        flat = (parts * ratio).reshape(groups * outputs, -1)
        across = node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0))
        self.store(node, 1, flat.T if across else flat.reshape(weight.shape))
        if len(node.input) > 2 and node.input[2]:
            self.store(node, 2, np.broadcast_to(self._value(node, 2).reshape(-1), len(made)) / made)

    def _value(self, node: NodeProto, index: int) -> Floats:
        value = self.view.value(node.input[index])
        assert value is not None, "units are new behind constants alone"
        return value.astype(np.float64)

    def store(self, node: NodeProto, index: int, value: Floats) -> None:
        """A constant of one node's own."""
        name = free_name(f"{node.input[index]}.scaled", self.taken)
        self.model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        node.input[index] = name
