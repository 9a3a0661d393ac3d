"""Rules for Q/DQ nodes and versions that TensorRT's ONNX parser rejects or misreads.

Sources: ``QuantDequantLinearHelper`` in onnx/onnx-tensorrt (``builtin_op_importers.cpp`` at release/8.0-GA to 9.0-GA,
``onnxOpImporters.cpp`` of 10.x), its ``docs/operators.md`` and ``docs/Changelog.md``, ``include/NvInfer.h`` of
NVIDIA/TensorRT release/8.0 to 11.1, and the TensorRT developer guide. Where a rule ends or becomes a warning at
``LENIENT``, TensorRT-RTX 1.7 parses and builds such a graph with ONNX's results (``python -m benchmarks.corpus``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, defs

from edgeres.lint import facts
from edgeres.lint.facts import data_shape, element_types, scales, type_name
from edgeres.lint.rule import LENIENT, TENSORRT, Defect, Version, rule
from edgeres.onnx_graph.graph_index import QDQ, GraphIndex, attribute, input_at, label, opset_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import NodeProto

IMPORTER = "onnx-tensorrt, QuantDequantLinearHelper"
HEADER = "NvInfer.h, IQuantizeLayer and IDequantizeLayer"
OPERATORS = "onnx-tensorrt, docs/operators.md"

_MAX_OPSET_AND_IR: dict[Version, tuple[int, int]] = {
    (0, 0): (13, 7), (8, 4): (17, 8), (9, 0): (19, 9), (10, 0): (20, 10), (10, 9): (22, 10), (10, 13): (24, 13),
}  # fmt: skip
_INTEGER_OPERATORS = (
    "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear",
    "QLinearAdd", "QLinearMul", "QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearConcat", "QGemm",
)  # fmt: skip


def _zero_points(view: GraphIndex) -> Iterator[tuple[NodeProto, TensorProto]]:
    for node in view.of_type(*QDQ):
        if (tensor := view.constants.get(input_at(node, 2))) is not None:
            yield node, tensor


@rule(TENSORRT, "Q01", "E", "quantize symmetrically", IMPORTER)
def symmetric(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Every zero-point is 0."""
    for node, tensor in _zero_points(view):
        values = view.value(tensor.name)
        if values is not None and np.any(values.astype(np.float64)):
            yield label(node), f"zero-point {values[values != 0][0]} is not 0"


@rule(TENSORRT, "Q02", "E", "use int8 with scale x 255/127", IMPORTER)
def int8(view: GraphIndex, version: Version) -> Iterator[Defect]:
    """Codes and zero-points are int8."""
    allowed = {TensorProto.INT8, TensorProto.INT32}  # INT32 is a quantized bias, which W04 covers
    allowed |= {TensorProto.FLOAT8E4M3FN} if version >= (9, 0) else set()
    allowed |= {TensorProto.INT4} if version >= (10, 0) else set()
    for node, tensor in _zero_points(view):
        if tensor.data_type not in allowed:
            yield label(node), f"zero-point of type {type_name(tensor.data_type)}: refused, or read as int8"
    for node in view.of_type("DequantizeLinear"):
        codes = view.constants.get(node.input[0])
        if codes is not None and codes.data_type not in allowed:
            yield label(node), f"codes of type {type_name(codes.data_type)}"


@rule(TENSORRT, "Q03", "E", "add an int8 zero-point initializer", IMPORTER, until=(9, 0))
def three_inputs(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Q/DQ has three inputs."""
    for node in view.of_type(*QDQ):
        if not input_at(node, 2):
            yield label(node), "no zero-point input"


@rule(TENSORRT, "Q04", "E", "add an int8 zero-point initializer", IMPORTER, since=(9, 0))
def explicit_type(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """The code type is explicit."""
    for node in view.of_type("QuantizeLinear"):  # DequantizeLinear has the type of its codes
        if not input_at(node, 2) and attribute(node, "output_dtype", 0) == 0:
            yield label(node), "no zero-point: TensorRT takes int8, ONNX Runtime takes uint8"


@rule(TENSORRT, "Q05", "E", "drop output_dtype, or make it the zero-point's type", IMPORTER, since=(10, 0))
def one_type(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """The stated code type is the zero-point's."""
    for node, tensor in _zero_points(view):
        stated = attribute(node, "output_dtype", 0)
        if node.op_type == "QuantizeLinear" and stated not in (0, tensor.data_type):
            yield label(node), f"output_dtype {type_name(stated)} beside a {type_name(tensor.data_type)} zero-point"


@rule(TENSORRT, "Q06", "E", "store it as an initializer read by Q/DQ itself", IMPORTER)
def zero_point_constant(view: GraphIndex, version: Version) -> Iterator[Defect]:
    """Zero-points are initializers."""
    for node in view.of_type(*QDQ):
        if input_at(node, 2) and node.input[2] not in view.constants:
            if version >= (10, 0) and facts.folds_to_constant(view, node.input[2]):
                continue  # 10.x looks through Identity
            maker = view.producer(node.input[2])
            yield label(node), f"zero-point comes from {maker.op_type if maker is not None else 'a graph input'}"


@rule(TENSORRT, "Q07", "E", "store it as an initializer read by Q/DQ itself", HEADER, until=(10, 8))
def scale_constant(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Scales are initializers."""
    for node in view.of_type(*QDQ):
        if node.input[1] not in view.constants:
            yield label(node), f"scale {node.input[1]!r} is computed"


@rule(TENSORRT, "Q08", "E", "calibrate the tensor again", IMPORTER)
def positive(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Scales are positive and finite."""
    for node, scale in scales(view):
        wrong = scale[~(np.isfinite(scale) & (scale > 0))]
        if not scale.size:
            yield label(node), "scale is empty"
        elif wrong.size:
            yield label(node), f"scale {wrong[0]} is not a positive number"


@rule(TENSORRT, "Q09", "E", "store scales as float32", IMPORTER, until=(10, 0))
def scale_float32(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Scales are float32."""
    for node in view.of_type(*QDQ):
        tensor = view.constants.get(node.input[1])
        if tensor is not None and tensor.data_type != TensorProto.FLOAT:
            yield label(node), f"scale of type {type_name(tensor.data_type)}"


@rule(TENSORRT, "Q10", "E", "give data and scale one type, or cast the data", IMPORTER,
      since=(10, 12), warns_from=LENIENT)  # fmt: skip
def one_float_type(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Data and scale have one float type."""
    if opset_of(view.model) < 19:
        return  # the parser inserts the cast itself
    kinds = element_types(view)
    for node in view.of_type("QuantizeLinear"):
        data, scale = kinds.get(node.input[0], 0), kinds.get(node.input[1], 0)
        if data and scale and data != scale:
            yield label(node), f"{type_name(data)} data with a {type_name(scale)} scale"


@rule(TENSORRT, "Q11", "E", "give both the same shape", IMPORTER)
def equal_volumes(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """As many zero-points as scales."""
    for node, scale in scales(view):
        zero_point = view.value(input_at(node, 2))
        if zero_point is not None and zero_point.size != scale.size:
            yield label(node), f"{scale.size} scales beside {zero_point.size} zero-points"


@rule(TENSORRT, "Q12", "E", "write one scale per channel of the axis", IMPORTER)
def channel_count(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """One scale per channel of the axis."""
    for node, scale in scales(view):
        shape, axis = data_shape(view, node), attribute(node, "axis", 1)
        if scale.ndim == 1 and scale.size > 1 and shape is not None and axis < len(shape) and shape[axis] != scale.size:
            yield label(node), f"{scale.size} scales for {shape[axis]} channels on axis {axis} of {list(shape)}"


@rule(TENSORRT, "Q13", "E", "write a non-negative axis attribute", IMPORTER, until=LENIENT)
def explicit_axis(view: GraphIndex, version: Version) -> Iterator[Defect]:
    """Per-channel Q/DQ names its axis."""
    for node, scale in scales(view):
        if scale.size <= 1:
            continue
        axis = attribute(node, "axis")
        if axis is None:
            yield label(node), f"{scale.size} scales without an axis: TensorRT takes 0, ONNX takes 1"
        elif axis < 0 and version < (8, 2):
            yield label(node), f"axis {axis} is negative"


@rule(TENSORRT, "Q14", "E", "quantize activations per tensor", HEADER, warns_from=LENIENT)
def per_tensor_activations(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Activations have one scale."""
    for node, scale in scales(view):
        if scale.size > 1 and data_shape(view, node) is None:
            yield label(node), f"{scale.size} scales on an activation"


@rule(TENSORRT, "Q15", "E", "write one scale per tensor or per channel", IMPORTER)
def no_blocks(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """INT8 is not scaled by blocks."""
    kinds = element_types(view)
    for node, scale in scales(view):
        codes = kinds.get(node.input[0] if node.op_type == "DequantizeLinear" else node.output[0], 0)
        if scale.ndim >= 2 and codes in (TensorProto.INT8, TensorProto.UINT8):
            yield label(node), f"scale of shape {list(scale.shape)}: blocks are for INT4, FP8 and FP4"


@rule(TENSORRT, "Q16", "W", "give the tensor an axis", IMPORTER)
def not_scalar(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Quantized tensors have at least one axis."""
    for node in view.of_type(*QDQ):
        if data_shape(view, node) == ():
            yield label(node), "quantizes a scalar: from 10 on the result has one axis, which may not fit its reader"


@rule(TENSORRT, "Q17", "E", "export with the target's opset and IR version", OPERATORS)
def versions(view: GraphIndex, version: Version) -> Iterator[Defect]:
    """Opset and IR version fit the parser."""
    opset = opset_of(view.model)
    top, top_ir = max(limits for since, limits in _MAX_OPSET_AND_IR.items() if since <= version)
    runtime = f"TensorRT {version[0]}.{version[1]}"
    if opset > top:
        yield "opset", f"{opset}; {runtime} documents {top} at most"
    if view.model.ir_version > top_ir:
        yield "ir_version", f"{view.model.ir_version}; {runtime} reads {top_ir} at most"
    per_channel = any(scale.size > 1 for _, scale in scales(view))
    if view.of_type(*QDQ) and opset < (13 if per_channel else 10):
        yield "opset", f"{opset} has no {'per-channel ' if per_channel else ''}QuantizeLinear"


@rule(TENSORRT, "Q19", "E", "export standard operators with Q/DQ nodes around them", OPERATORS)
def known_operators(view: GraphIndex, version: Version) -> Iterator[Defect]:
    """No integer or vendor operators."""
    for node in view.nodes:
        known = version >= LENIENT and defs.has(node.op_type, "")  # importers match the operator's name alone
        vendor = node.domain not in ("", "ai.onnx") and not known
        if node.op_type in _INTEGER_OPERATORS or vendor:
            yield label(node), f"{node.domain}{'.' if node.domain else ''}{node.op_type} has no importer"


@rule(TENSORRT, "Q20", "E", "remove or complete the pair", HEADER, warns_from=LENIENT)
def paired(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """QuantizeLinear and DequantizeLinear come in pairs."""
    outputs = {value.name for value in view.model.graph.output}
    for node in view.of_type("QuantizeLinear"):
        readers = view.consumers(node.output[0])
        other_readers = [reader for reader, _ in readers if reader.op_type != "DequantizeLinear"]
        if other_readers:
            yield label(node), f"its codes go into {other_readers[0].op_type} {label(other_readers[0])!r}"
        elif not readers and node.output[0] not in outputs:
            yield label(node), "nothing reads its codes"
    for node in view.of_type("DequantizeLinear"):
        if node.input[0] not in view.constants and view.producer(node.input[0], "QuantizeLinear") is None:
            yield label(node), f"reads {node.input[0]!r}, which is no output of QuantizeLinear"
