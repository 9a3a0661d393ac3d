"""TensorRT rules that depend on the device: its GPU, its choice of precisions, and its Deep Learning Accelerator.

Sources of the DLA's: NVIDIA/Deep-Learning-Accelerator-SW (README, tools/qdq-translator), the TensorRT guide's page on
DLA layers and restrictions, and the release notes of TensorRT 10.16.1 and 11.4.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from edgeres.lint import facts
from edgeres.lint.facts import element_types, quantized_weights
from edgeres.lint.rule import DLA, ORIN, STRONGLY_TYPED, UP_TO_TURING, WITHOUT_DLA, WITHOUT_INT8, Defect, Version, rule
from edgeres.onnx_graph.graph_index import QDQ, WEIGHTED, GraphIndex, label

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
MIGRATION = "docs.nvidia.com/deeplearning/tensorrt 11, API migration; TensorRT-Model-Optimizer, high_precision_dtype"
HEADER = "NvInfer.h, strongly typed networks"
RELEASE_NOTES = "release notes of TensorRT 10.16.1 and 11.4.1"
TRANSLATOR = "NVIDIA/Deep-Learning-Accelerator-SW, tools/qdq-translator"
RESTRICTIONS = "TensorRT guide, DLA layers and restrictions"
_MAX_BATCH, _MAX_SIDE = 4096, 8192


@rule(STRONGLY_TYPED, "P11", "W", "cast its data and weight to FP16 ('edgeres lint --fix' does)", MIGRATION)
def half_where_float(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Float layers of strongly typed graphs are FP16."""
    kinds = element_types(view)
    for node in view.of_type(*WEIGHTED):
        if view.weight_dequantizer(node.input[1]) is None and kinds.get(node.input[0]) == TensorProto.FLOAT:
            yield label(node), "runs in float32: a strongly typed TensorRT does not choose FP16 itself"


@rule(STRONGLY_TYPED, "T01", "E", "give all operands of a node one float type, or cast", HEADER)
def one_type_per_node(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Operands have one float type: that of a DequantizeLinear is its scale's."""
    kinds = element_types(view)
    for node in view.of_type(*WEIGHTED, "Add", "Mul", "Sub", "Div", "Concat"):
        types = dict.fromkeys(kinds[name] for name in node.input if kinds.get(name) in _FLOATS)
        if len(types) > 1:
            yield label(node), f"reads {' and '.join(facts.type_name(kind) for kind in types)}"


@rule(WITHOUT_INT8, "P12", "E", "ship the float network and build it with --fp16", "NVIDIA/TensorRT issue 3157")
def no_integers(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """A GPU without INT8 gets no Q/DQ."""
    for node in view.of_type(*QDQ)[:1]:
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


@rule(ORIN, "T02", "W", "try the build on the device before upgrading JetPack", "NVIDIA/TensorRT issue 4832",
      since=(10, 16), until=(11, 0))  # fmt: skip
def orin_with_10_16(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """TensorRT 10.16 on Orin may not compile DequantizeLinear."""
    for node in view.of_type(*QDQ)[:1]:
        yield label(node), "reported to fail on compute capability 8.7 with TensorRT 10.16.2 (JetPack 7.2)"


@rule(DLA, "D01", "E", "translate it with qdq-translator: a plain graph and a calibration cache", TRANSLATOR,
      until=(11, 0))  # fmt: skip
def no_explicit_pairs(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Before TensorRT 11 a DLA takes no explicit Q/DQ."""
    for node in view.of_type(*QDQ)[:1]:
        yield label(node), f"{len(view.of_type(*QDQ))} Q/DQ nodes, which the DLA of this TensorRT does not take"


@rule(DLA, "D02", "E", "export with a fixed batch", RESTRICTIONS)
def static_shapes(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """A DLA takes static shapes."""
    for value, dimension in facts.open_inputs(view):
        yield value.name, f"dimension {dimension!r} is open"


@rule(DLA, "D03", "E", "use a smaller image or batch", RESTRICTIONS)
def small_shapes(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """A DLA takes batches to 4096 and other dimensions to 8192."""
    for value in view.model.graph.input:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        limits = [_MAX_BATCH, *[_MAX_SIDE] * max(len(sizes) - 1, 0)]
        if any(size > limit for size, limit in zip(sizes, limits, strict=True)):
            yield value.name, f"shape {sizes}"


@rule(DLA, "D04", "E", "build for the GPU", RELEASE_NOTES, since=(10, 8), until=(11, 4))
def supported(view: GraphIndex, version: Version) -> Iterator[Defect]:
    """TensorRT after 10.7 and before 11.4.1 has no DLA."""
    if view.nodes:
        yield "DLA", f"TensorRT {version[0]}.{version[1]} does not run on it"


@rule(DLA, "D05", "I", "compare its answers within one step", TRANSLATOR)
def rounding(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """A DLA rounds half away from zero, ONNX half to even."""
    integer = list(quantized_weights(view, "Conv"))
    for node, _dequantizer in integer[:1]:
        what = f"{len(integer)} integer convolutions may differ from ONNX by one step where a tie is rounded"
        yield label(node), what


@rule(WITHOUT_DLA, "D06", "E", "build for the GPU", "NVIDIA data sheets (research of devices)")
def there_is_one(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """The module has a DLA."""
    if view.nodes:
        yield "DLA", "this module has none"
