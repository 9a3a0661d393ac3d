"""Integer coverage of a graph: layers in integers, layers in float with the reason, and the expected counts.

The expected number of activation quantizers follows from the placement that TensorRT fuses (its developer guide, "Q/DQ
layer-placement recommendations"): one for each distinct tensor that an integer convolution reads, and one for each
identity of a residual add that is none of those. For ResNet-18/34/50/101/152 that is 20/36/53/104/155.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeres.lint.facts import weight_dequantizer, weighted_nodes
from edgeres.lint.rules.tensorrt_placement import dequantized
from edgeres.onnx_graph.graph_index import GraphIndex, label
from edgeres.onnx_graph.roles import classifier, pooled_convolutions, residual_adds

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edgeres.targets.target import Target

_INTEGER = ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger")
_POOLS = ("AveragePool", "GlobalAveragePool", "ReduceMean")


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
        quantizers: Number of QuantizeLinear nodes on activations.
        tensors: Number of distinct tensors they quantize.
        repeated: Number of tensors quantized more than once.
        expected_quantizers: Expected number of quantizers; None where the target's scheme is not TensorRT's.
        weights: Number of weighted nodes with an integer weight.
        weighted: Number of convolutions and matrix products.
        fused_kernels: Number of weighted nodes with integer data and weight, one kernel each with their activation.
        fused_adds: Number of residual adds fused into the convolution before them.
        adds: Number of residual adds.
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
    read = Counter(node.input[0] for node in view.of_type("QuantizeLinear") if node.input[0] not in view.constants)
    weighted = (*weighted_nodes(view), *view.of_type(*_INTEGER))
    integer = {label(node) for node in weighted if _is_integer(view, node)}
    adds = residual_adds(view)
    fused = tuple(add for add in adds if _fuses(view, add.identity_tensor, add.residual_tensor, integer))
    free = {label(add.node) for add in adds} - {label(add.node) for add in fused}
    return IntegerCoverage(
        quantizers=read.total(),
        tensors=len(read),
        repeated=tuple(name for name, count in read.items() if count > 1),
        expected_quantizers=_expected(view, target),
        weights=sum(_has_integer_weight(view, node) for node in weighted),
        weighted=len(weighted),
        fused_kernels=len(integer),
        fused_adds=len(fused),
        adds=len(adds),
        in_float=tuple(_left(view, target, integer, free)),
    )


def _is_integer(view: GraphIndex, node: NodeProto) -> bool:
    if node.op_type in _INTEGER:
        return True
    return weight_dequantizer(view, node) is not None and dequantized(view, node.input[0])


def _has_integer_weight(view: GraphIndex, node: NodeProto) -> bool:
    return node.op_type in _INTEGER or weight_dequantizer(view, node) is not None


def _fuses(view: GraphIndex, identity: str, residual: str, integer: set[str]) -> bool:
    maker = view.producer(residual, "Conv")
    return maker is not None and label(maker) in integer and dequantized(view, identity)


def _expected(view: GraphIndex, target: Target) -> int | None:
    """Distinct data tensors of the convolutions to be quantized, and identities that are none of them."""
    scheme = target.scheme
    if scheme is None or scheme.add_inputs != "identity" or scheme.pools:
        return None
    kept = {label(node) for node in pooled_convolutions(view)}
    data = {view.origin(node.input[0]) for node in view.of_type("Conv") if label(node) not in kept}
    identities = {view.origin(add.identity_tensor) for add in residual_adds(view)}
    return len(data | identities)


def _left(view: GraphIndex, target: Target, integer: set[str], free: set[str]) -> list[FloatLayer]:
    last, pooled = classifier(view), {label(node) for node in pooled_convolutions(view)}
    found = []
    for node in view.nodes:
        name = label(node)
        if node in weighted_nodes(view) and name not in integer:
            why = _why(view, node)
            if last is not None and name == label(last):
                why = "the classifier: a matrix-vector product gains nothing" if _plain(view, node) else why
            elif name in pooled:
                why = "behind a global pool: a matrix-vector product gains nothing"
            found.append(FloatLayer(name, node.op_type, why))
        elif name in free:
            found.append(FloatLayer(name, "Add", _why_free(view, node)))
        elif node.op_type in _POOLS and not all(dequantized(view, entry) for entry in node.input[:1]):
            found.append(FloatLayer(name, node.op_type, "reads float"))
    return found if target.scheme is not None else [
        FloatLayer(entry.node, entry.kind, "the target has no INT8") for entry in found
    ]  # fmt: skip


def _plain(view: GraphIndex, node: NodeProto) -> bool:
    return weight_dequantizer(view, node) is None and not dequantized(view, node.input[0])


def _why(view: GraphIndex, node: NodeProto) -> str:
    data, weight = dequantized(view, node.input[0]), weight_dequantizer(view, node) is not None
    if not data and not weight:
        return "neither data nor weight is quantized"
    return "its data is float" if weight else "its weight is float"


def _why_free(view: GraphIndex, node: NodeProto) -> str:
    behind = [view.pair(name) is not None for name in node.input]
    if all(behind):
        return "both inputs are quantized: a kernel of its own where identities alone fuse"
    return "no input is quantized" if not any(behind) else "its residual is not the output of an integer convolution"
