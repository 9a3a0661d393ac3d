"""Requantization by exact arithmetic: codes int8 or uint8 of a value.

``code = saturate(round_half_to_even(value / scale) + zero_point)`` (ONNX operator QuantizeLinear). With
``value = S_1 S_2 (sum q_1 q_2) + b`` this is equation (4) of Jacob et al. 2018 (arXiv 1712.05877) with the real
multiplier ``M = S_1 S_2 / S_3`` of its equation (5).

Values are first computed in float64; those within its error of a rounding boundary are decided in rational numbers.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from edgeres.parity.integer.value import Real

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.parity.integer.value import Array, Term, Value
    from edgeres.quant.qparams import QParams

_SLACK = 2.0**-50
"""Error bound of float64 as a share of the largest magnitude: a few roundings of 2**-53 per term."""

_BLOCK = 1 << 15
"""Numbers per block, so that they fit the cache."""


def requantize(value: Value, to: QParams) -> Array:
    """Codes of a value, int8 or uint8; no code of an ``Exact`` value depends on float64 rounding."""
    if isinstance(value, Real):
        return _saturated(np.rint(value.values / to.scale[0]), to)
    shape = np.broadcast_shapes(*(term.count.shape for term in value.terms))
    channels = shape[-1]
    rows = [np.broadcast_to(term.count, shape).reshape(-1, channels) for term in value.terms]
    factors = [term.scale / (term.over * to.scale[0]) for term in value.terms]
    slack = _SLACK * (sum(term.most() for term in value.terms) / to.scale[0] + 1)
    codes = np.empty((len(rows[0]), channels), np.int8 if to.signed else np.uint8)
    size = max(1, _BLOCK // channels)
    for start in range(0, len(codes), size):
        part = [row[start : start + size] for row in rows]
        steps = np.asarray(sum(count * factor for count, factor in zip(part, factors, strict=True)))
        whole = np.rint(steps)
        near = np.abs(np.subtract(steps, whole, out=steps), out=steps) >= 0.5 - slack
        if near.any():
            _decide(whole, near, part, value.terms, to)
        codes[start : start + size] = _saturated(whole, to)
    return codes.reshape(shape)


def _saturated(steps: NDArray[np.float64], to: QParams) -> Array:
    """Codes of whole numbers of steps."""
    return np.clip(steps + to.zero_point, to.low, to.high).astype(np.int8 if to.signed else np.uint8)


def _decide(
    whole: NDArray[np.float64], near: NDArray[np.bool_], counts: list[Array], terms: tuple[Term, ...], to: QParams
) -> None:
    """Corrects values near a rounding boundary in place, each distinct case once."""
    near &= (whole >= to.low - to.zero_point - 1) & (whole <= to.high - to.zero_point + 1)  # others saturate
    columns: list[Array] = []
    for count, term in zip(counts, terms, strict=True):
        columns += [count[near].astype(np.float64), np.broadcast_to(term.scale, near.shape)[near]]
    cases, places = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    found = [float(round(_exact(case, terms) / Fraction(to.scale[0]))) for case in cases]  # half to even
    whole[near] = np.array(found)[places.reshape(-1)]


def _exact(case: NDArray[np.float64], terms: tuple[Term, ...]) -> Fraction:
    """One value as a rational number."""
    pairs = zip(case[0::2], case[1::2], terms, strict=True)
    return sum((Fraction(int(n)) * Fraction(float(scale)) / term.over for n, scale, term in pairs), Fraction(0))
