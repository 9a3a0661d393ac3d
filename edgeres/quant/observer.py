"""``observe``: one pass over the calibration images, one histogram per tensor, in memory independent of their number.

Every image goes through the network alone, on one thread (``edgeres.quant.streaming``), and counts are added up as
integers, so the histograms are the same to the last bit for any batch size, order and number of shards and threads.
"""

from __future__ import annotations

import copy
import math
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgeres.errors import StageError, nearest
from edgeres.model.operation import IMAGE
from edgeres.quant.histogram import BINS, BITS, FINEST, Histogram, coarsened, exact_units, grid_exponent
from edgeres.quant.streaming import laid_out, prepared, spread, threads_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.model.network import Network
    from edgeres.progress import Advance
    from edgeres.quant.histogram import Counts


class Binner:
    """Bins tensors in blocks that fit the cache, with reused buffers."""

    _BLOCK = 1 << 17

    def __init__(self, device: torch.device) -> None:
        self._scaled, self._magnitudes = (torch.empty(self._BLOCK, device=device) for _ in range(2))
        self._codes = torch.empty(self._BLOCK, dtype=torch.int16, device=device)

    def count(self, values: Tensor, exponent: int, side: Counts) -> None:
        """Adds values float32 ``[V]``, no magnitude above ``2**exponent``, to the counts ``side`` of one grid.

        The counts are ``[BINS + 1]`` where no value is negative, ``[2 BINS + 1]`` otherwise.
        """
        for block in torch.split(values, self._BLOCK):
            counts = torch.bincount(self._indices(block, exponent, len(side) - BINS - 1), minlength=len(side))
            side += counts.cpu().numpy()

    def _indices(self, block: Tensor, exponent: int, shift: int) -> Tensor:
        """Bin indices plus ``shift``, which is 0 where no value is negative.

        A multiplication by a power of two is exact in float32 unless it underflows, which a factor of at least one
        cannot; values so large that the factor is smaller are scaled in float64.
        """
        size, factor = len(block), math.ldexp(1.0, BITS - exponent)
        scaled = torch.mul(block, factor, out=self._scaled[:size]) if factor >= 1 else block.double().mul_(factor)
        if shift:
            magnitudes = torch.abs(scaled, out=self._magnitudes[:size]) if factor >= 1 else scaled.abs()
            scaled = magnitudes.ceil_().copysign_(scaled).add_(shift)
        else:
            scaled = scaled.ceil_()
        return self._codes[:size].copy_(scaled)


class Tally:
    """Running counts of one tensor on one thread; ``histogram`` freezes them."""

    def __init__(self, name: str, binner: Binner) -> None:
        self._name = name
        self._binner = binner
        self._exponent = FINEST
        self._counts = np.zeros(2 * BINS + 1, dtype=np.int64)
        self._low, self._high = math.inf, -math.inf
        self._low_sum = self._high_sum = 0
        self.images = 0

    def add(self, x: Tensor) -> None:
        """Counts the values of one image's tensor ``[1,...]``."""
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            x = x.permute(0, 2, 3, 1)
        values = x.reshape(-1)  # in memory order, so that neither layout needs a copy
        low, high = (float(end) for end in torch.aminmax(values))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise StageError(
                f"tensor {self._name!r} holds NaN or infinite values", "check the weights and the preprocessing"
            )
        exponent = max(self._exponent, grid_exponent(max(-low, high)))
        self._counts = coarsened(self._counts, exponent - self._exponent)
        self._exponent = exponent
        self._binner.count(values, exponent, self._counts[BINS:] if low >= 0 else self._counts)
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._low_sum += exact_units(low)
        self._high_sum += exact_units(high)
        self.images += 1

    def histogram(self) -> Histogram:
        """The histogram of the values counted so far."""
        return Histogram(
            self._exponent, self._counts.copy(), self._low, self._high, self._low_sum, self._high_sum, self.images
        )


def observe(
    network: Network, batches: Iterable[NDArray[np.float32]], tensors: Sequence[str], advance: Advance | None = None
) -> dict[str, Histogram]:
    """Histograms of some of a network's tensors, by name, over batches of calibration images float32 ``[N,C,H,W]``.

    The network is not changed; ``advance`` is called with 1 for each finished image.

    Raises:
        StageError: No image, an unknown tensor, or a tensor with NaN or infinite values; the message names it.
    """
    known = {IMAGE, *(op.name for op in network.graph.ops)}
    for name in tensors:
        if name not in known:
            raise StageError(f"the network has no tensor {name!r}", nearest(name, known))
    device = next(network.parameters()).device
    watched = prepared(copy.deepcopy(network))

    def watch(tallies: dict[str, Tally], image: NDArray[np.float32]) -> None:
        def tap(name: str, x: Tensor) -> None:
            if name in tallies:
                tallies[name].add(x)

        with torch.inference_mode():
            watched(laid_out(image, device), tap)

    binners = [Binner(device) for _ in range(threads_for(device))]
    threads = [{name: Tally(name, binner) for name in tensors} for binner in binners]
    for _ in spread(threads, batches, watch, advance):
        pass
    used = [tallies for tallies in threads if any(tally.images for tally in tallies.values())]
    return {name: reduce(Histogram.merged, (tallies[name].histogram() for tallies in used)) for name in tensors}
