"""Values of the integer reference: whole numbers with scales, or reals where there are no integers.

Tensors are channels last, ``[N,H,W,C]`` or ``[N,F]``, so that a convolution is one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Layout = Callable[[Array], Array]

UNIT = 2.0**-24
"""Unit roundoff of float32."""


@dataclass(frozen=True, slots=True)
class Term:
    """``count * scale / over``.

    Attributes:
        count: Whole numbers, float32 below 2**24 or float64 below 2**53, so that each is exact.
        scale: float64, one or one per channel: a float32 number or the product of two, 48 bits, so exact.
        reach: Upper bound of the sum of magnitudes in each count, for any codes; one or one per
            channel.
        magnitudes: Computes the actual sum of magnitudes, of the counts' shape; the error of a float dot product is a
            share of it, even where its terms cancel. None where ``reach`` is used.
        length: Number of products in each count; 0 where there are none.
        over: Number of averaged values.
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
        gamma = roundings * UNIT / (1 - roundings * UNIT)
        return np.asarray(gamma * sum(term.magnitude() for term in self.terms), dtype=np.float64)

    def laid_out(self, change: Layout) -> Exact:
        """The sum with its numbers rearranged."""
        return Exact(tuple(term.laid_out(change) for term in self.terms))


@dataclass(frozen=True, slots=True)
class Real:
    """A tensor computed in float64: the image, or the output of an operation without integers.

    Attributes:
        values: float64.
        share: Error bound of float32 as a share of the largest value.
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
