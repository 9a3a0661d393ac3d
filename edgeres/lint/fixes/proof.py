"""Numerical check of a rewrite on random images: every shared tensor, computed from the original's values.

Each shared tensor of the rewritten graph is computed from the *original's* values of the shared tensors before it, by
unoptimised ONNX Runtime. A difference is therefore that of one rewrite and does not accumulate: it is zero, or at most
the step of a quantizer between those tensors, or the rewrite is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from onnx import TensorProto

from edgeres.lint.facts import element_types
from edgeres.onnx_graph.execute import recomputed, trace
from edgeres.onnx_graph.graph_index import QDQ, GraphIndex, attribute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

_NOISE = 1e-6
"""Largest ``max|delta| / max|value|`` that is float32 rounding."""

_SLACK = 1.001
"""Relative tolerance of a step, for float32 division."""

_EIGHT_BITS = (TensorProto.INT8, TensorProto.UINT8)

Relation = Literal["equal", "one step", "half", "different"]
_EQUAL: Relation = "equal"


@dataclass(frozen=True, slots=True)
class Proof:
    """Result of comparing two graphs.

    ``steps`` is the largest difference, at tensor ``where``, in steps of the quantizers around it; for ``half`` (FP16
    rounding) in shares of the allowed rounding. ``tensors`` is the number of compared tensors.
    """

    relation: Relation
    steps: float
    where: str
    tensors: int

    @property
    def holds(self) -> bool:
        """Whether the function is unchanged."""
        return self.relation != "different"


def prove(before: ModelProto, after: ModelProto, images: NDArray[np.float32], rounding: float = 0.0) -> Proof:
    """Compares a graph with its rewrite on images float32 ``[N,C,H,W]``.

    ``rounding`` is the error of other float types as a share of a tensor's range; 0 where types are unchanged.
    """
    views = GraphIndex.of(before), GraphIndex.of(after)
    names = _shared(*views)
    shared = frozenset(names)
    original = trace(before, images, names)
    rewritten = recomputed(after, images, {name: original[name] for name in names})
    worst, where, relation = 0.0, names[-1] if names else "", _EQUAL
    for name in names:
        steps, kind = _compared(name, views, shared, (original[name], rewritten[name]), rounding)
        if steps > worst or (kind == "different" and relation != "different"):
            worst, where = steps, name
        if kind != "equal" and relation != "different":
            relation = kind
    return Proof(relation, worst, where, len(names))


def _shared(before: GraphIndex, after: GraphIndex) -> list[str]:
    """Float tensors that both compute, and codes of fused integer operators, in execution order."""
    kinds = element_types(before), element_types(after)
    computed = {name for node in after.nodes for name in node.output}
    shared = []
    for node in before.nodes:
        for name in filter(None, node.output):
            kind = kinds[0].get(name)
            fused = kind in _EIGHT_BITS and node.op_type not in QDQ
            if name in computed and kind == kinds[1].get(name) and (kind == TensorProto.FLOAT or fused):
                shared.append(name)
    return shared


def _compared(
    name: str,
    views: tuple[GraphIndex, GraphIndex],
    shared: frozenset[str],
    values: tuple[NDArray[np.float32], NDArray[np.float32]],
    rounding: float,
) -> tuple[float, Relation]:
    """Largest difference in allowed steps, and its relation."""
    before, after = values
    if before.shape != after.shape:
        return float("inf"), "different"
    exact = before.astype(np.float64)
    delta = np.abs(after.astype(np.float64) - exact)
    if not np.isfinite(delta).all():
        return float("inf"), "different"
    top = float(np.max(np.abs(exact), initial=0.0))
    if float(np.max(delta, initial=0.0)) <= _NOISE * top:
        return 0.0, "equal"
    step = np.ones(()) if before.dtype in (np.int8, np.uint8) else _step(name, views, shared - {name}, before.ndim)
    allowed = np.maximum(step, rounding * top)
    if not np.all(allowed > 0):
        return float("inf"), "different"
    steps = float(np.max(delta / allowed))
    kind: Relation = "half" if rounding and float(np.max(step)) == 0 else "one step"
    return steps, kind if steps <= _SLACK else "different"


def _step(name: str, views: tuple[GraphIndex, GraphIndex], shared: frozenset[str], rank: int) -> NDArray[np.float64]:
    """The largest quantization step between a tensor and the shared ones before it, in either graph."""
    steps: list[NDArray[np.float64]] = [np.zeros(())]
    for node, scale in ((node, view.value(node.input[1])) for view in views for node in _between(view, name, shared)):
        if scale is None:
            continue
        exact = scale.astype(np.float64)
        axis = attribute(node, "axis", 1) % max(rank, 1)
        own = node.output[0] == name and exact.size > 1
        shape = [-1 if place == axis else 1 for place in range(rank)]
        steps.append(exact.reshape(shape) if own else np.asarray(np.max(exact)))
    return np.asarray(max(steps, key=np.size) if any(step.size > 1 for step in steps) else max(steps))


def _between(view: GraphIndex, name: str, shared: frozenset[str]) -> Iterator[NodeProto]:
    """Q/DQ nodes from a tensor back to the shared ones."""
    seen, waiting = set[str](), [name]
    while waiting:
        tensor = waiting.pop()
        node = view.producer(tensor)
        if node is None or tensor in seen or tensor in shared:
            continue
        seen.add(tensor)
        if node.op_type in QDQ:
            yield node
        waiting += node.input[:1] if node.op_type in QDQ else node.input
