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
from edgeres.model.cost import shapes
from edgeres.model.operation import BLUR, IMAGE, Op
from edgeres.onnx_graph.integer_tensors import check_int4, scale_and_zero_point, stored_codes
from edgeres.quant.qparams import QParams

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.model.cost import Shape
    from edgeres.model.graph import Graph
    from edgeres.model.weights import Weights
    from edgeres.quant.placement import Placement
    from edgeres.quant.quant_table import QuantTable

LOGITS = "logits"
_PLAIN = {"relu": "Relu", "sigmoid": "Sigmoid", "add": "Add", "mul": "Mul", "gap": "GlobalAveragePool"}


class _Writer:
    def __init__(
        self,
        graph: Graph,
        weights: Weights,
        sizes: Mapping[str, Shape],
        table: QuantTable | None,
        placement: Placement | None,
    ) -> None:
        self.graph = graph
        self.weights = weights
        self.sizes = sizes
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
        """Initializers of scale and zero-point."""
        scale, zero_point = scale_and_zero_point(params)
        return self.constant(f"{prefix}.scale", scale), self.constant(f"{prefix}.zero_point", zero_point)

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
        codes = self.constant(f"{key}.codes", stored_codes(params.quantize(self.weights[key]), params))
        scale, zero_point = self._scale(key, params)
        self.node("DequantizeLinear", f"{key}.dequantize", [codes, scale, zero_point], key, axis=0)
        return key

    def parameters(self, op: Op) -> list[str]:
        bias = [self.constant(f"{op.name}.bias", self.weights[f"{op.name}.bias"])] if op.bias else []
        return [self.weight(op), *bias]

    def operation(self, op: Op) -> None:  # noqa: PLR0912  # one case per kind of operation
        inputs = [self.reads(op, index) for index in range(len(op.inputs))]
        output = LOGITS if op.name == self.graph.output else op.name
        window: dict[str, Any] = {"kernel_shape": [op.kernel] * 2, "strides": [op.stride] * 2}
        window["pads"] = list(op.pads(self.sizes[op.inputs[0]][1:]))
        match op.kind:
            case "conv":
                dilations = {"dilations": [op.dilation] * 2} if op.dilation > 1 else {}
                parameters = self.parameters(op)
                self.node("Conv", op.name, inputs + parameters, output, group=op.groups, **window, **dilations)
            case "maxpool" | "subsample":
                self.node("MaxPool", op.name, inputs, output, **window)
            case "avgpool":
                self.node("AveragePool", op.name, [self.completed(op, inputs[0])], output, **window)
            case "blur":
                self.node("Conv", op.name, [*inputs, self.binomial(op)], output, group=op.c_in, **window)
            case "pad":
                around = [0, 0, op.padding, op.padding] * 2
                self.pad(op.name, inputs[0], around, output, "reflect" if op.reflected else "constant")
            case "linear":
                self.node("Gemm", op.name, inputs + self.parameters(op), output, transB=1)
            case "norm":
                keys = [f"{op.name}.{key}" for key in ("weight", "bias", "running_mean", "running_var")]
                constants = [self.constant(key, self.weights[key]) for key in keys]
                self.node("BatchNormalization", op.name, inputs + constants, output, epsilon=op.eps)
            case "groupnorm":
                self.group_norm(op, inputs[0], output)
            case "channelconv":
                self.channel_convolution(op, inputs[0], output)
            case "tokens":
                self.tokens(op, inputs[0], output)
            case "attention":
                self.attention(op, inputs, output)
            case "silu":
                self.node("Sigmoid", f"{op.name}.sigmoid", inputs, f"{op.name}.sigmoid")
                self.node("Mul", op.name, [*inputs, f"{op.name}.sigmoid"], output)
            case "prelu":
                slopes = self.constant(f"{op.name}.weight", self.weights[f"{op.name}.weight"].reshape(-1, 1, 1))
                self.node("PRelu", op.name, [*inputs, slopes], output)
            case "zeropad":
                front = (op.c_out - op.c_in) // 2
                self.pad(op.name, inputs[0], [0, front, 0, 0, 0, op.c_out - op.c_in - front, 0, 0], output)
            case "flatten":
                self.node("Flatten", op.name, inputs, output, axis=1)
            case kind:
                self.node(_PLAIN[kind], op.name, inputs, output)

    def pad(self, name: str, tensor: str, pads: list[int], output: str, mode: str = "constant") -> None:
        """A Pad; a constant one is of zeros, and is the operator's default."""
        amounts = self.constant(f"{name}.pads", np.array(pads, dtype=np.int64))
        self.node("Pad", name, [tensor, amounts], output, **({} if mode == "constant" else {"mode": mode}))

    def completed(self, op: Op, tensor: str) -> str:
        """A tensor whose last row and column are doubled where an average over 2x2 reads half a window there.

        The mean over one pixel twice is that over the pixel, so that no runtime has to count the pixels of a window.
        """
        assert op.kernel == 2, "a window of more pixels would count some of them twice"
        odd = [int(op.ceil and side % 2) for side in self.sizes[op.inputs[0]][1:]]
        if not any(odd):
            return tensor
        self.pad(f"{op.name}.edge", tensor, [0] * 6 + odd, f"{op.name}.edge", "edge")
        return f"{op.name}.edge"

    def binomial(self, op: Op) -> str:
        """The weight ``[C,1,3,3]`` of a blur, whose numbers are exact in float32, and codes 1, 2 and 4 in integers."""
        key, one = f"{op.name}.weight", np.outer(BLUR, BLUR)
        weight = np.tile(one, (op.c_in, 1, 1, 1))
        if self.placement is None or (op.name, 0) not in self.placement.edges:
            return self.constant(key, (weight / one.sum()).astype(np.float32))
        step = QParams(scale=(1 / float(one.sum()),) * op.c_in, zero_point=0, signed=True, axis=0)
        scale, zero_point = self._scale(key, step)
        self.node(
            "DequantizeLinear",
            f"{key}.dequantize",
            [self.constant(f"{key}.codes", weight.astype(np.int8)), scale, zero_point],
            key,
            axis=0,
        )
        return key

    def reshape(self, name: str, tensor: str, shape: list[int], output: str) -> str:
        """A Reshape to ``[N, *shape]``."""
        whole = self.constant(f"{name}.shape", np.array([0, *shape], dtype=np.int64))
        self.node("Reshape", name, [tensor, whole], output)
        return output

    def channel_convolution(self, op: Op, tensor: str, output: str) -> None:
        """A convolution along the channels of ``[N,C,1,1]``, as one of ``[N,1,C,1]``."""
        column = self.reshape(f"{op.name}.column", tensor, [1, op.c_in, 1], f"{op.name}.column")
        weight = self.constant(f"{op.name}.weight", self.weights[f"{op.name}.weight"][..., None])
        pads = [op.padding, 0, op.padding, 0]
        self.node("Conv", op.name, [column, weight], f"{op.name}.gates", kernel_shape=[op.kernel, 1], pads=pads)
        self.reshape(f"{op.name}.channels", f"{op.name}.gates", [op.c_out, 1, 1], output)

    def tokens(self, op: Op, tensor: str, output: str) -> None:
        """The mean of all pixels and the pixels, ``[N,C,T,1]``, each with its position."""
        mean, listed = f"{op.name}.mean", f"{op.name}.listed"
        self.node("GlobalAveragePool", mean, [tensor], mean)
        pixels = self.reshape(f"{op.name}.pixels", tensor, [op.c_in, op.kernel - 1, 1], f"{op.name}.pixels")
        self.node("Concat", listed, [mean, pixels], listed, axis=2)
        positions = np.ascontiguousarray(self.weights[f"{op.name}.weight"].T)[None, :, :, None]
        self.node("Add", op.name, [listed, self.constant(f"{op.name}.weight", positions)], output)

    def attention(self, op: Op, inputs: list[str], output: str) -> None:
        """Attention of one query in operators that every runtime has: products of two activations are not among them.

        A convolution of ones sums up each head's products of query and key, another one repeats its softmax for every
        channel, and the sum over tokens is their mean, with their number among the weights.
        """
        query, key, value = inputs
        heads, width, count = op.groups, op.c_in // op.groups, op.kernel
        names = ("products", "scores", "rows", "softmax", "shares", "repeated", "weighted")
        products, scores, rows, softmax, shares, repeated, weighted = (f"{op.name}.{name}" for name in names)
        one = np.full((heads, width, 1, 1), width**-0.5, np.float32)
        several = np.full((op.c_out, 1, 1, 1), count, np.float32)
        self.node("Mul", products, [key, query], products)
        self.node(
            "Conv", scores, [products, self.constant(f"{op.name}.sum", one)], scores, kernel_shape=[1, 1], group=heads
        )
        self.reshape(rows, scores, [heads, count], rows)
        self.node("Softmax", softmax, [rows], softmax, axis=-1)
        self.reshape(shares, softmax, [heads, count, 1], shares)
        self.node(
            "Conv",
            repeated,
            [shares, self.constant(f"{op.name}.repeat", several)],
            repeated,
            kernel_shape=[1, 1],
            group=heads,
        )
        self.node("Mul", weighted, [value, repeated], weighted)
        self.node("GlobalAveragePool", op.name, [weighted], output)

    def group_norm(self, op: Op, tensor: str, output: str) -> None:
        """Group normalization as instance normalization of ``[N,G,C/G H W]``, then a gain and a shift per channel.

        The operator of its own came with opset 18, and its gains counted groups until opset 21.
        """
        rows = self.reshape(f"{op.name}.rows", tensor, [op.groups, -1], f"{op.name}.rows")
        ones = self.constant(f"{op.name}.ones", np.ones(op.groups, np.float32))
        zeros = self.constant(f"{op.name}.zeros", np.zeros(op.groups, np.float32))
        even = f"{op.name}.even"
        self.node("InstanceNormalization", op.name, [rows, ones, zeros], even, epsilon=op.eps)
        whole = self.reshape(f"{op.name}.whole", even, list(self.sizes[op.name]), f"{op.name}.whole")
        gain, shift = (self.weights[f"{op.name}.{key}"].reshape(1, -1, 1, 1) for key in ("weight", "bias"))
        scaled = f"{op.name}.scaled"
        self.node("Mul", f"{op.name}.gain", [whole, self.constant(f"{op.name}.weight", gain)], scaled)
        self.node("Add", f"{op.name}.shift", [scaled, self.constant(f"{op.name}.bias", shift)], output)


def write_model(
    graph: Graph,
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
    if table is not None:
        check_int4(table.weights.values(), opset, ir_version)
    writer = _Writer(graph, weights, shapes(graph, *size), table, placement)
    quantized = set(placement.tensors) if placement else set()
    if IMAGE in quantized:
        writer.quantizer(IMAGE)
    for op in writer.graph.ops:
        writer.operation(op)
        if op.name in quantized:
            writer.quantizer(op.name)
    image = helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, ["N", graph.channels, *size])
    logits = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", graph.classes])
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
