"""Integer coverage of a graph: layers in integers, layers in float with the reason, and the expected counts.

The expected number of activation quantizers follows from the placement that TensorRT fuses (its developer guide, "Q/DQ
layer-placement recommendations"): one for each distinct tensor that an integer convolution reads, and one for each
identity of a residual add that is none of those. For ResNet-18/34/50/101/152 that is 20/36/53/104/155.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeres.lint.facts import dequantized, quantized_weights
from edgeres.lint.rule import LITERT, ONNXRUNTIME, XNNPACK
from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex, label
from edgeres.onnx_graph.roles import classifier, pooled_convolutions, residual_adds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import ModelProto, NodeProto

    from edgeres.targets.target import Target

_INTEGER = ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger")
_POOLS = ("AveragePool", "GlobalAveragePool", "ReduceMean")
_UNQUANTIZED = "neither data nor weight is quantized"


@dataclass(frozen=True, slots=True)
class FloatLayer:
    """A node that computes in float, and the reason."""

    node: str
    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class IntegerCoverage:
    """Integer coverage of a graph.

    Attributes:
        quantizers: QuantizeLinear nodes on activations, of ``tensors`` distinct ones, ``repeated`` more than once.
        expected_quantizers: Expected number of quantizers; None where the target's scheme is not TensorRT's.
        weights: Convolutions and matrix products with an integer weight, of ``weighted`` in all.
        fused_kernels: Those with integer data and weight, one kernel each with their activation.
        fused_adds: Residual adds fused into the convolution before them, of ``adds`` in all.
        in_float: Weighted nodes, residual adds and pools that stay in float.
    """

    quantizers: int
    tensors: int
    repeated: tuple[str, ...]
    expected_quantizers: int | None
    weights: int
    weighted: int
    fused_kernels: int
    fused_adds: int
    adds: int
    in_float: tuple[FloatLayer, ...]


def integer_coverage_of(model: ModelProto, target: Target) -> IntegerCoverage:
    """Integer coverage of a checked graph with inferred shapes, as ``read_model`` returns it."""
    view = GraphIndex.of(model)
    read = Counter(node.input[0] for node in view.activation_quantizers())
    vendor, quantized = view.of_type(*_INTEGER), [node for node, _dequantizer in quantized_weights(view)]
    integer = {label(node) for node in _integer_layers(view, target)}.union(map(label, vendor))
    adds = residual_adds(view)
    fused = {
        label(add.node)
        for add in adds
        if (maker := view.producer(add.residual_tensor, "Conv")) is not None
        and label(maker) in integer
        and dequantized(view, add.identity_tensor)
    }
    separate = target.scheme is not None and target.scheme.add_inputs == "both"
    own = {label(add.node) for add in adds if separate and all(view.pair(name) for name in add.node.input)}
    free = {label(add.node) for add in adds} - fused - own
    return IntegerCoverage(
        quantizers=read.total(),
        tensors=len(read),
        repeated=tuple(name for name, count in read.items() if count > 1),
        expected_quantizers=_expected(view, target),
        weights=len(quantized) + len(vendor),
        weighted=len(view.of_type(*WEIGHTED)) + len(vendor),
        fused_kernels=len(integer),
        fused_adds=len(fused),
        adds=len(adds),
        in_float=tuple(_float_layers(view, target, integer, free)),
    )


def _integer_layers(view: GraphIndex, target: Target) -> Iterator[NodeProto]:
    """Layers of which the target's runtime forms integer kernels."""
    for node in view.of_type(*WEIGHTED):
        weight = view.weight_dequantizer(node.input[1]) is not None
        product = node.op_type == "MatMul" and dequantized(view, node.input[1])
        if (weight or product) and dequantized(view, node.input[0]) and not _why_open(view, node, target):
            yield node


def _why_open(view: GraphIndex, node: NodeProto, target: Target) -> str:
    """Why a runtime runs a layer in float whose data and weight are integers; empty where it does not.

    ONNX Runtime has a matrix product of integers with a float result; LiteRT gets every product in float.
    """
    if LITERT.holds(target) and node.op_type != "Conv":
        return "a product has no scales per channel in every LiteRT"
    readers = set(view.readers_behind_epilogue(node.output[0]))
    if ONNXRUNTIME.holds(target) and any(_is_shared_int8(view, name) for name in _codes(view, node)):
        return "int8 codes that several nodes read do not become uint8, which x86 needs"
    free = ONNXRUNTIME.holds(target) and node.op_type == "MatMul" and "QuantizeLinear" not in readers
    closed = not any(family.holds(target) for family in (ONNXRUNTIME, LITERT, XNNPACK))
    return "" if closed or free or readers == {"QuantizeLinear"} else "its output is not quantized"


def _codes(view: GraphIndex, node: NodeProto) -> tuple[str, ...]:
    """The codes that a layer reads and those of its output."""
    pair = view.pair(node.input[0])
    outputs = view.quantizers_of(view.behind_epilogue(node.output[0]))
    return (*((pair[0].output[0],) if pair is not None else ()), *(quantizer.output[0] for quantizer in outputs))


def _is_shared_int8(view: GraphIndex, codes: str) -> bool:
    """Whether int8 codes have more than one reader, behind their DequantizeLinear too.

    ONNX Runtime turns only pairs of one reader into uint8 (core/optimizer/qdq_transformer/qdq_s8_to_u8.cc).
    """
    quantizer, readers = view.producers[codes], view.consumers(codes)
    zero = view.zero_point(quantizer)
    if zero is None or zero.dtype != np.int8:
        return False
    return len(readers) > 1 or any(len(view.consumers(reader.output[0])) > 1 for reader, _ in readers)


def _expected(view: GraphIndex, target: Target) -> int | None:
    """Distinct data tensors of the convolutions to be quantized, and identities that are none of them."""
    scheme = target.scheme
    if scheme is None or scheme.add_inputs != "identity" or scheme.pools:
        return None
    pooled = {label(node) for node in pooled_convolutions(view)}
    data = {view.origin(node.input[0]) for node in view.of_type("Conv") if label(node) not in pooled}
    identities = {view.origin(add.identity_tensor) for add in residual_adds(view)}
    return len(data | identities)


def _float_layers(view: GraphIndex, target: Target, integer: set[str], free: set[str]) -> Iterator[FloatLayer]:
    """Weighted nodes that are not integer, residual adds that fuse with none, and pools that read float."""
    last, pooled = classifier(view), {label(node) for node in pooled_convolutions(view)}
    last_name = "" if last is None else label(last)
    for node in view.nodes:
        name, why = label(node), ""
        if node.op_type in WEIGHTED and name not in integer:
            why = _why_float(view, node, target)
            if name in pooled and name != last_name:
                why = "behind a global pool: a matrix-vector product gains nothing"
            elif name == last_name and why == _UNQUANTIZED:
                why = "the classifier: a matrix-vector product gains nothing"
        elif name in free:
            why = _why_unfused(view, node)
        elif node.op_type in _POOLS and not dequantized(view, node.input[0]):
            why = "reads float"
        if why:
            yield FloatLayer(name, node.op_type, why if target.scheme is not None else "the target has no INT8")


def _why_float(view: GraphIndex, node: NodeProto, target: Target) -> str:
    data, weight = dequantized(view, node.input[0]), view.weight_dequantizer(node.input[1]) is not None
    if not data and not weight:
        return _UNQUANTIZED
    if data and weight:
        return _why_open(view, node, target)
    return "its data is float" if weight else "its weight is float"


def _why_unfused(view: GraphIndex, node: NodeProto) -> str:
    quantized = [view.pair(name) is not None for name in node.input]
    if all(quantized):
        return "both inputs are quantized: a kernel of its own where identities alone fuse"
    return "no input is quantized" if not any(quantized) else "its residual is not the output of an integer convolution"
