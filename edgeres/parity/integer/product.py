"""Exact convolutions and matrix products of whole numbers, computed by float32 matrix products.

A float32 holds every whole number up to 2**24. Where ``255 * sum|w|`` over the terms of a dot product is below that,
every partial sum is (8-bit codes differ from their zero-point by at most 255), so the products are exact in any order
of addition, fused or not. A longer dot product is split into such pieces, whose sums are added in float64 (whole
numbers up to 2**53). float32 products are twice as fast as float64 ones, and numpy has no fast integer products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.parity.integer.value import Array

EXACT = 1 << 24
"""Whole numbers up to this are exact in float32."""

PEAK = 255
"""Largest difference of an 8-bit code from its zero-point."""

INT32 = 1 << 31
"""Magnitude at which an accumulator of an integer kernel overflows."""


@dataclass(frozen=True, slots=True)
class KernelWindow:
    """Window of a convolution or pool.

    Attributes:
        size: Height and width.
        strides: Vertical and horizontal.
        pads: Rows above, columns left, rows below, columns right.
        dilations: Vertical and horizontal.
    """

    size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    def padded(self, x: Array, filling: float) -> Array:
        """A tensor ``[N,H,W,C]`` with its padding."""
        top, left, bottom, right = self.pads
        if not any(self.pads):
            return x
        return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=filling)

    def over(self, x: Array) -> Array:
        """Windows ``[N,H',W',C,kH,kW]`` of a padded tensor, as views."""
        (high, wide), (down, across), (dy, dx) = self.size, self.strides, self.dilations
        spans = ((high - 1) * dy + 1, (wide - 1) * dx + 1)
        return sliding_window_view(x, spans, axis=(1, 2))[:, ::down, ::across, :, ::dy, ::dx]

    def patches(self, x: Array) -> Array:
        """Patches ``[N,H',W',kH*kW*C]``, padded with zeros."""
        if self.size == (1, 1) and self.strides == (1, 1):
            return self.padded(x, 0)
        seen = self.over(self.padded(x, 0)).transpose(0, 1, 2, 4, 5, 3)
        return seen.reshape(*seen.shape[:3], -1)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A weight laid out for exact products.

    Attributes:
        groups: float32 ``[kH*kW*I,O]`` for each group.
        window: Window of a convolution; None for a matrix product.
        cuts: Pieces of the dot products that float32 sums exactly, for each group.
    """

    groups: tuple[NDArray[np.float32], ...]
    window: KernelWindow | None
    cuts: tuple[tuple[tuple[int, int], ...], ...]

    @classmethod
    def of(cls, codes: Array, window: KernelWindow | None, groups: int = 1) -> Kernel:
        """Lays out weight codes ``[O,I,kH,kW]``, or ``[O,I]`` of a matrix product."""
        parts = np.split(codes.astype(np.float32), groups)
        if window is not None:
            parts = [part.transpose(2, 3, 1, 0).reshape(-1, len(part)) for part in parts]
        else:
            parts = [part.T for part in parts]
        made = tuple(np.ascontiguousarray(part) for part in parts)
        return cls(made, window, tuple(pieces(part) for part in made))

    @property
    def length(self) -> int:
        """Number of terms of a dot product."""
        return len(self.groups[0])

    @property
    def reach(self) -> NDArray[np.float64]:
        """Upper bound of the sum of magnitudes in a dot product of codes, ``[O]``."""
        return PEAK * np.concatenate([np.abs(part).sum(axis=0, dtype=np.float64) for part in self.groups])

    def magnitudes(self, x: Array) -> Array:
        """Sums of the magnitudes of the products, of the accumulators' shape."""
        return replace(self, groups=tuple(np.abs(part) for part in self.groups))(np.abs(x))

    def __call__(self, x: Array) -> Array:
        """Accumulators ``[N,H',W',O]`` of whole numbers ``[N,H,W,C]``, or ``[N,O]`` of ``[N,I]``, each exact.

        Args:
            x: Whole numbers up to ``PEAK``.
        """
        found = []
        given = np.split(x.astype(np.float32, copy=False), len(self.groups), axis=-1)
        for part, cuts, channels in zip(self.groups, self.cuts, given, strict=True):
            seen = channels if self.window is None else self.window.patches(channels)
            sums = _product(seen.reshape(-1, seen.shape[-1]), part, cuts)
            found.append(sums.reshape(*seen.shape[:-1], part.shape[1]))
        return found[0] if len(found) == 1 else np.concatenate(found, axis=-1)


def _product(rows: NDArray[np.float32], weight: NDArray[np.float32], cuts: tuple[tuple[int, int], ...]) -> Array:
    """``rows @ weight``, exactly; float32 where one piece is enough."""
    if len(cuts) == 1:
        return rows @ weight
    total = np.zeros((len(rows), weight.shape[1]))
    for start, end in cuts:
        total += rows[:, start:end] @ weight[start:end]
    return total


def pieces(weight: NDArray[np.float32]) -> tuple[tuple[int, int], ...]:
    """Ranges of a dot product that float32 sums exactly: ``255 * sum|w|`` of each is at most 2**24."""
    ends = np.cumsum(np.abs(weight), axis=0, dtype=np.float64)
    cuts, start = [], 0
    while start < len(weight):
        fits = np.asarray((PEAK * (ends[start:] - (ends[start - 1] if start else 0.0)) <= EXACT).all(axis=1))
        length = len(fits) if fits.all() else int(np.argmin(fits))
        assert length, "a product of 8-bit codes is below 2**16"
        cuts.append((start, start + length))
        start += length
    return tuple(cuts)
