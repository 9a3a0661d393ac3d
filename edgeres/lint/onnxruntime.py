"""What keeps ONNX Runtime's CPU provider from running a Q/DQ graph in integers.

Source: ``core/optimizer/qdq_transformer/selectors_actions`` of microsoft/onnxruntime (which node groups become integer
operators), confirmed by counting the kernels of optimised graphs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from edgeres.lint import tensorrt_nodes as nodes
from edgeres.lint.facts import weight_dequantizer
from edgeres.lint.rule import Defect, Rule, Version, rule
from edgeres.onnxfile.view import View, label

if TYPE_CHECKING:
    from collections.abc import Iterator

SELECTORS = "onnxruntime, core/optimizer/qdq_transformer/selectors_actions"


@rule("O01", "W", "use uint8 activations (scheme.signed: false)", SELECTORS)
def unsigned_adds(view: View, _: Version) -> Iterator[Defect]:
    """Adds read uint8."""
    for node in view.of_type("Add"):
        for name in node.input:
            pair = view.pair(name)
            zero_point = view.constants.get(pair[0].input[2]) if pair is not None and len(pair[0].input) > 2 else None
            if zero_point is not None and zero_point.data_type == TensorProto.INT8:
                yield label(node), "int8 inputs: the add stays in float"
                break


@rule("O02", "W", "quantize data, weight and output", SELECTORS)
def quantized_outputs(view: View, _: Version) -> Iterator[Defect]:
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
def no_saturation(view: View, _: Version) -> Iterator[Defect]:
    """Without VNNI, uint8 x int8 products stay within 16 bits."""
    for node in view.of_type("Conv", "Gemm", "MatMul"):
        dequantizer = weight_dequantizer(view, node)
        codes = view.value(dequantizer.input[0]) if dequantizer is not None else None
        if codes is None or codes.dtype != np.int8 or not _reads_uint8(view, node.input[0]):
            continue
        top = max(int(codes.max(initial=0)), -int(codes.min(initial=0)))
        if 2 * 255 * top > np.iinfo(np.int16).max:
            yield label(node), f"weights up to {top}: 2 x 255 x {top} overflows the 16-bit sums of a CPU without VNNI"


def _reads_uint8(view: View, tensor: str) -> bool:
    pair = view.pair(tensor)
    zero_point = view.constants.get(pair[0].input[2]) if pair is not None and len(pair[0].input) > 2 else None
    return pair is not None and (zero_point is None or zero_point.data_type == TensorProto.UINT8)


@rule("O04", "W", "quantize statically, with Q/DQ",
      "onnxruntime.ai/docs/performance/model-optimizations/quantization.html, static for CNNs")  # fmt: skip
def static(view: View, _: Version) -> Iterator[Defect]:
    """Ranges are known beforehand."""
    for node in view.of_type("DynamicQuantizeLinear"):
        yield label(node), "looks for the range of every image while it runs"


@rule("M01", "I", "fix the batch: python -m onnxruntime.tools.make_dynamic_shape_fixed",
      "onnxruntime.ai/docs/tutorials/mobile/helpers/make-dynamic-shape-fixed.html")  # fmt: skip
def fixed_shapes(view: View, _: Version) -> Iterator[Defect]:
    """Phones' accelerators take fixed shapes."""
    for value in view.model.graph.input:
        free = [dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim if not dim.dim_value]
        if free and value.name not in view.constants:
            yield value.name, f"dimension {free[0]!r} is open: NNAPI and CoreML leave such a graph to the CPU"


@rule("M02", "W", "export standard operators",
      "onnxruntime.ai/docs/reference/operators/MobileOps.html")  # fmt: skip
def standard_operators(view: View, _: Version) -> Iterator[Defect]:
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
)
WITHOUT_VNNI: tuple[Rule, ...] = (no_saturation,)
MOBILE: tuple[Rule, ...] = (fixed_shapes, standard_operators)
