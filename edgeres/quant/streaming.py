"""``each_image``: maps a function over images or groups of images, one thread each, in the order of the images.

Convolution libraries choose their algorithm by the size of the batch and the number of threads, so the last bits of an
activation depend on both, as oneDNN's do for the 3x3 convolutions of ResNet-18's last stage. Alone on one thread an
activation is a function of the image and the weights; the images, not the operations, are spread over the threads.
Small images leave a thread idle between operations: they go in groups, whose size and members depend on neither the
batches that come in nor the number of threads.
"""

from __future__ import annotations

import copy
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from edgeres.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.model.network import Network
    from edgeres.progress import Advance

    Images = Callable[[], Iterable[NDArray[np.float32]]]  # images [N,C,H,W] in batches, from the first one at each call

Net = TypeVar("Net", bound="Network")
Worker = TypeVar("Worker")
Item = TypeVar("Item")
Result = TypeVar("Result")


def each_image(
    network: Net,
    batches: Iterable[NDArray[np.float32]],
    work: Callable[[Net, Tensor], Result],
    advance: Advance | None = None,
    *,
    gradients: bool = False,
    group: int = 1,
) -> Iterator[Result]:
    """Results of a function for every group of images, in the order of the images.

    The function gets images ``[group,C,H,W]`` and a copy of the network in evaluation mode and channels-last layout,
    one for each thread; ``gradients`` says whether it computes any. Batches are float32 ``[N,C,H,W]``; ``advance`` is
    called with the number of images that are finished.

    Raises:
        StageError: There is no image.
    """
    watched = prepared(copy.deepcopy(network))
    device = next(watched.parameters()).device

    def run(mine: Net, images: NDArray[np.float32]) -> Result:
        with torch.set_grad_enabled(gradients):
            return work(mine, laid_out(images, device))

    workers = [watched, *(_shared_copy(watched) for _ in range(1, threads_for(device)))]
    return spread(workers, batches, run, advance, group=group)


def prepared(network: Net) -> Net:
    """The network itself, switched to evaluation mode and channels-last layout."""
    network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs leave it out
    return network


def _shared_copy(network: Net) -> Net:
    """A copy with gradients of its own that shares the weights."""
    shared: dict[int, Tensor] = {id(buffer): buffer for buffer in network.buffers()}
    for weight in network.parameters():
        shared[id(weight)] = torch.nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    return copy.deepcopy(network, shared)


def laid_out(images: NDArray[np.float32], device: torch.device) -> Tensor:
    """Images ``[N,C,H,W]`` as a tensor, channels last."""
    return torch.tensor(images, device=device).contiguous(memory_format=torch.channels_last)


def single_images(batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """The images of all batches ``[N,C,H,W]``, each as ``[1,C,H,W]``."""
    return (image[None] for batch in batches for image in batch)


def grouped(batches: Iterable[NDArray[np.float32]], size: int) -> Iterator[NDArray[np.float32]]:
    """The same images in groups ``[size,C,H,W]``, the last one smaller, whatever the batches were."""
    pending: list[NDArray[np.float32]] = []
    for image in single_images(batches):
        pending.append(image)
        if len(pending) == size:
            yield np.concatenate(pending)
            pending = []
    if pending:
        yield np.concatenate(pending)


def threads_for(device: torch.device) -> int:
    """Number of threads: all of torch's, or one for an accelerator."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def spread(
    workers: Sequence[Worker],
    batches: Iterable[NDArray[np.float32]],
    work: Callable[[Worker, NDArray[np.float32]], Result],
    advance: Advance | None = None,
    *,
    group: int = 1,
) -> Iterator[Result]:
    """Results of ``work`` for a worker, one per thread, and images ``[group,C,H,W]``, in the order of the images."""
    idle: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(images: NDArray[np.float32]) -> tuple[Result, int]:
        worker = idle.get()
        try:
            return work(worker, images), len(images)
        finally:
            idle.put(worker)

    empty = True
    for result, count in _in_threads(run, grouped(batches, group), len(workers)):
        empty = False
        if advance is not None:
            advance(count)
        yield result
    if empty:
        raise StageError("there are no calibration images", "pass at least one")


def _in_threads(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Results in order, with two items per thread in flight; inside a thread torch has that thread alone."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "images", initializer=torch.set_num_threads, initargs=(1,))
    flying: deque[Future[Result]] = deque()
    try:
        for item in items:
            flying.append(pool.submit(function, item))
            if len(flying) > 2 * threads:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # a worker's setting is also the default of threads started later
