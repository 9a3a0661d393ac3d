"""ONNX export of a network, written from its graph; equal networks give equal bytes.

Input ``image`` float32 ``[N,3,H,W]`` with a symbolic batch, output ``logits`` float32 ``[N,classes]``; nodes carry the
graph's operation names. Weights of quantized layers are int8 or int4 initializers behind one DequantizeLinear with an
explicit axis, biases are float32, every zero-point is an initializer: the form that TensorRT 8.5 to 11, ONNX Runtime
and OpenVINO all read (TensorRT operator documentation; ONNX specification of QuantizeLinear).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import edgeres
from edgeres.errors import StageError
from edgeres.model.graph import IMAGE, Graph, Op, graph

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights
    from edgeres.quant.placement import Placement
    from edgeres.quant.qparams import QParams
    from edgeres.quant.quant_table import QuantTable

LOGITS = "logits"
_NORM_EPSILON = 1e-5
_INT4_OPSET, _INT4_IR_VERSION = 21, 10
"""The first versions with ``TensorProto.INT4`` (ONNX IR specification 10, docs/docsgen/source/technical/int4.md)."""
_INT4 = helper.tensor_dtype_to_np_dtype(TensorProto.INT4)
_PLAIN = {"relu": "Relu", "sigmoid": "Sigmoid", "add": "Add", "mul": "Mul", "gap": "GlobalAveragePool"}


class _Writer:
    def __init__(self, graph: Graph, weights: Weights, table: QuantTable | None, placement: Placement | None) -> None:
        self.graph = graph
        self.weights = weights
        self.table = table
        self.placement = placement
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, name: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))

    def _scale(self, prefix: str, params: QParams) -> tuple[str, str]:
        """Scale and zero-point initializers: scalars per tensor, vectors per channel."""
        shape = () if params.axis is None else (len(params.scale),)
        scale = self.constant(f"{prefix}.scale", np.array(params.scale, dtype=np.float32).reshape(shape))
        return scale, self.codes(f"{prefix}.zero_point", np.full(shape, params.zero_point, dtype=np.int32), params)

    def codes(self, name: str, values: NDArray[np.int32], params: QParams) -> str:
        """An initializer of integer codes in the type that holds them."""
        signed = _INT4 if params.bits <= 4 else np.int8
        return self.constant(name, values.astype(signed if params.signed else np.uint8))

    def quantizer(self, tensor: str) -> None:
        """The QuantizeLinear of a tensor."""
        assert self.table is not None
        scale, zero_point = self._scale(tensor, self.table.activations[tensor])
        self.node("QuantizeLinear", f"{tensor}.quantize", [tensor, scale, zero_point], f"{tensor}.codes")

    def reads(self, op: Op, index: int) -> str:
        """Name of the tensor that an operation reads: its own dequantized copy where it has one."""
        tensor = op.inputs[index]
        if self.placement is None or (op.name, index) not in self.placement.edges:
            return tensor
        name = f"{op.name}.input{index}"
        inputs = [f"{tensor}.codes", f"{tensor}.scale", f"{tensor}.zero_point"]
        self.node("DequantizeLinear", f"{name}.dequantize", inputs, name)
        return name

    def weight(self, op: Op) -> str:
        """A weight initializer, with DequantizeLinear where it is quantized."""
        key = f"{op.name}.weight"
        params = self.table.weights.get(op.name) if self.table else None
        if params is None:
            return self.constant(key, self.weights[key])
        codes = self.codes(f"{key}.codes", params.quantize(self.weights[key]), params)
        scale, zero_point = self._scale(key, params)
        self.node("DequantizeLinear", f"{key}.dequantize", [codes, scale, zero_point], key, axis=0)
        return key

    def parameters(self, op: Op) -> list[str]:
        bias = [self.constant(f"{op.name}.bias", self.weights[f"{op.name}.bias"])] if op.bias else []
        return [self.weight(op), *bias]

    def operation(self, op: Op) -> None:
        inputs = [self.reads(op, index) for index in range(len(op.inputs))]
        output = LOGITS if op.name == self.graph.output else op.name
        window: dict[str, Any] = {"kernel_shape": [op.kernel] * 2, "strides": [op.stride] * 2, "pads": [op.padding] * 4}
        match op.kind:
            case "conv":
                self.node("Conv", op.name, inputs + self.parameters(op), output, group=op.groups, **window)
            case "maxpool" | "subsample":
                self.node("MaxPool", op.name, inputs, output, **window)
            case "linear":
                self.node("Gemm", op.name, inputs + self.parameters(op), output, transB=1)
            case "norm":
                keys = [f"{op.name}.{key}" for key in ("weight", "bias", "running_mean", "running_var")]
                constants = [self.constant(key, self.weights[key]) for key in keys]
                self.node("BatchNormalization", op.name, inputs + constants, output, epsilon=_NORM_EPSILON)
            case "zeropad":
                front = (op.c_out - op.c_in) // 2
                pads = np.array([0, front, 0, 0, 0, op.c_out - op.c_in - front, 0, 0], dtype=np.int64)
                self.node("Pad", op.name, [*inputs, self.constant(f"{op.name}.pads", pads)], output)
            case "flatten":
                self.node("Flatten", op.name, inputs, output, axis=1)
            case kind:
                self.node(_PLAIN[kind], op.name, inputs, output)


def write_model(
    spec: ResNetSpec,
    weights: Weights,
    size: tuple[int, int],
    *,
    opset: int,
    ir_version: int,
    metadata: dict[str, str] | None = None,
    table: QuantTable | None = None,
    placement: Placement | None = None,
) -> ModelProto:
    """The ONNX model of a network, in float, or with Q/DQ where ``table`` and ``placement`` are given.

    ``weights`` are float32, ``size`` is the height and width of the image in pixels, ``metadata`` the strings of the
    file's ``metadata_props``.

    Raises:
        StageError: 4-bit weights in an opset or IR version without them.
    """
    four_bits = table is not None and any(params.bits <= 4 for params in table.weights.values())
    if four_bits and (opset < _INT4_OPSET or ir_version < _INT4_IR_VERSION):
        wanted = f"runtime.opset to {_INT4_OPSET} and ir_version to {_INT4_IR_VERSION}, or weight_bits to 8"
        raise StageError(f"4-bit weights in opset {opset}, IR {ir_version}", f"set the target's {wanted}")
    writer, quantized = _Writer(graph(spec), weights, table, placement), set(placement.tensors) if placement else set()
    if IMAGE in quantized:
        writer.quantizer(IMAGE)
    for op in writer.graph.ops:
        writer.operation(op)
        if op.name in quantized:
            writer.quantizer(op.name)
    image = helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, ["N", spec.channels, *size])
    logits = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", spec.classes])
    body = helper.make_graph(writer.nodes, "resnet", [image], [logits], writer.initializers)
    model = helper.make_model(
        body,
        producer_name="edgeres",
        producer_version=edgeres.__version__,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=ir_version,
    )
    helper.set_model_props(model, dict(sorted((metadata or {}).items())))
    return model
