"""``float_layers``: the operations and weights of a float ONNX graph in the vocabulary of ``Op``, whatever wrote it.

Exporters write one network in many ways: a mean over both axes or a global pool, a Gemm or a MatMul with an Add, a Clip
at zero or a Relu, padding as a node of its own. Batch norms stay; a factor or a shift of each channel, which is what
is left of a norm in some files, goes into the convolution before it, or is a norm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeres.model.operation import IMAGE, Op
from edgeres.onnx_graph.graph_index import (
    GraphIndex,
    attribute,
    has_transposed_weight,
    input_at,
    label,
)
from edgeres.onnx_graph.layer_norms import AFFINE, FloatLayers, with_one_epsilon, without_image_norm
from edgeres.onnx_graph.layer_windows import Unknown, padded_alike
from edgeres.onnx_graph.operator_counts import tensor_shapes
from edgeres.onnx_graph.window_reader import WindowReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    Array = NDArray[np.float32]

_SAME = ("Identity", "Dropout", "Cast")
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")


def float_layers(model: ModelProto) -> FloatLayers:
    """The operations of a float classifier with constant shapes, for images of one size.

    Raises:
        Unknown: A node that no residual network has.
    """
    reader = _Reader(GraphIndex.of(model), tensor_shapes(model))
    reader.names[model.graph.input[0].name] = IMAGE
    for node in model.graph.node:
        reader.visit(node)
    ops = _with_silu(padded_alike(reader.ops, frozenset(reader.either)))
    return with_one_epsilon(without_image_norm(FloatLayers(tuple(ops), reader.arrays)))


@dataclass
class _Reader(WindowReader):
    """Collects the operations of a graph, node by node."""

    def visit(self, node: NodeProto) -> None:
        """Adds the operation of a node; nodes that compute constants have none."""
        if node.op_type == "Constant" or (node.input and all(self.constant(name) is not None for name in node.input)):
            return
        if node.op_type in _SAME:
            self.names[node.output[0]] = self.name(node.input[0], node)
            return
        if node.op_type in _ARITHMETIC:
            self._arithmetic(node)
            return
        readers: dict[str, Callable[[NodeProto], None]] = {
            "Conv": self.convolution,
            "BatchNormalization": self._norm,
            "Clip": self._clip,
            "PRelu": self._prelu,
            "MaxPool": self.max_pool,
            "AveragePool": self.average_pool,
            "GlobalAveragePool": self.global_pool,
            "ReduceMean": self.mean,
            "Flatten": self._flatten,
            "Reshape": self._flatten,
            "Squeeze": self._flatten,
            "Transpose": self._transpose,
            "Gemm": self._linear,
            "MatMul": self._linear,
            "Pad": self.pad,
            "Slice": self.slice,
        }
        if node.op_type in ("Relu", "Sigmoid"):
            self.add(node, "relu" if node.op_type == "Relu" else "sigmoid", node.input[0])
        elif node.op_type in readers:
            readers[node.op_type](node)
        else:
            raise Unknown(f"{label(node)}: a {node.op_type}")

    def _norm(self, node: NodeProto) -> None:
        values = [self.constant(name) for name in node.input[1:5]]
        if any(value is None for value in values):
            raise Unknown(f"{label(node)}: a batch norm with computed statistics")
        name = self.add(node, "norm", node.input[0], eps=_decimal(attribute(node, "epsilon", 1e-5)))
        keys = ("weight", "bias", "running_mean", "running_var")
        self.store(name, **{key: value for key, value in zip(keys, values, strict=True) if value is not None})

    def _clip(self, node: NodeProto) -> None:
        low, high = (self._bound(node, index, name) for index, name in ((1, "min"), (2, "max")))
        if low != 0 or (high is not None and high < 1e30):
            raise Unknown(f"{label(node)}: a Clip from {low} to {high}")
        self.add(node, "relu", node.input[0])

    def _bound(self, node: NodeProto, index: int, name: str) -> float | None:
        value = self.constant(input_at(node, index)) if input_at(node, index) else attribute(node, name)
        return None if value is None else float(np.asarray(value).reshape(-1)[0])

    def _prelu(self, node: NodeProto) -> None:
        slopes, channels = self.constant(node.input[1]), self.channels(node.input[0])
        if slopes is None or slopes.size not in (1, channels):
            raise Unknown(f"{label(node)}: slopes other than one per channel")
        name = self.add(node, "prelu", node.input[0])
        self.store(name, weight=np.broadcast_to(slopes.reshape(-1), (channels,)))

    def _flatten(self, node: NodeProto) -> None:
        before, after = self.shapes[node.input[0]], self.shapes[node.output[0]]
        source = self.name(node.input[0], node)
        if len(before) == len(after) == 2 or before == after:
            self.names[node.output[0]] = source
            return
        if len(after) != 2 or (node.input[0] in self.turned and before[1] * before[2] > 1):
            raise Unknown(f"{label(node)}: {list(before)} becomes {list(after)}")
        if not self._classifier(node, source):
            self.add(node, "flatten", self.turned.get(node.input[0], node.input[0]), c_out=after[1])

    def _classifier(self, node: NodeProto, source: str) -> bool:
        """Replaces a 1x1 convolution of pooled features, flattened only now, by a matrix product."""
        made = {op.name: op for op in self.ops}
        conv = made.get(source)
        pooled = made.get(conv.inputs[0]) if conv is not None and conv.kind == "conv" and conv.kernel == 1 else None
        if conv is None or pooled is None or pooled.kind != "gap" or self.ops[-1] != conv:
            return False
        flat = f"{conv.name}:flat"
        weight = self.arrays[f"{conv.name}.weight"]
        self.ops[-1:] = [
            Op("flatten", flat, conv.inputs, conv.c_in, conv.c_in),
            Op("linear", conv.name, (flat,), conv.c_in, conv.c_out, bias=True),
        ]
        bias = self.arrays.get(f"{conv.name}.bias", np.zeros(conv.c_out, dtype=np.float32))
        self.store(conv.name, weight=weight.reshape(weight.shape[:2]), bias=bias)
        self.names[node.output[0]] = conv.name
        return True

    def _transpose(self, node: NodeProto) -> None:
        if tuple(attribute(node, "perm", ())) != (0, 2, 3, 1):
            raise Unknown(f"{label(node)}: a Transpose between layers")
        self.turned[node.output[0]] = node.input[0]
        self.names[node.output[0]] = self.name(node.input[0], node)

    def _linear(self, node: NodeProto) -> None:
        weight = self.constant(node.input[1])
        bias = self.constant(input_at(node, 2)) if input_at(node, 2) else None
        plain = [attribute(node, name, 1.0) for name in ("alpha", "beta")] == [1, 1] and not attribute(
            node, "transA", 0
        )
        if weight is None or weight.ndim != 2 or not plain or len(self.shapes[node.input[0]]) != 2:
            raise Unknown(f"{label(node)}: a product with another factor than a constant matrix")
        weight = weight.T if has_transposed_weight(node) else weight
        name = self.add(node, "linear", node.input[0], c_out=len(weight), bias=True)
        zeros = np.zeros(len(weight), dtype=np.float32)
        self.store(name, weight=weight, bias=zeros if bias is None else np.broadcast_to(bias.reshape(-1), zeros.shape))

    def _arithmetic(self, node: NodeProto) -> None:
        constants = [self.constant(name) for name in node.input]
        if constants[0] is None and constants[1] is None:
            if node.op_type not in ("Add", "Mul"):
                raise Unknown(f"{label(node)}: a {node.op_type} of two tensors")
            shapes = [self.shapes[name] for name in node.input]
            wide = sorted(node.input, key=lambda name: -int(np.prod(self.shapes[name])))
            inputs = wide if node.op_type == "Mul" and shapes[0] != shapes[1] else [*node.input]
            self.add(node, "mul" if node.op_type == "Mul" else "add", *inputs)
            return
        index = 1 if constants[0] is None else 0
        if index == 0 and node.op_type in ("Sub", "Div"):
            raise Unknown(f"{label(node)}: a constant over or less a tensor")
        self._affine(node, node.input[1 - index], self._per_channel(node, constants[index]))

    def _per_channel(self, node: NodeProto, value: NDArray[Any] | None) -> NDArray[np.float64]:
        """A constant that has one value for each channel of a node's output, ``[C]``."""
        shape = self.shapes[node.output[0]]
        single = (1,) * len(shape)
        if value is None or (*single[value.ndim :], *value.shape) not in (single, (1, shape[1], *single[2:])):
            raise Unknown(f"{label(node)}: a constant of other than one value for each channel")
        return np.broadcast_to(value.reshape(-1).astype(np.float64), (shape[1],))

    def _affine(self, node: NodeProto, tensor: str, value: NDArray[np.float64]) -> None:
        """Multiplies or shifts the channels of the weighted operation or norm before a node; otherwise adds a norm."""
        name = self.name(tensor, node)
        op = next((one for one in self.ops if one.name == name), None)
        factor = value if node.op_type == "Mul" else 1 / value if node.op_type == "Div" else np.ones(1)
        offset = value if node.op_type == "Add" else -value if node.op_type == "Sub" else np.zeros(1)
        shared = len(self.view.consumers(tensor)) > 1
        if op is None or shared or op.kind not in ("conv", "linear", "norm"):
            name = self.add(node, "norm", tensor, eps=AFFINE)
            ones = np.ones(self.channels(tensor))
            self.store(name, weight=factor * ones, bias=offset * ones, running_mean=0 * ones, running_var=ones)
            return
        weight, bias = (self.arrays.get(f"{name}.{key}", np.zeros(1)).astype(np.float64) for key in ("weight", "bias"))
        weight = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
        self.store(name, weight=weight, bias=np.broadcast_to(bias * factor + offset, (len(weight),)))
        self.ops[self.ops.index(op)] = replace(op, bias=op.kind != "norm")
        self.names[node.output[0]] = name


def _decimal(value: float) -> float:
    """The shortest decimal of a float32, as its author wrote it: 1e-5 and not 9.9999997e-6."""
    return float(str(np.float32(value)))


def _with_silu(ops: list[Op]) -> list[Op]:
    """The operations with ``x * sigmoid(x)`` as one."""
    made = {op.name: op for op in ops}
    gates: dict[str, str] = {}
    for op in ops:
        if op.kind == "mul":
            sigmoids = [name for name in op.inputs if made.get(name, op).kind == "sigmoid"]
            if len(sigmoids) == 1 and made[sigmoids[0]].inputs[0] in op.inputs:
                gates[op.name] = sigmoids[0]
    read = {name for op in ops for name in op.inputs if op.name not in gates}
    kept = [op for op in ops if op.name not in set(gates.values()) - read]
    return [replace(op, kind="silu", inputs=made[gates[op.name]].inputs) if op.name in gates else op for op in kept]
