"""Cross-layer equalization: channel scales that balance the ranges of activations and of the weights that read them.

Dividing channel ``c`` by ``s_c`` and multiplying the weights that read it by ``s_c`` preserves the function (Nagel et
al. 2019, arXiv 1906.04721, section 4.1). Where each output channel has a weight scale of its own, scaling the producer
is free, and the range of the activation is balanced against that of the weights that read it, as in SmoothQuant with an
exponent of 1/2 (Xiao et al. 2022, arXiv 2211.10438, equation 4):

    s_c = sqrt(a_c / w_c),    a_c = max_t peak_tc / max_c' peak_tc',    w_c = max_o |W_oc| / max_c' |W_oc'|

with ``t`` the quantized tensors that carry the channel and ``o`` the output channels that read it. The result does not
depend on earlier channel scaling that preserved the function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeres.quant.algorithms.channel_scaling import FIXED, tensor_scales

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeres.quant.algorithms.channel_scaling import Units

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

_SWEEPS = 50

_ENOUGH = 1e-4  # the iteration ends once no logarithm of a scale changes by more than this
_LEAST = 2.0**-24  # lower bound of a channel's share of its tensor's or row's largest, for dead channels


@dataclass(frozen=True, slots=True)
class Carried:
    """Channels of one quantized tensor: unit ``[C]`` and range ``[C]`` over calibration images of each."""

    units: Ints
    peaks: Floats

    def shares(self, scales: Floats) -> Floats:
        """Ranges ``[C]`` under given scales ``[units]``, as shares of the largest."""
        ranges = self.peaks / scales[self.units]
        return np.asarray(ranges / max(float(ranges.max()), np.finfo(np.float64).tiny))


@dataclass(frozen=True, slots=True)
class Reading:
    """Weights that read channels: units ``[groups, I]`` of the inputs, largest magnitudes ``[groups, O, I]``."""

    units: Ints
    peaks: Floats

    def shares(self, scales: Floats) -> Floats:
        """Largest share ``[groups, I]`` of a row's range by channel, under given scales ``[units]``."""
        ranges = self.peaks * scales[self.units][:, None, :]
        rows = np.maximum(ranges.max(axis=2, keepdims=True), np.finfo(np.float64).tiny)
        return np.asarray((ranges / rows).max(axis=1))


def cross_layer_scales(units: Units, carried: Sequence[Carried], readings: Sequence[Reading]) -> dict[str, Floats]:
    """Scale ``[C]`` of every tensor's channels that balances both ranges of each unit.

    Fixed-point iteration over groups of units, since scaling one changes its readers' rows and so the shares of others.
    Units that no quantized tensor carries, that no weight reads, or that are dead are unchanged. ``carried`` are the
    tensors with a scale for all channels, ``readings`` the layers with integer weights.
    """
    logs = np.zeros(units.count)
    for _ in range(_SWEEPS):
        change = _change(units, carried, readings, np.exp(logs))
        logs += change
        if float(np.abs(change).max()) < _ENOUGH:
            break
    return tensor_scales(units, np.exp(logs))


def _change(units: Units, carried: Sequence[Carried], readings: Sequence[Reading], scales: Floats) -> Floats:
    """Change of the logarithms of the scales ``[units]`` in one iteration."""
    written, read = np.zeros(units.count), np.zeros(units.count)
    for tensor in carried:
        np.maximum.at(written, tensor.units, tensor.shares(scales))
    for layer in readings:
        np.maximum.at(read, layer.units.ravel(), layer.shares(scales).ravel())
    alive = (written > 0) & (read > 0)
    alive[FIXED] = False
    ratio = np.maximum(written, _LEAST) / np.maximum(read, _LEAST)
    change = np.where(alive, np.log(ratio) / 2, 0.0)
    sums, counts = (np.bincount(units.group, part, minlength=units.count) for part in (change, alive.astype(float)))
    return np.asarray(np.where(alive, change - (sums / np.maximum(counts, 1))[units.group], 0.0))
