"""``each_image``: maps a function over images or groups of images, one thread each, in the order of the images.

Convolution libraries choose their algorithm by the size of the batch and the number of threads, so the last bits of an
activation depend on both. Alone on one thread an activation is a function of the image and the weights; the images, not
the operations, are spread over the threads. Small images leave a thread idle between operations: they go in groups,
whose size and members depend on neither the batches that come in nor the number of threads.
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

Net = TypeVar("Net", bound="Network")
Worker = TypeVar("Worker")
Made = TypeVar("Made")


def each_image(
    network: Net,
    batches: Iterable[NDArray[np.float32]],
    work: Callable[[Net, Tensor], Made],
    advance: Advance | None = None,
    *,
    gradients: bool = False,
    group: int = 1,
) -> Iterator[Made]:
    """Applies a function to every image, or to every group of images.

    The function gets images ``[group,C,H,W]`` and a copy of the network in evaluation mode and channels-last layout,
    one for each thread; results come in the order of the images. A few of the batches float32 ``[N,C,H,W]`` are in
    flight at a time; ``advance`` is called with the number of images that are finished; ``gradients`` says whether the
    function computes gradients.

    Raises:
        StageError: There is no image.
    """
    watched = copy.deepcopy(network).eval()
    watched.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs leave it out
    device = next(watched.parameters()).device

    def run(mine: Net, images: NDArray[np.float32]) -> Made:
        with torch.set_grad_enabled(gradients):
            return work(mine, laid_out(images, device))

    workers = [watched, *(_shared_copy(watched) for _ in range(1, threads_for(device)))]
    return spread(workers, batches, run, advance, group=group)


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
    kept: list[NDArray[np.float32]] = []
    for image in single_images(batches):
        kept.append(image)
        if len(kept) == size:
            yield np.concatenate(kept)
            kept = []
    if kept:
        yield np.concatenate(kept)


def threads_for(device: torch.device) -> int:
    """Number of threads: all of torch's, or one for an accelerator."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def spread(
    workers: Sequence[Worker],
    batches: Iterable[NDArray[np.float32]],
    work: Callable[[Worker, NDArray[np.float32]], Made],
    advance: Advance | None = None,
    *,
    group: int = 1,
) -> Iterator[Made]:
    """Distributes images over workers, each on one thread, with a bounded number of images in flight.

    ``workers`` has one object per thread, which ``work`` receives with images ``[group,C,H,W]``; results come in the
    order of the images.

    Raises:
        StageError: There is no image.
    """
    idle: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(images: NDArray[np.float32]) -> tuple[Made, int]:
        worker = idle.get()
        try:
            return work(worker, images), len(images)
        finally:
            idle.put(worker)

    def finish(future: Future[tuple[Made, int]]) -> Made:
        made, count = future.result()
        if advance is not None:
            advance(count)
        return made

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(len(workers), "images", initializer=torch.set_num_threads, initargs=(1,))
    flying: deque[Future[tuple[Made, int]]] = deque()
    empty = True
    try:
        for images in grouped(batches, group):
            empty = False
            flying.append(pool.submit(run, images))
            if len(flying) > 2 * len(workers):
                yield finish(flying.popleft())
        while flying:
            yield finish(flying.popleft())
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # a worker's setting is also the default of threads started later
    if empty:
        raise StageError("there are no calibration images", "pass at least one")
