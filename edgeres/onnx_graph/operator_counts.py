"""Layers of an ONNX graph with their MACs, parameters and shapes, its peak memory, and its number of Q/DQ pairs."""

from __future__ import annotations

from copy import deepcopy
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from onnx import shape_inference

from edgeres.errors import ModelError
from edgeres.model.cost import Kind, Layer, peak, stored_bytes
from edgeres.onnx_graph.graph_index import COUNTED, GraphIndex, attribute

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edgeres.data.size import Size

Shapes = dict[str, tuple[int, ...]]

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(COUNTED, "weighted"),
    "BatchNormalization": "norm",
    "Relu": "relu",
    "Clip": "relu",
    "MaxPool": "maxpool",
    "AveragePool": "avgpool",
    "GlobalAveragePool": "globalpool",
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Erf"), "elementwise"),
    **dict.fromkeys(("LeakyRelu", "PRelu", "Elu", "Gelu", "Softmax"), "elementwise"),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "Identity", "Dropout", "Cast"), "view"),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), "view"),
}

UNCOVERED = frozenset((
    "LeakyRelu", "PRelu", "Elu", "Gelu", "Softmax", "LayerNormalization", "InstanceNormalization",
    "GroupNormalization", "ConvTranspose", "Resize", "Upsample", "Einsum", "LSTM", "GRU", "RNN",
))  # fmt: skip
"""Operators that some tool counts and no closed form of ``model.conventions`` covers."""

_SHAPE = 64
"""Most elements of a constant that may be a shape operand."""


class QdqCounts(NamedTuple):
    """Number of QuantizeLinear on activations, of dequantized weights, and of weighted nodes in all."""

    activations: int
    weights: int
    weighted: int


def tensor_shapes(model: ModelProto) -> Shapes:
    """Shape of every tensor with a known shape, for a batch of one image.

    Raises:
        ModelError: Shapes cannot be inferred.
    """
    fixed = deepcopy(model)
    for value in fixed.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    try:
        inferred = shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    except shape_inference.InferenceError as failure:
        hint = "export the model again with fixed sizes"
        raise ModelError(f"shapes cannot be inferred: {failure}", hint) from failure
    shapes: Shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return shapes


def macs(model: ModelProto) -> int:
    """MACs of the graph for one image.

    A Conv costs ``prod(weight shape) * H' * W'``, a matrix product ``rows * inner * columns``.
    """
    shapes = tensor_shapes(model)
    return sum(_macs(node, shapes) for node in model.graph.node)


def _macs(node: NodeProto, shapes: Shapes) -> int:
    if node.op_type not in COUNTED:
        return 0
    out = shapes[node.output[0]]
    if node.op_type == "Conv":
        return prod(shapes[node.input[1]]) * prod(out[2:])
    return prod(out) * shapes[node.input[0]][0 if attribute(node, "transA", 0) else -1]


def parameters(model: ModelProto) -> int:
    """Learned parameters of the graph: weights and biases, without scales, zero-points and statistics."""
    view, sizes = GraphIndex.of(model), {tensor.name: prod(tensor.dims) for tensor in model.graph.initializer}
    return sum(_parameters(view, node, sizes) for node in view.nodes)


def _parameters(view: GraphIndex, node: NodeProto, sizes: dict[str, int]) -> int:
    if node.op_type not in (*COUNTED, "BatchNormalization", "PRelu"):
        return 0
    names = node.input[1:3] if node.op_type == "BatchNormalization" else node.input[1:]
    makers = [(name, view.producer(name, "DequantizeLinear")) for name in names]
    return sum(sizes.get(name if maker is None else view.source(maker), 0) for name, maker in makers)


def qdq(model: ModelProto) -> QdqCounts:
    """Counts the Q/DQ pairs of a graph."""
    view = GraphIndex.of(model)
    weighted = view.of_type(*COUNTED)
    weights = sum(view.producer(node.input[1], "DequantizeLinear") is not None for node in weighted)
    return QdqCounts(len(view.activation_quantizers()), weights, len(weighted))


def quantized_tensors(model: ModelProto) -> tuple[str, ...]:
    """Names of the activations that a QuantizeLinear reads, in order of execution."""
    return tuple(node.input[0] for node in GraphIndex.of(model).activation_quantizers())


def sized(model: ModelProto, size: Size | None) -> ModelProto:
    """A copy of a checked model for images of a size, without the values of its weights.

    Raises:
        ModelError: No single image input, or the size is neither in the file nor given.
    """
    images = [value for value in model.graph.input if len(value.type.tensor_type.shape.dim) == 4]
    if len(images) != 1 or len(model.graph.input) != 1:
        raise ModelError(f"the graph has {len(model.graph.input)} inputs", "give a classifier of one image [N,C,H,W]")
    copy = deepcopy(model)
    copy.graph.ClearField("value_info")
    for tensor in copy.graph.initializer:
        if prod(tensor.dims) > _SHAPE:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    sides = copy.graph.input[0].type.tensor_type.shape.dim[2:]
    if size is not None:
        for side, pixels in zip(sides, size, strict=True):
            side.dim_value = pixels
    if any(side.dim_value < 1 for side in sides):
        raise ModelError(
            f"input {copy.graph.input[0].name!r} has no fixed height and width", "pass --size 224 or --size 96x160"
        )
    return copy


def image_of(model: ModelProto) -> tuple[str, tuple[int, ...]]:
    """Name and shape ``(C, H, W)`` of the input."""
    value = model.graph.input[0]
    return value.name, tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])


def layers(model: ModelProto) -> tuple[Layer, ...]:
    """Every operation on activations for one image, in execution order; operations on constants are left out.

    The graph has a fixed image size (see ``sized``), and its nodes are in execution order.

    Raises:
        ModelError: Shapes cannot be inferred.
    """
    view, shapes = GraphIndex.of(model), tensor_shapes(model)
    sizes = {tensor.name: prod(tensor.dims) for tensor in model.graph.initializer}
    constant = {*view.constants, ""}
    rows: list[Layer] = []
    for node in model.graph.node:
        inputs = tuple(name for name in node.input if name not in constant)
        if not inputs:
            constant.update(node.output)
            continue
        for output in filter(None, node.output):
            input_shape, output_shape = _one(shapes, inputs[0]), _one(shapes, output)
            first = output == node.output[0]
            rows.append(
                Layer(
                    name=node.name or output,
                    operator=node.op_type,
                    kind=_kind(node, input_shape, output_shape),
                    inputs=inputs,
                    output=output,
                    input_shape=input_shape,
                    output_shape=output_shape,
                    macs=_macs(node, shapes) if first else 0,
                    parameters=_parameters(view, node, sizes) if first else 0,
                    bias=node.op_type in ("Conv", "Gemm") and len(node.input) > 2,
                )
            )
    return tuple(rows)


def peak_bytes(model: ModelProto, size: Size | None = None) -> int:
    """Peak activation memory for one image, in bytes; ``size`` is needed where the graph leaves it open.

    Tensors that only quantizers read count one byte per element: see ``model.cost.stored_bytes``.

    Raises:
        ModelError: See ``sized`` and ``layers``.
    """
    model = sized(model, size)
    name, shape = image_of(model)
    rows = layers(model)
    return peak(rows, shape, name, stored_bytes(rows, name)).elements


def _one(shapes: Shapes, tensor: str) -> tuple[int, ...]:
    """Shape of a tensor without its batch of one."""
    if tensor not in shapes:
        raise ModelError(f"tensor {tensor!r} has no shape", "export the model again with fixed sizes")
    return shapes[tensor][1:]


def _kind(node: NodeProto, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> Kind:
    if node.op_type == "MaxPool" and set(attribute(node, "kernel_shape")) == {1}:
        return "other"  # a strided slice: a pool of one pixel
    pooled = (input_shape[:1], (input_shape[0], 1, 1)) if len(input_shape) == 3 else ()
    if node.op_type == "ReduceMean" and output_shape in pooled:
        return "globalpool"
    return _KINDS.get(node.op_type, "other")
