"""Layers of an ONNX graph, from which costs, peak memory and counting conventions are computed."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from edgeres.errors import ModelError
from edgeres.model.cost import Kind, Layer, peak, stored_bytes
from edgeres.onnx_graph.graph_index import COUNTED, GraphIndex, attribute
from edgeres.onnx_graph.operator_counts import layer_macs, layer_parameters, tensor_shapes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edgeres.onnx_graph.operator_counts import Shapes

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


def sized(model: ModelProto, size: int | None) -> ModelProto:
    """A copy of the model for images of ``size x size`` pixels, without the values of its weights.

    Args:
        model: A checked graph.
        size: Side of the image; None takes the file's.

    Raises:
        ModelError: No single image input, or the size is neither in the file nor given.
    """
    images = [value for value in model.graph.input if len(value.type.tensor_type.shape.dim) == 4]
    if len(images) != 1 or len(model.graph.input) != 1:
        raise ModelError(f"the graph has {len(model.graph.input)} inputs", "give a classifier of one image [N,C,H,W]")
    copy = type(model)()
    copy.CopyFrom(model)
    copy.graph.ClearField("value_info")
    for tensor in copy.graph.initializer:
        if prod(tensor.dims) > _SHAPE:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    sides = copy.graph.input[0].type.tensor_type.shape.dim[2:]
    if size is not None:
        for side in sides:
            side.dim_value = size
    if any(side.dim_value < 1 for side in sides):
        raise ModelError(f"input {copy.graph.input[0].name!r} has no fixed height and width", "pass --size PX")
    return copy


def image_of(model: ModelProto) -> tuple[str, tuple[int, ...]]:
    """Name and shape ``(C, H, W)`` of the input."""
    value = model.graph.input[0]
    return value.name, tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])


def layers(model: ModelProto) -> tuple[Layer, ...]:
    """Every operation on activations for one image, in execution order; operations on constants are left out.

    Args:
        model: A graph of fixed image size, in execution order: see ``sized``.

    Raises:
        ModelError: Shapes cannot be inferred; see ``operator_counts.tensor_shapes``.
    """
    shapes, macs, parameters = tensor_shapes(model), layer_macs(model), layer_parameters(model)
    constant = {*GraphIndex.of(model).constants, ""}
    rows: list[Layer] = []
    for node in model.graph.node:
        inputs = tuple(name for name in node.input if name not in constant)
        if not inputs:
            constant.update(node.output)
            continue
        for output in filter(None, node.output):
            output_shape = _one(shapes, output)
            rows.append(
                Layer(
                    name=node.name or output,
                    operator=node.op_type,
                    kind=_kind(node, _one(shapes, inputs[0]), output_shape),
                    inputs=inputs,
                    output=output,
                    input_shape=_one(shapes, inputs[0]),
                    output_shape=output_shape,
                    macs=macs.get(output, 0),
                    parameters=parameters.get(output, 0),
                    bias=node.op_type in ("Conv", "Gemm") and len(node.input) > 2,
                )
            )
    return tuple(rows)


def peak_bytes(model: ModelProto, size: int) -> int:
    """Peak activation memory for one image of ``size x size`` pixels, in bytes.

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
    if (
        node.op_type == "ReduceMean"
        and len(input_shape) == 3
        and output_shape in (input_shape[:1], (input_shape[0], 1, 1))
    ):
        return "globalpool"
    return _KINDS.get(node.op_type, "other")
