"""``observe``: one pass over the calibration images, one histogram per tensor, memory independent of their number.

Every image goes through the network alone, on one thread; the images, not the operations, are spread over the threads.
Convolution libraries choose their algorithm by the size of the batch, so an image's activations differ in the last
bits between batch sizes: oneDNN's do for the 3x3 convolutions of ResNet-18's last stage. Alone on one thread an
activation is a function of the image and the weights, and counts are added up as integers, so the histograms are the
same to the last bit for any batch size, order, number of shards and number of threads.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgeres.errors import StageError, nearest
from edgeres.model.graph import IMAGE
from edgeres.quant.histogram import BINS, BITS, FINEST, Histogram, coarsened, exact_units, grid_exponent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.model.network import Network
    from edgeres.progress import Advance


class _Tally:
    """Running counts of one tensor on one thread; ``histogram`` freezes them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.exponent = FINEST
        self.counts = np.zeros(2 * BINS + 1, dtype=np.int64)
        self.low, self.high = math.inf, -math.inf
        self.low_sum = self.high_sum = self.images = 0

    def add(self, x: Tensor) -> None:
        """Counts the values of one image's tensor ``[1,...]``."""
        low, high = (float(end) for end in torch.aminmax(x))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise StageError(
                f"tensor {self.name!r} holds NaN or infinite values", "check the weights and the preprocessing"
            )
        self._grow(grid_exponent(max(-low, high)))
        codes = _indices(x, self.exponent, one_sided=low >= 0)
        side = self.counts[BINS:] if low >= 0 else self.counts
        side += torch.bincount(codes, minlength=len(side)).cpu().numpy()
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.low_sum += exact_units(low)
        self.high_sum += exact_units(high)
        self.images += 1

    def _grow(self, exponent: int) -> None:
        if exponent > self.exponent:
            self.counts = coarsened(self.counts, exponent - self.exponent)
            self.exponent = exponent

    def histogram(self) -> Histogram:
        return Histogram(
            self.exponent, self.counts.copy(), self.low, self.high, self.low_sum, self.high_sum, self.images
        )


def _indices(x: Tensor, exponent: int, one_sided: bool) -> Tensor:
    """Bin indices of a tensor as int16 ``[numel]``; those of a two-sided tensor are shifted up by ``BINS``.

    A multiplication by a power of two is exact in float32 unless it underflows, which a factor of at least one cannot;
    values so large that the factor is smaller are scaled in float64.
    """
    shift = BITS - exponent
    scaled = _flat(x).mul(math.ldexp(1.0, shift)) if shift >= 0 else _flat(x).double().mul_(math.ldexp(1.0, shift))
    if one_sided:
        return scaled.ceil_().to(torch.int16)
    return torch.copysign(scaled.abs().ceil_(), scaled).add_(BINS).to(torch.int16)


def _flat(x: Tensor) -> Tensor:
    """All values in memory order, without a copy for either layout a network computes in."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.reshape(-1)


class _Worker:
    """One thread's tallies."""

    def __init__(self, network: Network, tensors: Sequence[str], device: torch.device) -> None:
        self.network = network
        self.device = device
        self.tallies = {name: _Tally(name) for name in tensors}

    def tap(self, name: str, x: Tensor) -> None:
        tally = self.tallies.get(name)
        if tally is not None:
            tally.add(x)

    def watch(self, image: NDArray[np.float32]) -> None:
        """Counts every wanted tensor of one image ``[C,H,W]``."""
        with torch.inference_mode():
            x = torch.tensor(image[None], device=self.device).contiguous(memory_format=torch.channels_last)
            self.network(x, self.tap)


def observe(
    network: Network, batches: Iterable[NDArray[np.float32]], tensors: Sequence[str], advance: Advance | None = None
) -> dict[str, Histogram]:
    """Histograms of a network's tensors over calibration images.

    Args:
        network: What to watch; it is neither changed nor switched out of training mode.
        batches: Images float32 ``[N,C,H,W]``, any ``N`` and any number of batches; consumed once, a few images at a
            time.
        tensors: Names of the tensors to count, as in the network's graph; ``image`` is one of them.
        advance: Called with 1 for each finished image.

    Returns:
        One histogram per name, in the order of ``tensors``. Histograms of disjoint sets of images merge to the
        histogram of all of them.

    Raises:
        StageError: No image, an unknown tensor, or a tensor with NaN or infinite values; the message names it.
    """
    known = {IMAGE, *(op.name for op in network.graph.ops)}
    for name in tensors:
        if name not in known:
            raise StageError(f"the network has no tensor {name!r}", nearest(name, known))
    device = next(network.parameters()).device
    threads = torch.get_num_threads()
    watched = copy.deepcopy(network).eval()
    watched.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs leave it out
    workers = [_Worker(watched, tensors, device) for _ in range(threads if device.type == "cpu" else 1)]
    try:
        _stream(workers, (image for batch in batches for image in batch), advance)
    finally:
        torch.set_num_threads(threads)  # a worker's setting is also the default of threads that start later
    return {name: _merged([worker.tallies[name] for worker in workers]) for name in tensors}


def _stream(workers: list[_Worker], images: Iterable[NDArray[np.float32]], advance: Advance | None) -> None:
    """Spreads images over the workers, a bounded number of them in flight."""
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def watch(image: NDArray[np.float32]) -> None:
        worker = idle.get()
        try:
            worker.watch(image)
        finally:
            idle.put(worker)

    def finish(future: Future[None]) -> None:
        future.result()
        if advance is not None:
            advance(1)

    pool = ThreadPoolExecutor(len(workers), "observe", initializer=torch.set_num_threads, initargs=(1,))
    flying: deque[Future[None]] = deque()
    try:
        for image in images:
            flying.append(pool.submit(watch, image))
            if len(flying) > 2 * len(workers):
                finish(flying.popleft())
        while flying:
            finish(flying.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _merged(tallies: list[_Tally]) -> Histogram:
    """The histogram of all threads."""
    histograms = [tally.histogram() for tally in tallies if tally.images]
    if not histograms:
        raise StageError("there are no calibration images", "pass at least one")
    total = histograms[0]
    for histogram in histograms[1:]:
        total = total.merged(histogram)
    return total
