"""``Feed``: augmented batches in a seeded order, decoded ahead of the training step."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgeres.errors import DataError
from edgeres.training.augment import Augment, Augmenter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from PIL import Image as Pillow
    from torch import Tensor

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split

WORKERS = 2
"""Threads that decode and augment; Pillow releases the GIL meanwhile."""

KEPT_BYTES = 256 << 20
"""Bytes of decoded images kept in memory between epochs; the small data sets fit."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch.

    Images uint8 ``[N,S,S,3]`` and labels int64 ``[N]``.
    """

    images: Tensor
    labels: Tensor


class Feed:
    """Training batches by global step; an epoch is every image once, without an incomplete last batch.

    ``preprocess`` is the evaluation transform, for normalisation and sizes; every label must be below ``classes``. A
    batch is the whole split where it is smaller; order and augmentation follow from the seed.

    Raises:
        DataError: Fewer than two images, or a label that is missing or names no class.
    """

    def __init__(
        self, split: Split, preprocess: Preprocess, augment: Augment, *, classes: int, batch: int, seed: int
    ) -> None:
        if len(split) < 2:
            raise DataError(
                f"the training split has {len(split)} images", "give more images, or lower what calibration takes"
            )
        if min(split.labels) < 0 or max(split.labels) >= classes:
            raise DataError(
                f"training labels run from {min(split.labels)} to {max(split.labels)} for a head of {classes} classes",
                "every training image needs a label of a known class",
            )
        self.split = split
        self.preprocess = preprocess
        self.batch = min(batch, len(split))
        self.seed = seed
        self._augmenter = Augmenter(augment, preprocess)
        self._kept: dict[int, Pillow.Image] = {}
        self._kept_bytes = 0

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return len(self.split) // self.batch

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Image indices in the order of an epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.split))

    def batches(self, start: int, stop: int, size: Callable[[int], int]) -> Iterator[Batch]:
        """The batches of global steps ``start`` to ``stop - 1``.

        ``size`` gives the image side in pixels by epoch; steps before the first are not decoded.
        """
        pool = ThreadPoolExecutor(WORKERS, "augment")
        try:
            waiting = deque(
                pool.submit(self._make, step, size) for step in range(start, min(start + WORKERS + 1, stop))
            )
            for ahead in range(start + len(waiting), stop + len(waiting)):
                batch = waiting.popleft().result()
                if ahead < stop:
                    waiting.append(pool.submit(self._make, ahead, size))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def as_input(self, images: Tensor) -> Tensor:
        """Normalised float32 ``[N,3,S,S]`` of uint8 ``[N,S,S,3]``, on the device of the images."""
        mean, std = (
            torch.tensor(values, device=images.device).reshape(3, 1, 1)
            for values in (self.preprocess.mean, self.preprocess.std)
        )
        pixels = images.permute(0, 3, 1, 2).contiguous().float().div_(255).sub_(mean).div_(std)
        return pixels if self.preprocess.channels == "rgb" else pixels.flip(1)

    def _make(self, step: int, size: Callable[[int], int]) -> Batch:
        epoch, position = divmod(step, self.steps)
        # Permuting each batch again takes microseconds and keeps workers free of shared state.
        indices = self.order(epoch)[position * self.batch : (position + 1) * self.batch]
        images = [
            self._augmenter(self._image(int(index)), size(epoch), np.random.default_rng([self.seed, epoch, int(index)]))
            for index in indices
        ]
        labels = [self.split.labels[index] for index in indices]
        return Batch(torch.from_numpy(np.stack(images)), torch.tensor(labels))

    def _image(self, index: int) -> Pillow.Image:
        """A decoded image, kept in memory within ``KEPT_BYTES``."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        image = self.preprocess.upright(self.split.image(index))
        weight = image.width * image.height * 3
        if self._kept_bytes + weight <= KEPT_BYTES:
            self._kept[index] = image
            self._kept_bytes += weight
        return image
