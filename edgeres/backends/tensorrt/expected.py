"""Expected integer kernels of a TensorRT engine, from the Q/DQ pairs of the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.artifacts.artifact import KernelCounts

if TYPE_CHECKING:
    from pathlib import Path


def expected_kernels(model: Path, why: str) -> KernelCounts:
    """Weighted layers whose data and weight both come from DequantizeLinear.

    Only those run in integers, except 4-bit weights, which TensorRT computes in float; an add is fused into the
    convolution before it where its other input, the identity, is dequantized too (TensorRT developer guide, Q/DQ
    layer-placement recommendations and "INT4 weight-only quantization").

    Args:
        model: The ONNX file.
        why: Why the runtime itself cannot report them.
    """
    import onnx

    from edgeres.onnx_graph.graph_index import COUNTED

    graph = onnx.load(model, load_external_data=False).graph
    nodes = graph.node
    narrow = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT4}
    dequantized = {
        node.output[0] for node in nodes if node.op_type == "DequantizeLinear" and node.input[0] not in narrow
    }
    weighted = [node for node in nodes if node.op_type in COUNTED]
    integer = sum(dequantized.issuperset(node.input[:2]) for node in weighted)
    adds = [node for node in nodes if node.op_type == "Add"]
    fused = sum(not dequantized.isdisjoint(node.input) for node in adds)
    how = f"expected from the graph, {fused} of {len(adds)} residual adds among them; {why}"
    return KernelCounts(integer=integer, weighted=len(weighted), counts={}, how=how)
