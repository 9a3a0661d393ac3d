"""What keeps ONNX Runtime's CPU provider from running a Q/DQ graph in integers.

Source: ``core/optimizer/qdq_transformer/selectors_actions`` of microsoft/onnxruntime (which node groups become integer
operators), confirmed by counting the kernels of optimised graphs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from edgeres.lint.facts import weight_dequantizer
from edgeres.lint.rule import Defect, Rule, Version, rule
from edgeres.lint.rules import tensorrt_nodes as nodes
from edgeres.onnx_graph.accumulators import cut_off, integer_layers, overflows, stored_bias
from edgeres.onnx_graph.graph_index import COUNTED, GraphIndex, label
from edgeres.quant.scale import INT32_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

_SAME_SCALE = 1e-3
"""Share by which the scale of a bias may be off before a layer is named: more than float32 rounding of a product."""

_TAKEN = 0.01
"""Share up to which ONNX Runtime 1.31 takes the codes as they are; beyond, the layer stays in float (tried here)."""

SELECTORS = "onnxruntime, core/optimizer/qdq_transformer/selectors_actions"


@rule("O01", "W", "use uint8 activations (scheme.signed: false)", SELECTORS)
def unsigned_adds(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Adds read uint8."""
    for node in view.of_type("Add"):
        for name in node.input:
            pair = view.pair(name)
            zero_point = view.constants.get(pair[0].input[2]) if pair is not None and len(pair[0].input) > 2 else None
            if zero_point is not None and zero_point.data_type == TensorProto.INT8:
                yield label(node), "int8 inputs: the add stays in float"
                break


@rule("O02", "W", "quantize data, weight and output", SELECTORS)
def quantized_outputs(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Convolutions are integer on both sides."""
    for node in view.of_type("Conv"):
        if weight_dequantizer(view, node) is None:
            continue
        if view.pair(node.input[0]) is None:
            yield label(node), "its data is float: it runs in float"
            continue
        output = node.output[0]
        readers = view.consumers(output)
        if len(readers) == 1 and readers[0][0].op_type in ("Relu", "Clip"):
            readers = view.consumers(readers[0][0].output[0])
        if readers and not any(reader.op_type == "QuantizeLinear" for reader, _index in readers):
            yield label(node), "its output is not quantized: it runs in float"


@rule("O03", "W", "quantize weights to 7 bits (scheme.reduce_range: true)",
      "onnxruntime.ai/docs/performance/model-optimizations/quantization.html, reduce range")  # fmt: skip
def no_saturation(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Without VNNI, uint8 x int8 products stay within 16 bits."""
    for node in view.of_type(*COUNTED):
        dequantizer = weight_dequantizer(view, node)
        codes = view.value(dequantizer.input[0]) if dequantizer is not None else None
        if codes is None or codes.dtype != np.int8 or not _reads_uint8(view, node.input[0]):
            continue
        top = max(int(codes.max(initial=0)), -int(codes.min(initial=0)))
        if 2 * 255 * top > np.iinfo(np.int16).max:
            yield label(node), f"weights up to {top}: 2 x 255 x {top} overflows the 16-bit sums of a CPU without VNNI"


def _reads_uint8(view: GraphIndex, tensor: str) -> bool:
    pair = view.pair(tensor)
    zero_point = view.constants.get(pair[0].input[2]) if pair is not None and len(pair[0].input) > 2 else None
    return pair is not None and (zero_point is None or zero_point.data_type == TensorProto.UINT8)


@rule("O04", "W", "quantize statically, with Q/DQ",
      "onnxruntime.ai/docs/performance/model-optimizations/quantization.html, static for CNNs")  # fmt: skip
def static(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Ranges are known beforehand."""
    for node in view.of_type("DynamicQuantizeLinear"):
        yield label(node), "looks for the range of every image while it runs"


@rule("O05", "E", "raise the weight's scale and round its weights again",
      "microsoft/onnxruntime issue 21000, pull requests 22020 and 25278")  # fmt: skip
def room_for_bias(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Sums of products and bias fit int32."""
    for node, channels, reach in overflows(view):
        yield label(node), f"sums of {channels} channels reach {reach:.2g}; int32 ends at {INT32_MAX}"


@rule("O06", "W", "store the bias in float, or its codes at that scale",
      "onnxruntime, core/optimizer/qdq_transformer; onnx QLinearConv, input B")  # fmt: skip
def bias_scale(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """The scale of an int32 bias is that of the products."""
    for layer in integer_layers(view):
        stored = stored_bias(view, layer.node)
        if stored is None:
            continue
        products = layer.step * layer.scale.astype(np.float64)
        ratio = np.broadcast_to(stored[1], products.shape) / products
        worst = float(ratio[np.argmax(np.abs(np.log(ratio)))])
        if abs(worst - 1) > _SAME_SCALE:
            effect = (
                "it runs in float" if abs(worst - 1) > _TAKEN else "its codes are taken at the scale of the products"
            )
            yield label(layer.node), f"its bias's scale is {worst:.4g} times data scale x weight scale: {effect}"


@rule("O07", "E", "quantize again from the float network, with larger weight scales",
      "microsoft/onnxruntime issue 21000, pull request 21645")  # fmt: skip
def bias_within_range(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """No int32 bias is cut off."""
    for name, channels in cut_off(view).items():
        yield name, f"{channels} codes of its bias are the largest that int32 has: the bias itself was larger"


@rule("M01", "I", "fix the batch: python -m onnxruntime.tools.make_dynamic_shape_fixed",
      "onnxruntime.ai/docs/tutorials/mobile/helpers/make-dynamic-shape-fixed.html")  # fmt: skip
def fixed_shapes(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Phones' accelerators take fixed shapes."""
    for value in view.model.graph.input:
        free = [dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim if not dim.dim_value]
        if free and value.name not in view.constants:
            yield value.name, f"dimension {free[0]!r} is open: NNAPI and CoreML leave such a graph to the CPU"


@rule("M02", "W", "export standard operators",
      "onnxruntime.ai/docs/reference/operators/MobileOps.html")  # fmt: skip
def standard_operators(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """A reduced build knows standard operators."""
    for node in view.nodes:
        if node.domain not in ("", "ai.onnx", "com.microsoft"):
            yield label(node), f"{node.domain}.{node.op_type} is in no build of ONNX Runtime"


RULES: tuple[Rule, ...] = (
    *(replace(entry, source=SELECTORS) for entry in (nodes.positive, nodes.equal_volumes, nodes.channel_count)),
    *(replace(entry, severity="W", source=SELECTORS) for entry in (nodes.per_tensor_activations, nodes.paired)),
    unsigned_adds,
    quantized_outputs,
    static,
    room_for_bias,
    bias_scale,
    bias_within_range,
)
WITHOUT_VNNI: tuple[Rule, ...] = (no_saturation,)
MOBILE: tuple[Rule, ...] = (fixed_shapes, standard_operators)
