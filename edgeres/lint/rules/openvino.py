"""Rules for integer execution of a Q/DQ graph in OpenVINO's CPU plugin.

Source: docs.openvino.ai, low precision transformations; each rule was confirmed by the runtime precisions of compiled
graphs (OpenVINO 2026.4), which a test repeats.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgeres.lint.facts import has_zero_point, quantized_weights
from edgeres.lint.families import OPENVINO
from edgeres.lint.rule import LAST, Defect, Version, rule
from edgeres.lint.rules import tensorrt_nodes as nodes
from edgeres.lint.rules import tensorrt_placement as placement
from edgeres.onnx_graph.graph_index import GraphIndex, label
from edgeres.onnx_graph.roles import classifier

if TYPE_CHECKING:
    from collections.abc import Iterator

TRANSFORMATIONS = "docs.openvino.ai, low precision transformations"

SHARED = tuple(
    replace(shared, family=OPENVINO, source=TRANSFORMATIONS)
    for shared in (nodes.positive, nodes.equal_volumes, nodes.channel_count)
)


@rule(OPENVINO, "V01", "W", "quantize weights symmetrically", TRANSFORMATIONS)
def symmetric_weights(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Weights have the zero-point 0."""
    for node, dequantizer in quantized_weights(view):
        zeros = view.value(dequantizer.input[2]) if has_zero_point(dequantizer) else None
        if zeros is not None and np.any(zeros.astype(np.float64)):
            yield label(node), "its weight has a zero-point: it runs in float"


per_tensor_activations = replace(
    nodes.per_tensor_activations, id="V02", family=OPENVINO, severity="W", source=TRANSFORMATIONS, warns_from=LAST
)


@rule(OPENVINO, "V03", "W", "quantize data and weight, or neither", TRANSFORMATIONS)
def all_inputs(view: GraphIndex, version: Version) -> Iterator[Defect]:
    """Weighted operators have all inputs quantized; a classifier may stay in float behind a quantized pool."""
    last = classifier(view)
    for where, what in placement.all_inputs.check(view, version):
        if last is None or where != label(last):
            yield where, what
