"""Rules for integer execution of a Q/DQ graph in the runtimes of CPUs.

Sources: ``core/optimizer/qdq_transformer/selectors_actions`` of microsoft/onnxruntime (which node groups become integer
operators), confirmed by counting the kernels of optimised graphs; docs.openvino.ai, low precision transformations,
confirmed by the runtime precisions of compiled graphs (OpenVINO 2026.4), which a test repeats;
``backends/xnnpack/partition/config`` of pytorch/executorch (the supported Q/DQ patterns), confirmed by the kernels that
ExecuTorch 1.5 records while it runs the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from edgeres.backends.litert.tflite.translate import translate
from edgeres.errors import EdgeresError
from edgeres.lint import facts
from edgeres.lint.facts import activation_type, quantized_weights
from edgeres.lint.rule import LITERT, MOBILE, ONNXRUNTIME, OPENVINO, WITHOUT_VNNI, XNNPACK, Defect, Version, rule
from edgeres.lint.rules import tensorrt_nodes as nodes
from edgeres.lint.rules import tensorrt_operators as operators
from edgeres.onnx_graph.graph_index import COUNTED, GraphIndex, attribute, input_at, label
from edgeres.onnx_graph.roles import classifier
from edgeres.onnx_graph.stored_weights import cut_off, integer_layers, overflows, stored_bias
from edgeres.quant.qparams import INT32_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

_SAME_SCALE = 1e-3
"""Largest relative error of a bias scale without a finding: more than float32 rounding of a product."""

_TAKEN = 0.01
"""Largest relative error up to which ONNX Runtime 1.31 uses the codes; beyond, the layer runs in float (measured)."""

SELECTORS = "onnxruntime, core/optimizer/qdq_transformer/selectors_actions"
QUANTIZATION = "onnxruntime.ai/docs/performance/model-optimizations/quantization.html"
SPECIFICATION = "ai.google.dev/edge/litert/models/quantization_spec"
TRANSFORMATIONS = "docs.openvino.ai, low precision transformations"
PARTITIONER = "executorch, backends/xnnpack/partition/config"

SHARED = (
    *(
        shared.adopted(family, source)
        for family, source in ((ONNXRUNTIME, SELECTORS), (OPENVINO, TRANSFORMATIONS))
        for shared in (nodes.positive, nodes.equal_volumes, nodes.channel_count)
    ),
    nodes.per_tensor_activations.adopted(ONNXRUNTIME, SELECTORS, severity="W"),
    nodes.paired.adopted(ONNXRUNTIME, SELECTORS, severity="W"),
    *(shared.adopted(XNNPACK, PARTITIONER) for shared in (nodes.positive, nodes.equal_volumes)),
    nodes.per_tensor_activations.adopted(XNNPACK, PARTITIONER, id="X04"),
)
"""Rules of TensorRT that other runtimes have too."""


@rule(ONNXRUNTIME, "O01", "W", "use uint8 activations (scheme.signed: false)", SELECTORS)
def unsigned_adds(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Adds read uint8."""
    for node in view.of_type("Add"):
        if any(activation_type(view, name) == TensorProto.INT8 for name in node.input):
            yield label(node), "int8 inputs: the add stays in float"


@rule(ONNXRUNTIME, "O02", "W", "quantize data, weight and output", SELECTORS)
def quantized_outputs(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Convolutions are integer on both sides."""
    for node, _dequantizer in quantized_weights(view, "Conv"):
        readers = view.readers_behind_epilogue(node.output[0])
        if view.pair(node.input[0]) is None:
            yield label(node), "its data is float: it runs in float"
        elif readers and "QuantizeLinear" not in readers:
            yield label(node), "its output is not quantized: it runs in float"


@rule(WITHOUT_VNNI, "O03", "W", "quantize weights to 7 bits (scheme.reduce_range: true)",
      f"{QUANTIZATION}, reduce range")  # fmt: skip
def no_saturation(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Without VNNI, uint8 x int8 products stay within 16 bits."""
    for node, dequantizer in quantized_weights(view, *COUNTED):
        codes = view.value(dequantizer.input[0])
        if codes is None or codes.dtype != np.int8 or activation_type(view, node.input[0]) != TensorProto.UINT8:
            continue
        top = max(int(codes.max(initial=0)), -int(codes.min(initial=0)))
        if 2 * 255 * top > np.iinfo(np.int16).max:
            yield label(node), f"weights up to {top}: 2 x 255 x {top} overflows the 16-bit sums of a CPU without VNNI"


@rule(ONNXRUNTIME, "O04", "W", "quantize statically, with Q/DQ", f"{QUANTIZATION}, static for CNNs")
def static(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Ranges of activations are static."""
    for node in view.of_type("DynamicQuantizeLinear"):
        yield label(node), "computes the range of every image at run time"


@rule(ONNXRUNTIME, "O05", "E", "raise the weight's scale and round its weights again",
      "microsoft/onnxruntime issue 21000, pull requests 22020 and 25278")  # fmt: skip
def room_for_bias(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Sums of products and bias fit int32."""
    for node, channels, reach in overflows(view):
        yield label(node), f"sums of {channels} channels reach {reach:.2g}; int32 ends at {INT32_MAX}"


@rule(ONNXRUNTIME, "O06", "W", "store the bias in float, or its codes at that scale",
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
        if (off := abs(worst - 1)) > _SAME_SCALE:
            effect = "it runs in float" if off > _TAKEN else "its codes are taken at the scale of the products"
            yield label(layer.node), f"its bias's scale is {worst:.4g} times data scale x weight scale: {effect}"


@rule(ONNXRUNTIME, "O07", "E", "quantize again from the float network, with larger weight scales",
      "microsoft/onnxruntime issue 21000, pull request 21645")  # fmt: skip
def bias_within_range(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """No int32 bias is saturated."""
    for name, channels in cut_off(view).items():
        yield name, f"{channels} codes of its bias are the largest that int32 has: the bias itself was larger"


@rule(MOBILE, "M01", "I", "fix the batch: python -m onnxruntime.tools.make_dynamic_shape_fixed",
      "onnxruntime.ai/docs/tutorials/mobile/helpers/make-dynamic-shape-fixed.html")  # fmt: skip
def fixed_shapes(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Phones' accelerators take fixed shapes."""
    for value, dimension in facts.open_inputs(view):
        yield value.name, f"dimension {dimension!r} is open: NNAPI and CoreML leave such a graph to the CPU"


@rule(MOBILE, "M02", "W", "export standard operators", "onnxruntime.ai/docs/reference/operators/MobileOps.html")
def standard_operators(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """A reduced build has standard operators."""
    for node in view.nodes:
        if node.domain not in ("", "ai.onnx", "com.microsoft"):
            yield label(node), f"{node.domain}.{node.op_type} is in no build of ONNX Runtime"


@rule(LITERT, "L01", "E", "take a runtime that reads ONNX: the same target without ':litert'", SPECIFICATION)
def expressible(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Every operation has a form in a .tflite file."""
    try:
        translate(view.model)
    except EdgeresError as refusal:
        where, _colon, what = refusal.what.partition(": ")
        yield (where, what) if what else ("graph", where)


LITERT_SHARED = (
    quantized_outputs.adopted(LITERT, SPECIFICATION, id="L02"),
    static.adopted(LITERT, SPECIFICATION, id="L03"),
)


@rule(OPENVINO, "V01", "W", "quantize weights symmetrically", TRANSFORMATIONS)
def symmetric_weights(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Weights have the zero-point 0."""
    for node, dequantizer in quantized_weights(view):
        zeros = view.value(input_at(dequantizer, 2))
        if zeros is not None and np.any(zeros.astype(np.float64)):
            yield label(node), "its weight has a zero-point: it runs in float"


OPENVINO_SHARED = (
    nodes.per_tensor_activations.adopted(OPENVINO, TRANSFORMATIONS, id="V02", severity="W"),
    symmetric_weights.adopted(XNNPACK, PARTITIONER, id="X05"),
)


@rule(OPENVINO, "V03", "W", "quantize data and weight, or neither", TRANSFORMATIONS)
def all_inputs(view: GraphIndex, version: Version) -> Iterator[Defect]:
    """Weighted operators have all inputs quantized; a classifier may stay in float behind a quantized pool."""
    last = classifier(view)
    for where, what in operators.all_inputs.check(view, version):
        if last is None or where != label(last):
            yield where, what


@rule(XNNPACK, "X01", "W", "quantize data, weight and output", PARTITIONER)
def integers_on_both_sides(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Quantized layers have integers on both sides."""
    for node, _dequantizer in quantized_weights(view):
        if view.pair(node.input[0]) is None:
            yield label(node), "its data is float: it runs in float"
        elif view.readers_behind_epilogue(node.output[0]) != ["QuantizeLinear"]:
            yield label(node), "QuantizeLinear is not all that reads its output: it runs in float"


@rule(XNNPACK, "X02", "W", "quantize both inputs of an add, or none (scheme.add_inputs: both)", PARTITIONER)
def both_inputs(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Adds have all sides quantized, or none."""
    for node in view.of_type("Add"):
        sides = [view.pair(name) is not None for name in node.input]
        quantized_output = view.readers_behind_epilogue(node.output[0]) == ["QuantizeLinear"]
        if any(sides) and not (all(sides) and quantized_output):
            yield label(node), "an input or its output is float: it runs in float, between conversions"


@rule(XNNPACK, "X03", "I", "project with a convolution instead (shortcut B)", "XNNPACK, src/subgraph/max-pooling-2d.c")
def windows_of_more_than_one(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Max-pools have more than one pixel."""
    for node in view.of_type("MaxPool"):
        if set(attribute(node, "kernel_shape", ())) == {1}:
            yield label(node), "a window of one pixel: ExecuTorch's portable kernel takes it, in float"
