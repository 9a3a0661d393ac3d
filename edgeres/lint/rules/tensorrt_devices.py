"""TensorRT rules that depend on the GPU and the choice of precisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from edgeres.lint.facts import (
    element_types,
    quantized_weights,
    quantizers,
    type_name,
    weight_dequantizer,
    weighted_nodes,
)
from edgeres.lint.families import ORIN, STRONGLY_TYPED, UP_TO_TURING, WITHOUT_INT8
from edgeres.lint.rule import Defect, Version, rule
from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex, label

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
MIGRATION = "docs.nvidia.com/deeplearning/tensorrt 11, API migration; TensorRT-Model-Optimizer, high_precision_dtype"


@rule(STRONGLY_TYPED, "P11", "W", "cast what stays in float to FP16 ('edgeres lint --fix' does)", MIGRATION)
def half_where_float(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Strongly typed graphs say FP16 where they mean it."""
    kinds = element_types(view)
    for node in weighted_nodes(view):
        if weight_dequantizer(view, node) is None and kinds.get(node.input[0]) == TensorProto.FLOAT:
            yield label(node), "runs in float32: a strongly typed TensorRT lowers nothing by itself"


@rule(
    STRONGLY_TYPED,
    "T01",
    "E",
    "give all operands of a node one float type, or cast",
    "NvInfer.h, strongly typed networks",
)
def one_type_per_node(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Operands have one float type: that of a DequantizeLinear is its scale's."""
    kinds = element_types(view)
    for node in view.of_type(*WEIGHTED, "Add", "Mul", "Sub", "Div", "Concat"):
        types = dict.fromkeys(kinds[name] for name in node.input if kinds.get(name) in _FLOATS)
        if len(types) > 1:
            yield label(node), f"reads {' and '.join(type_name(kind) for kind in types)}"


@rule(WITHOUT_INT8, "P12", "E", "ship the float network and build it with --fp16", "NVIDIA/TensorRT issue 3157")
def no_integers(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """A GPU without INT8 gets no Q/DQ."""
    for node in quantizers(view)[:1]:
        yield label(node), "this GPU has no INT8: TensorRT refuses every graph with Q/DQ"


@rule(UP_TO_TURING, "P13", "W", "remove the layer's pairs where the builder finds no implementation",
      "TensorRT developer guide; NVIDIA/TensorRT issues 3385, 3638 and 4060")  # fmt: skip
def old_kernels(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """GPUs up to compute capability 7.5 lack some INT8 kernels."""
    for node, dequantizer in quantized_weights(view, "Conv"):
        codes = view.constants.get(dequantizer.input[0])
        if codes is None or len(codes.dims) != 4:
            continue
        out, per_group = codes.dims[0], codes.dims[1]
        if out < 8 or (per_group == 1 and out > 1):
            what = "depthwise" if per_group == 1 else f"{out} output channels"
            yield label(node), f"{what}: no INT8 implementation was found on such GPUs"


@rule(ORIN, "T02", "W", "try the build on the device before the JetPack moves", "NVIDIA/TensorRT issue 4832",
      since=(10, 16), until=(11, 0))  # fmt: skip
def orin_with_10_16(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """TensorRT 10.16 on Orin is reported not to compile DequantizeLinear."""
    for node in quantizers(view)[:1]:
        yield label(node), "reported to fail on compute capability 8.7 with TensorRT 10.16.2 (JetPack 7.2)"
