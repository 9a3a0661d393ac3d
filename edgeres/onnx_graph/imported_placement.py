"""Q/DQ placement of an imported graph and NNCF's network, read from NNCF's graph under the target's scheme."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.model.network import Network
from edgeres.onnx_graph.graph_index import COMMUTING, GraphIndex
from edgeres.onnx_graph.imported_weights import loaded
from edgeres.onnx_graph.nncf import completed
from edgeres.onnx_graph.stored_weights import stored_weight
from edgeres.quant.placement import Placement
from edgeres.quant.qparams import QParams
from edgeres.quant.quant_table import QuantTable
from edgeres.quant.quantized import Quantized

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgeres.model.operation import Op
    from edgeres.model.weights import Weights
    from edgeres.onnx_graph.imported_graph import ImportedGraph
    from edgeres.onnx_graph.nncf import Images
    from edgeres.onnx_graph.rewrite import Rewritten
    from edgeres.targets.target import QuantScheme


def placement_in(graph: ImportedGraph, rewritten: Rewritten) -> Placement:
    """The placement of a Q/DQ graph with the same nodes as an imported one.

    A layer whose weights are integers there has a pair on its data too, though operators between its data and a pair
    may have left it in float.
    """
    view = GraphIndex.of(rewritten.model)
    edges: set[tuple[str, int]] = set()
    weighted: set[str] = set()
    for op in graph.ops:
        site = graph.sites[op.name]
        node = view.producers[site.node]
        for index, place in enumerate(site.data):
            pair = view.pair(node.input[place])
            if pair is not None and pair[0].input[0] == graph.tensors[op.inputs[index]]:
                edges.add((op.name, index))
        if op.kind != "operator" and view.weight_dequantizer(node.input[1]) is not None:
            weighted.add(op.name)
            edges.add((op.name, 0))
    by_name = {op.name: op for op in graph.ops}
    quantized = {by_name[name].inputs[index] for name, index in edges}
    order = (*dict.fromkeys(name for op in graph.ops[:1] for name in op.inputs), *(op.name for op in graph.ops))
    tensors = tuple(name for name in order if name in quantized)
    params = {name: rewritten.activations.get(graph.tensors[name]) for name in tensors}
    shared, joint = _shared(graph, frozenset(edges), params)
    return Placement(frozenset(edges), frozenset(weighted), tensors, shared, joint)


def _shared(
    graph: ImportedGraph, edges: frozenset[tuple[str, int]], params: Mapping[str, QParams | None]
) -> tuple[dict[str, str], frozenset[str]]:
    """Owner of the scale of every tensor that shares one, and those of them with values of their own."""
    owner = {name: name for name in params}
    moved: set[str] = set()

    def root(name: str) -> str:
        while owner[name] != name:
            name = owner[name]
        return name

    place = {name: index for index, name in enumerate(params)}
    for op in graph.ops:
        reads = [(op.name, index) in edges for index in range(len(op.inputs))]
        alike = (
            params.get(op.name) is not None and all(reads) and {params[name] for name in op.inputs} == {params[op.name]}
        )
        if not alike or op.operator not in COMMUTING or _pads_with_a_value(graph, op):
            continue
        moved.add(op.name)
        first, *others = sorted({root(name) for name in (*op.inputs, op.name)}, key=place.__getitem__)
        owner.update(dict.fromkeys(others, first))
    shared = {name: root(name) for name in params if root(name) != name}
    return shared, frozenset(name for name in shared if name not in moved)


def _pads_with_a_value(graph: ImportedGraph, op: Op) -> bool:
    if op.operator != "Pad":
        return False
    value = graph.view.value(graph.node(op).input[2]) if len(graph.node(op).input) > 2 else None
    return value is not None and bool(np.any(value))


def quantized_by_nncf(
    graph: ImportedGraph, weights: Weights, rewritten: Rewritten, scheme: QuantScheme, images: Images, *, data: str
) -> Quantized:
    """NNCF's network: its scales, its weights on their grid, and its biases.

    A tensor of the placement that has no scale there is calibrated on the images, whose digest is ``data``.
    """
    view = GraphIndex.of(rewritten.model)
    arrays: dict[str, NDArray[np.float32]] = {}
    scales: dict[str, QParams] = {}
    for op in graph.ops:
        site = graph.sites[op.name]
        for name, shape in op.parameters.items():
            key = name.removeprefix(f"{op.name}.")
            node, index = site.constants[key]
            source = view.producers[node].input[index]
            turned = key == "weight" and site.transposed
            value, dequantizer = view.value(source), view.weight_dequantizer(source)
            stored = None if dequantizer is None else stored_weight(view, dequantizer)
            if value is not None:
                arrays[name] = loaded(value, shape, transposed=turned)
            elif stored is not None and key == "weight" and op.name in graph.placement.weighted:
                codes = loaded(stored.codes, shape, transposed=turned).astype(np.int32)
                scale = np.broadcast_to(stored.scale.astype(np.float32).reshape(-1), op.c_out)
                scales[op.name] = QParams(scale=tuple(scale.tolist()), axis=0, narrow=bool(codes.min() >= -127))
                arrays[name] = scales[op.name].dequantize(codes)
    rounded = weights.replaced(arrays)
    known = {
        name: rewritten.activations[tensor] for name, tensor in graph.tensors.items() if tensor in rewritten.activations
    }
    activations, calibrator = completed(Network(graph, rounded).eval(), scheme, graph.placement, known, images)
    table = QuantTable(
        activations=activations,
        weights=dict(sorted(scales.items())),
        calibrator=calibrator,
        data=data,
        images=len(images),
        network=rounded.digest,
    )
    return Quantized(graph, rounded, table, scheme)
