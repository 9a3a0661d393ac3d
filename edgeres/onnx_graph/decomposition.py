"""Decomposition of operators: Gelu, normalizations and attention as elementary operators of an older opset.

``decompose`` has forms of its own where ONNX's function bodies compute shapes at run time, which no integer runtime
wants: normalizations, Gelu (the form that runtimes fuse), Attention. Every other operator is replaced by its function
body (``onnx.defs``, ``onnx.inliner``).
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import FunctionProto, ModelProto, defs, helper, inliner

from edgeres.errors import StageError
from edgeres.onnx_graph.edit import replace_nodes, retain, store
from edgeres.onnx_graph.graph_index import GraphIndex, attribute, input_at, label, opset_of

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from numpy.typing import NDArray
    from onnx import NodeProto

    Definition = Callable[["_Writer", NodeProto], str]

_AXES_AS_INPUT = 18
"""Opset from which on the axes of ReduceMean are an input."""

_DOMAIN = "edgeres.body"
_HINT = "export it without this form, or with an older opset"


class _Writer:
    """Appends nodes that compute one node's output, in the model's opset."""

    def __init__(self, model: ModelProto) -> None:
        self.model, self.view, self.shapes, self.opset = model, GraphIndex.of(model), _shapes(model), opset_of(model)
        self.nodes: list[NodeProto] = []
        self._name, self._count = "", 0

    def begin(self, node: NodeProto) -> None:
        """Starts the replacement of a node."""
        self._name, self._count = node.output[0], 0

    def call(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Appends a node; returns its output."""
        self._count += 1
        name = f"{self._name}.{kind.lower()}.{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: object, kind: type[np.generic] = np.float32) -> str:
        """Stores a constant; returns its name."""
        return store(self.model, f"{self._name}.constant", np.array(value, kind))

    def mean(self, data: str, axes: list[int]) -> str:
        """Mean over axes, which keep the size 1."""
        if self.opset >= _AXES_AS_INPUT:
            return self.call("ReduceMean", data, self.constant(axes, np.int64), keepdims=1)
        return self.call("ReduceMean", data, axes=axes, keepdims=1)

    def rank(self, tensor: str) -> int:
        """Number of dimensions of a tensor."""
        if tensor not in self.shapes:
            raise StageError(f"tensor {tensor!r} has no known rank", "export it with shapes")
        return len(self.shapes[tensor])

    def value(self, tensor: str) -> NDArray[np.generic] | None:
        """Value of a constant."""
        return self.view.value(tensor)


def decompose(model: ModelProto, wanted: Container[str]) -> int:
    """Replaces nodes of the ``wanted`` operator types in place by elementary ones; returns their number.

    The opset stays, and the model has inferred shapes. A function body may have operators that an older opset lacks.

    Raises:
        StageError: An operator has no such form; the message names the node.
    """
    chosen = [node for node in model.graph.node if node.op_type in wanted]
    if not chosen:
        return 0
    writer = _Writer(model)
    functions = list[FunctionProto]()
    for node in model.graph.node:
        if node.op_type not in wanted:
            writer.nodes.append(node)
        elif node.op_type in _DEFINITIONS:
            writer.begin(node)
            result = _DEFINITIONS[node.op_type](writer, node)
            writer.nodes.append(helper.make_node("Identity", [result], [node.output[0]], name=f"{node.output[0]}.done"))
        else:
            functions.append(_body(model, node, len(functions)))
            writer.nodes.append(node)
            node.op_type, node.domain = functions[-1].name, _DOMAIN
            retain(node.attribute, lambda entry: entry.name in functions[-1].attribute)
    replace_nodes(model, writer.nodes)
    if functions:
        _inline(model, functions)
    return len(chosen)


def _shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes with 0 for symbolic sizes, by tensor."""
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def _body(model: ModelProto, node: NodeProto, number: int) -> FunctionProto:
    """The function body of a node's operator, under a name of its own."""
    schema: Any = defs.get_schema(node.op_type, opset_of(model), "")  # its stubs lack function bodies
    stated = {entry.name for entry in node.attribute}
    defaults = (entry.default_value for name, entry in schema.attributes.items() if name not in stated)
    node.attribute.extend(entry for entry in defaults if entry.name)
    body: FunctionProto
    if schema.has_function:
        body = FunctionProto.FromString(schema.function_body.SerializeToString())
    elif schema.has_context_dependent_function:
        kinds = {value.name: value.type for value in (*model.graph.input, *model.graph.value_info)}
        kinds |= {t.name: helper.make_tensor_type_proto(t.data_type, t.dims) for t in model.graph.initializer}
        types = [kinds[name].SerializeToString() if name in kinds else b"" for name in node.input]
        body = FunctionProto.FromString(schema.get_context_dependent_function(node.SerializeToString(), types))
    else:
        raise StageError(f"node {label(node)!r}: {node.op_type} has no form in older opsets", "export without it")
    body.name, body.domain = f"{node.op_type}_{number}", _DOMAIN
    return body


def _inline(model: ModelProto, functions: list[FunctionProto]) -> None:
    for body in functions:
        body.ClearField("opset_import")
        body.opset_import.append(helper.make_opsetid("", opset_of(model)))
    model.functions.extend(functions)
    model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    inlined = inliner.inline_local_functions(model)
    model.CopyFrom(inlined)
    kept = [entry for entry in model.opset_import if entry.domain != _DOMAIN]
    model.ClearField("opset_import")
    model.opset_import.extend(kept)
    model.ClearField("functions")


def _gelu(write: _Writer, node: NodeProto) -> str:
    """``x/2 (1 + erf(x / sqrt 2))``, or ``x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))``."""
    data = node.input[0]
    if attribute(node, "approximate", b"none") == b"tanh":
        cube = write.call("Mul", write.call("Mul", data, data), data)
        inner = write.call("Add", data, write.call("Mul", cube, write.constant(0.044715)))
        gate = write.call("Tanh", write.call("Mul", inner, write.constant(sqrt(2 / np.pi))))
    else:
        gate = write.call("Erf", write.call("Div", data, write.constant(sqrt(2))))
    raised = write.call("Add", gate, write.constant(1.0))
    return write.call("Mul", write.call("Mul", data, raised), write.constant(0.5))


def _axes(write: _Writer, node: NodeProto) -> list[int]:
    """Normalized axes, counted from the last one: from ``axis`` on."""
    axis = int(attribute(node, "axis", -1))
    return list(range(axis if axis < 0 else axis - write.rank(node.input[0]), 0))


def _normalized(write: _Writer, data: str, axes: list[int], epsilon: float) -> str:
    """``(x - mean) / sqrt(variance + epsilon)``."""
    centred = write.call("Sub", data, write.mean(data, axes))
    variance = write.mean(write.call("Mul", centred, centred), axes)
    return write.call("Div", centred, write.call("Sqrt", write.call("Add", variance, write.constant(epsilon))))


def _layer_norm(write: _Writer, node: NodeProto) -> str:
    result = _normalized(write, node.input[0], _axes(write, node), attribute(node, "epsilon", 1e-5))
    scaled = write.call("Mul", result, node.input[1])
    return write.call("Add", scaled, node.input[2]) if input_at(node, 2) else scaled


def _rms_norm(write: _Writer, node: NodeProto) -> str:
    data = node.input[0]
    square = write.mean(write.call("Mul", data, data), _axes(write, node))
    raised = write.call("Add", square, write.constant(attribute(node, "epsilon", 1e-5)))
    return write.call("Mul", write.call("Div", data, write.call("Sqrt", raised)), node.input[1])


def _per_channel(write: _Writer, node: NodeProto, result: str) -> str:
    """A scale ``[C]`` and a shift ``[C]`` of ``[N,C,...]``."""
    ones = [1] * (write.rank(node.input[0]) - 2)
    for kind, index in (("Mul", 1), ("Add", 2)):
        value = write.value(node.input[index])
        if value is None:
            raise StageError(f"node {label(node)!r}: its scale or shift is computed", _HINT)
        result = write.call(kind, result, write.constant(value.reshape(1, -1, *ones)))
    return result


def _instance_norm(write: _Writer, node: NodeProto) -> str:
    axes = list(range(2 - write.rank(node.input[0]), 0))
    return _per_channel(write, node, _normalized(write, node.input[0], axes, attribute(node, "epsilon", 1e-5)))


def _group_norm(write: _Writer, node: NodeProto) -> str:
    """Groups of channels as rows ``[N,G,C/G H W]``; in opset 18 scale and shift count groups, from 21 on channels."""
    data, groups = node.input[0], int(attribute(node, "num_groups"))
    shape = write.shapes.get(data, ())
    if len(shape) < 3 or 0 in shape[1:]:
        raise StageError(f"node {label(node)!r}: GroupNormalization of an unknown size", "export it with fixed sizes")
    rows = write.call("Reshape", data, write.constant([0, groups, -1], np.int64))
    even = _normalized(write, rows, [-1], attribute(node, "epsilon", 1e-5))
    whole = write.call("Reshape", even, write.constant([0, *shape[1:]], np.int64))
    for index in (1, 2):
        value = write.value(node.input[index])
        if value is not None and value.size == groups != shape[1]:
            node.input[index] = write.constant(np.repeat(value, shape[1] // groups))
            write.view = GraphIndex.of(write.model)
    return _per_channel(write, node, whole)


def _lp_norm(write: _Writer, node: NodeProto) -> str:
    """``x / max(|x|, tiny)`` of the norm ``|x|`` along an axis; a row of zeros stays one."""
    data, axis, order = node.input[0], int(attribute(node, "axis", -1)), attribute(node, "p", 2)
    kind = {1: "ReduceL1", 2: "ReduceL2"}[order]
    if write.opset >= _AXES_AS_INPUT:
        norm = write.call(kind, data, write.constant([axis], np.int64), keepdims=1)
    else:
        norm = write.call(kind, data, axes=[axis], keepdims=1)
    return write.call("Div", data, write.call("Max", norm, write.constant(np.finfo(np.float32).tiny)))


def _attention(write: _Writer, node: NodeProto) -> str:
    """``softmax(Q K^T / sqrt(d) + mask) V`` of heads ``[N,heads,T,d]``."""
    query, key, value = node.input[:3]
    stated = [attribute(node, name, 0) for name in ("is_causal", "softcap", "q_num_heads", "qk_matmul_output_mode")]
    masked = input_at(node, 3)
    boolean = write.value(masked) is not None and np.asarray(write.value(masked)).dtype == np.bool_
    plain = len([name for name in node.input if name]) == (4 if masked else 3) and len(node.output) == 1
    if any(stated) or not plain or boolean or len({write.rank(name) for name in node.input[:3]} | {4}) > 1:
        raise StageError(f"node {label(node)!r}: Attention with caches, a causal or boolean mask, or flat heads", _HINT)
    if write.shapes[query][1] != write.shapes[key][1]:
        raise StageError(f"node {label(node)!r}: Attention whose heads share keys", _HINT)
    scale = attribute(node, "scale") or 1 / sqrt(write.shapes[query][3])
    turned = write.call("Transpose", key, perm=[0, 1, 3, 2])
    scores = write.call("MatMul", write.call("Mul", query, write.constant(scale)), turned)
    if masked:
        scores = write.call("Add", scores, masked)
    return write.call("MatMul", write.call("Softmax", scores, axis=-1), value)


_DEFINITIONS: dict[str, Definition] = {
    "Attention": _attention,
    "Gelu": _gelu,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "RMSNormalization": _rms_norm,
}
"""Own forms, by operator."""
