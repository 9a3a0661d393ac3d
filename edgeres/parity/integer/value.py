"""Values of the integer reference, whole numbers with scales, or reals where there are no integers; requantization.

Tensors are channels last, ``[N,H,W,C]`` or ``[N,F]``, so that a convolution is one matrix product. Requantization is
exact (ONNX operator QuantizeLinear): ``code = saturate(round_half_to_even(value / scale) + zero_point)``. With
``value = S_1 S_2 (sum q_1 q_2) + b`` this is equation (4) of Jacob et al. 2018 (arXiv 1712.05877) with the real
multiplier ``M = S_1 S_2 / S_3`` of its equation (5). Values are first computed in float64; those within its error of a
rounding boundary are decided in rational numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edgeres.quant.qparams import QParams

    Array = NDArray[Any]
    Layout = Callable[[Array], Array]

_UNIT = 2.0**-24
"""Unit roundoff of float32."""

_SLACK = 2.0**-50
"""Error bound of float64 as a share of the largest magnitude: a few roundings of 2**-53 per term."""

_BLOCK = 1 << 15
"""Numbers per block of a requantization, so that they fit the cache."""


@dataclass(frozen=True, slots=True)
class Term:
    """``count * scale / over``.

    Attributes:
        count: Whole numbers, float32 below 2**24 or float64 below 2**53, so that each is exact.
        scale: float64, one or one per channel: a float32 number or the product of two, 48 bits, so exact.
        reach: Upper bound of the sum of magnitudes in each count, for any codes; one or one per channel.
        length: Number of products in each count; 0 where there are none.
        over: Number of averaged values.
        magnitudes: Computes the actual sum of magnitudes, of the counts' shape; the error of a float dot product is a
            share of it, even where its terms cancel. None where ``reach`` is used.
    """

    count: Array
    scale: NDArray[np.float64]
    reach: NDArray[np.float64]
    length: int = 0
    over: int = 1
    magnitudes: Callable[[], Array] | None = None

    def approximate(self) -> NDArray[np.float64]:
        """The value in float64, with two roundings."""
        return np.asarray(self.count * (self.scale / self.over), dtype=np.float64)

    def most(self) -> float:
        """Upper bound of any value's magnitude, for any codes."""
        return float(np.max(self.reach * np.abs(self.scale) / self.over))

    def magnitude(self) -> NDArray[np.float64]:
        """Sum of the magnitudes in each count."""
        summed = self.reach if self.magnitudes is None else self.magnitudes()
        return np.asarray(summed * np.abs(self.scale) / self.over, dtype=np.float64)

    def laid_out(self, change: Layout) -> Term:
        """The term with its numbers rearranged."""
        return self if self.count.ndim == 0 else replace(self, count=change(self.count), magnitudes=None)


@dataclass(frozen=True, slots=True)
class Exact:
    """A sum of terms: a dequantized tensor, a convolution of one, an average, or a sum of these."""

    terms: tuple[Term, ...]

    def approximate(self) -> NDArray[np.float64]:
        """The value in float64."""
        return np.asarray(sum(term.approximate() for term in self.terms), dtype=np.float64)

    def error(self) -> NDArray[np.float64]:
        """Error bound of computing the value in float32, in any order.

        ``gamma(n) * magnitude`` with ``gamma(n) = n u / (1 - n u)`` (Higham 2002, Accuracy and Stability of Numerical
        Algorithms, section 3.1): each product has its two factors and itself rounded, then come the additions of the
        dot product, one for each further term, and the multiplications of a kernel that scales its sums afterwards.
        """
        roundings = max(term.length for term in self.terms) + len(self.terms) + 4
        gamma = roundings * _UNIT / (1 - roundings * _UNIT)
        return np.asarray(gamma * sum(term.magnitude() for term in self.terms), dtype=np.float64)

    def laid_out(self, change: Layout) -> Exact:
        """The sum with its numbers rearranged."""
        return Exact(tuple(term.laid_out(change) for term in self.terms))


@dataclass(frozen=True, slots=True)
class Real:
    """A float64 tensor: the image, or the output of an operation without integers.

    ``share`` is the error bound of float32 as a share of the largest value.
    """

    values: NDArray[np.float64]
    share: float = 2.0**-12

    def approximate(self) -> NDArray[np.float64]:
        """The values."""
        return self.values

    def error(self) -> NDArray[np.float64]:
        """Error bound of float32."""
        return np.asarray(self.share * np.max(np.abs(self.values), initial=0.0), dtype=np.float64)

    def laid_out(self, change: Layout) -> Real:
        """The same numbers rearranged."""
        return Real(change(self.values), self.share)


Value = Exact | Real


def constant(numbers: NDArray[np.float32]) -> Term:
    """A bias ``[C]``: one, times each of its numbers."""
    return Term(np.ones(()), numbers.astype(np.float64), np.ones(()))


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
    steps = [float(round(_exact(case, terms) / Fraction(to.scale[0]))) for case in cases]  # half to even
    whole[near] = np.array(steps)[places.reshape(-1)]


def _exact(case: NDArray[np.float64], terms: tuple[Term, ...]) -> Fraction:
    """One value as a rational number."""
    pairs = zip(case[0::2], case[1::2], terms, strict=True)
    return sum((Fraction(int(n)) * Fraction(float(scale)) / term.over for n, scale, term in pairs), Fraction(0))
