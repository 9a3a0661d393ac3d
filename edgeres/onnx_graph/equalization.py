"""Equalization of an imported float graph, with a check that its function is unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgeres.onnx_graph.channels import channel_units, kernel, rescaled, weighted
from edgeres.onnx_graph.execute import channel_peaks, probe, relative_delta, runner
from edgeres.onnx_graph.fold import TOLERANCE
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.onnx_graph.operator_counts import tensor_shapes
from edgeres.onnx_graph.read import infer
from edgeres.quant.algorithms.channel_scaling import FIXED
from edgeres.quant.algorithms.cross_layer_equalization import Carried, Reading, cross_layer_scales

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.quant.algorithms.channel_scaling import Units

_PROBES = 2


class Equalized(NamedTuple):
    """An equalized graph.

    Attributes:
        channels: Number of scaled channels, each counted once however many tensors carry it.
        most: Largest ratio of scales between two channels of one tensor.
        relative: ``max|delta logit| / max|logit|`` against the original graph, on random images.
    """

    model: ModelProto
    channels: int
    most: float
    relative: float


def equalized(
    model: ModelProto,
    batches: Iterable[NDArray[np.float32]],
    float_nodes: Collection[str],
    advance: Callable[[int], None],
) -> Equalized | str:
    """The graph with channels divided by the scales of ``cross_layer_equalization``, or why it cannot be scaled.

    ``model`` is a folded float graph of fixed image size, ``batches`` are calibration images ``[1,C,H,W]``.

    Raises:
        ModelError: Shapes cannot be inferred.
        StageError: There is no image, or an output is not finite.
    """
    view, shapes, units = GraphIndex.of(model), tensor_shapes(model), channel_units(model)
    layers = [node for node in view.nodes if weighted(view, node, shapes) and node.name not in float_nodes]
    tensors = list(dict.fromkeys(name for node in (*layers, *view.of_type("Add")) for name in node.input[:2]))
    carried = [name for name in tensors if np.any(units.of.get(name, np.zeros(0)) != FIXED)]
    if not any(np.any(units.of[node.input[0]] != FIXED) for node in layers):
        return "no channel can be scaled: what stands between layers is not homogeneous, such as SiLU or a Clip at 6"
    peaks = channel_peaks(model, batches, carried, advance)
    scales = cross_layer_scales(
        units,
        [Carried(units.of[name], peaks[name]) for name in carried],
        [_reading(view, node, units) for node in layers],
    )
    scaled = infer(rescaled(model, scales))
    images = probe(model, _PROBES)
    relative = relative_delta(runner(model)(images), runner(scaled)(images))
    if not relative <= TOLERANCE:
        return f"scaling channels would change the logits by {relative:.1e} of their range: float32 does not hold it"
    free = np.unique(np.concatenate([units.of[name] for name in carried]))
    most = max(float(np.ptp(np.log(scales[name]))) for name in carried)
    return Equalized(scaled, int((free != FIXED).sum()), float(np.exp(most)), relative)


def _reading(view: GraphIndex, node: NodeProto, units: Units) -> Reading:
    weight = view.value(node.input[1])
    assert weight is not None, "asked only of weights that are constants"
    parts = np.abs(kernel(node, weight)).max(axis=3)
    return Reading(units.of[node.input[0]].reshape(len(parts), -1), parts)
