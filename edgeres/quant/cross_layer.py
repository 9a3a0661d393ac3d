"""Cross-layer equalization: like ranges for the weights before and behind a channel, without data.

Nagel et al. 2019 (arXiv 1906.04721, equation 11): a channel whose maker has the range ``r1`` (largest ``|W|`` of its
row) and whose reader has ``r2`` (of its column) is divided by

    s = sqrt(r1 r2) / r2

after which both ranges are ``sqrt(r1 r2)``. A unit of ``edgeres.quant.rescale`` with several makers or readers has the
largest of their ranges. It matters where one scale covers a whole weight tensor; where each output channel has its own,
``r1`` costs nothing, and activations are the better measure (``edgeres.quant.balance``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.model.graph import graph
from edgeres.quant.rescale import FIXED, channel_units, tensor_scales

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.model.graph import Op
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights
    from edgeres.quant.rescale import Units

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

_SWEEPS = 50
_ENOUGH = 1e-4
"""A sweep that moves no logarithm of a scale by more than this was the last."""


def cross_layer_scales(spec: ResNetSpec, weights: Weights) -> dict[str, Floats]:
    """The scale ``[C]`` of every tensor's channels for which makers and readers have like ranges.

    Groups of units are levelled one after the other, again and again until nothing moves, since what one group does to
    its readers changes the ranges of the next. Channels without a maker or a reader that is alive stay.

    Args:
        spec: The folded network.
        weights: Its weights.
    """
    units = channel_units(spec)
    layers = [_Layer(op, weights, units) for op in graph(spec).weighted]
    groups = [np.flatnonzero(units.group == root) for root in np.unique(units.group) if root != FIXED]
    logs = np.zeros(units.count)
    for _ in range(_SWEEPS):
        moved = 0.0
        for group in groups:
            mine = [layer for layer in layers if layer.touches(group)]
            made, read = np.zeros(units.count), np.zeros(units.count)
            for layer in mine:
                layer.add_ranges(np.exp(logs), made, read)
            alive = group[(made[group] > 0) & (read[group] > 0)]
            change = np.log(made[alive] / read[alive]) / 2
            logs[alive] += change
            moved = max(moved, float(np.abs(change).max(initial=0.0)))
        if moved < _ENOUGH:
            break
    return tensor_scales(units, np.exp(logs))


class _Layer:
    """Largest magnitudes ``[groups, C_out / groups, C_in / groups]`` of one layer's kernels, and the units they tie."""

    def __init__(self, op: Op, weights: Weights, units: Units) -> None:
        shape = op.groups, op.c_out // op.groups, op.c_in // op.groups
        weight = np.abs(weights[f"{op.name}.weight"].astype(np.float64))
        self._peaks: Floats = weight.reshape(*shape, -1).max(axis=3)
        self._made: Ints = units.of[op.name].reshape(*shape[:2], 1)
        self._read: Ints = units.of[op.inputs[0]].reshape(shape[0], 1, shape[2])

    def touches(self, group: Ints) -> bool:
        """Whether the layer makes or reads one of these units."""
        return bool(np.isin(self._made, group).any() or np.isin(self._read, group).any())

    def add_ranges(self, scales: Floats, made: Floats, read: Floats) -> None:
        """Raises the ranges ``[units]`` of rows and columns to those of this layer."""
        peaks = self._peaks * scales[self._read] / scales[self._made]
        np.maximum.at(made, self._made.ravel(), peaks.max(axis=2).ravel())
        np.maximum.at(read, self._read.ravel(), peaks.max(axis=1).ravel())
