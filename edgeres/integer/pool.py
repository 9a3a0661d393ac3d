"""Pools of tensors ``[N,H,W,C]``, of codes or of values alike."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgeres.errors import ModelError
from edgeres.integer.value import Exact, Real, Term

if TYPE_CHECKING:
    from edgeres.integer.product import Window
    from edgeres.integer.value import Array, Value


def largest(x: Array, window: Window, filling: float) -> Array:
    """The largest number in each window ``[N,H',W',C]``; ``filling`` stands beyond the edge and must not win."""
    if window.size == (1, 1):
        return x[:, :: window.strides[0], :: window.strides[1]]
    seen = window.over(window.padded(x, filling))
    rows, columns = window.size
    found = seen[..., 0, 0].copy()
    for place in range(1, rows * columns):
        np.maximum(found, seen[..., place // columns, place % columns], out=found)
    return found


def average(value: Value, window: Window | None) -> Value:
    """The average of each window, or of all there is; sums of whole numbers stay whole.

    Raises:
        ModelError: Windows of padding: how many numbers an average is of would differ from place to place.
    """
    if window is not None and any(window.pads):
        raise ModelError("an average pool with padding", "pad in a node of its own")
    if isinstance(value, Real):
        sums, over = _sums(value.values, window)
        return Real(sums / over, value.share)
    return Exact(tuple(_averaged(term, window) for term in value.terms))


def _averaged(term: Term, window: Window | None) -> Term:
    if term.count.ndim == 0:
        return term
    sums, over = _sums(term.count.astype(np.float64), window)
    # Each of the numbers has been rounded itself, so the additions come on top of its own.
    return replace(
        term, count=sums, over=term.over * over, reach=term.reach * over, length=term.length + over, magnitudes=None
    )


def _sums(x: Array, window: Window | None) -> tuple[Array, int]:
    if window is None:
        return x.sum(axis=(1, 2), keepdims=True), x.shape[1] * x.shape[2]
    return window.over(x).sum(axis=(4, 5)), prod(window.size)
