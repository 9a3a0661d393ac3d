"""What rounding explains of the difference between a runtime and the definition of a quantized graph.

Integer kernels round biases to int32 and scales to fixed-point numbers, so a code may differ by one where a sum lies
near a half. Later layers pass that on: a network with steep layers enlarges it without limit, and its logits alone
prove nothing. So each layer's codes are compared with those that ONNX's definition gives for the runtime's own codes
before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgeres.onnx_graph.execute import recomputed
from edgeres.onnx_graph.graph_index import COUNTED, QDQ, GraphIndex

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

_SUMMED = (*COUNTED, "Relu", "Clip", "Identity", "Flatten", "Reshape")
"""Operators that a runtime computes with the layer in one kernel, which rounds once."""

_LOGITS = 2.0**-8
"""Error of the float layers after the last codes, as a share of the largest logit."""


class LayerDifference(NamedTuple):
    """The largest difference of a layer's codes, in codes, over what rounding explains: one code, or two roundings."""

    layer: str
    codes: float
    allowed: float

    @property
    def explained(self) -> bool:
        """Whether rounding explains it."""
        return self.codes <= self.allowed


def worst_layer(
    model: ModelProto,
    images: NDArray[np.float32],
    codes: Mapping[str, NDArray[np.generic]],
    logits: NDArray[np.float32],
) -> LayerDifference:
    """The layer of a Q/DQ graph whose codes differ most, of those in a runtime for images ``[N,C,H,W]``.

    ``codes`` are the outputs of all QuantizeLinear nodes on activations in the runtime, by name, and ``logits``
    ``[N,classes]`` its answers.
    """
    view, output = GraphIndex.of(model), model.graph.output[0].name
    again = recomputed(model, images, {**codes, output: logits})
    differences = [
        LayerDifference(name, float(np.abs(again[name].astype(np.int64) - value).max()), _allowed(view, name))
        for name, value in ((name, value.astype(np.int64)) for name, value in codes.items())
    ]
    top = float(np.abs(logits).max())
    share = float(np.abs(again[output] - logits).max()) / max(top, 1e-30)
    differences.append(LayerDifference(output, share / _LOGITS, 1.0))
    return max(differences, key=lambda one: one.codes / one.allowed)


def _allowed(view: GraphIndex, name: str) -> float:
    """One code; where a pool or a product of two tensors may round to its input's step first, half of that more."""
    own = view.value(view.producers[name].input[1])
    nodes = list(_between(view, name))
    if own is None or all(node.op_type in (*_SUMMED, *QDQ) for node in nodes):
        return 1.0
    steps = [view.value(node.input[1]) for node in nodes if node.op_type in QDQ and node.output[0] != name]
    widest = max((float(step.max()) for step in steps if step is not None and step.size == 1), default=0.0)
    return 1.0 + 0.5 * widest / float(own.max())


def _between(view: GraphIndex, name: str) -> Iterator[NodeProto]:
    """Nodes from codes back to the codes before them."""
    seen, waiting = set[str](), [name]
    while waiting:
        tensor = waiting.pop()
        node = view.producer(tensor)
        if node is None or tensor in seen or (node.op_type == "QuantizeLinear" and tensor != name):
            continue
        seen.add(tensor)
        yield node
        waiting += node.input[:1] if node.op_type in QDQ else node.input
