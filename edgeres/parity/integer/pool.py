"""Pools of tensors ``[N,H,W,C]``, of codes or of values."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgeres.errors import ModelError
from edgeres.onnx_graph.graph_index import label
from edgeres.parity.integer.constants import window
from edgeres.parity.integer.value import Exact, Real, Term

if TYPE_CHECKING:
    from onnx import NodeProto

    from edgeres.parity.integer.product import KernelWindow
    from edgeres.parity.integer.value import Array, Value

POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool"})


def pooled(node: NodeProto) -> KernelWindow | None:
    """Window of a pool; None for a global pool.

    Raises:
        ModelError: It rounds its size up, leaves its padding to the runtime, or averages padding, so that the number of
            averaged values would vary.
    """
    if node.op_type == "GlobalAveragePool":
        return None
    found = window(node)
    if node.op_type == "AveragePool" and any(found.pads):
        raise ModelError(f"node {label(node)!r} averages padding", "pad in a node of its own")
    return found


def largest(x: Array, look: KernelWindow, filling: float) -> Array:
    """Maximum of each window ``[N,H',W',C]``; ``filling`` pads the border and must be below all values."""
    if look.size == (1, 1):
        return x[:, :: look.strides[0], :: look.strides[1]]
    seen = look.over(look.padded(x, filling))
    rows, columns = look.size
    found = seen[..., 0, 0].copy()
    for place in range(1, rows * columns):
        np.maximum(found, seen[..., place // columns, place % columns], out=found)
    return found


def average(value: Value, look: KernelWindow | None) -> Value:
    """Average of each window without padding, or of the whole image; sums of whole numbers remain whole."""
    if isinstance(value, Real):
        sums, over = _sums(value.values, look)
        return Real(sums / over, value.share)
    return Exact(tuple(_averaged(term, look) for term in value.terms))


def _averaged(term: Term, look: KernelWindow | None) -> Term:
    if term.count.ndim == 0:
        return term
    sums, over = _sums(term.count.astype(np.float64), look)
    # Each of the numbers has a rounding error itself, to which the additions add theirs.
    return replace(
        term, count=sums, over=term.over * over, reach=term.reach * over, length=term.length + over, magnitudes=None
    )


def _sums(x: Array, look: KernelWindow | None) -> tuple[Array, int]:
    if look is None:
        return x.sum(axis=(1, 2), keepdims=True), x.shape[1] * x.shape[2]
    return look.over(x).sum(axis=(4, 5)), prod(look.size)
