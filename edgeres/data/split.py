"""``Split``: labelled images, decoded on demand; seeded division of them, and balanced selection from each class."""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeres.errors import DataError
from edgeres.progress import Silent
from edgeres.settings import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from edgeres.data.images import StoredImage
    from edgeres.data.masks import Masks
    from edgeres.data.preprocess import ChannelOrder, DecodedImage, Preprocess
    from edgeres.progress import Progress

_MEASURED = 256  # most images for the statistics of channels
WORKERS = 2  # threads that decode; Pillow releases the GIL meanwhile


@dataclass(frozen=True)
class Split:
    """Labelled images in a fixed order; a label is -1 where the class is unknown (calibration images need none).

    ``annotations`` are 0 or 1 for every class of an image, where it may have several, or the number of its pixels in
    each class where it has a mask; the label is then one of them. ``masks`` are those of the images, in their order.
    """

    name: str
    images: tuple[StoredImage, ...] = field(repr=False)
    labels: tuple[int, ...] = field(repr=False)
    annotations: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    masks: Masks | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        counts = {len(self.images), len(self.labels), len(self.annotations) or len(self.images)}
        if len(counts) != 1:
            raise ValueError(f"{len(self.images)} images, {len(self.labels)} labels, {len(self.annotations)} rows")

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """sha256 of each image's content: a file's bytes, or an array's pixels."""
        return self.hash_all(Silent())

    @cached_property
    def digest(self) -> str:
        """sha256 over the pairs of content hash and label, in order, and annotations; no path or name is part of it."""
        pairs = [list(pair) for pair in zip(self.hashes, self.labels, strict=True)]
        rows = [list(row) for row in self.annotations]
        if self.masks is not None:
            return digest([pairs, rows, self.masks.digest])
        return digest([pairs, rows] if rows else pairs)

    def hash_all(self, progress: Progress) -> tuple[str, ...]:
        """Computes ``hashes`` with progress; each image caches its own."""
        hashes: list[str] = []
        with progress.task(f"hash the {self.name} images", len(self)) as advance:
            for image in self.images:
                hashes.append(image.sha256)
                advance(1)
        return tuple(hashes)

    def take(self, indices: Sequence[int], name: str | None = None) -> Split:
        """The images at these indices, in that order."""
        images = tuple(self.images[index] for index in indices)
        annotations = tuple(self.annotations[index] for index in indices) if self.annotations else ()
        masks = self.masks.take(indices) if self.masks is not None else None
        return Split(name or self.name, images, tuple(self.labels[index] for index in indices), annotations, masks)

    def image(self, index: int, channels: ChannelOrder = "rgb") -> DecodedImage:
        """One decoded image; ``DataError`` names the file of a corrupt or truncated one."""
        return self.images[index].decode(channels)

    def network_input(self, index: int, preprocess: Preprocess) -> NDArray[Any]:
        """Input ``[C,H,W]`` of one image; ``DataError`` names the file that the transform cannot take."""
        try:
            return preprocess.apply(self.image(index, preprocess.channels))
        except DataError as refusal:
            where = self.images[index].where
            if where in refusal.what:
                raise
            raise DataError(f"{where}: {refusal.what}", refusal.hint) from refusal

    def truths(self, preprocess: Preprocess) -> Iterator[NDArray[np.uint8]]:
        """Classes of the pixels of each network input in order, uint8 ``[H,W]``, 255 where ignored."""
        if self.masks is None:
            raise ValueError(f"the {self.name} images have no masks")
        return self.masks.at_input(self.images, preprocess)

    def batches(self, preprocess: Preprocess, size: int = 32) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Network inputs and labels int64 ``[N]`` in order, ``size`` at a time.

        Inputs are float32 ``[N,C,H,W]``, or uint8 in the layout of ``preprocess`` where it says so.

        They are decoded one batch ahead of the caller, so two batches are in memory at a time.
        """
        if size < 1:
            raise ValueError(f"batches of {size} images")

        def submitted(indices: range) -> tuple[NDArray[Any], list[Future[None]], range]:
            array = np.empty((len(indices), *preprocess.shape), dtype=preprocess.dtype)

            def load(row: int, index: int) -> None:
                array[row] = self.network_input(index, preprocess)

            return array, [pool.submit(load, row, index) for row, index in enumerate(indices)], indices

        pool = ThreadPoolExecutor(WORKERS, "decode")
        try:
            ranges = [range(start, min(start + size, len(self))) for start in range(0, len(self), size)]
            pending = deque(map(submitted, ranges[:1]))
            for following in (*ranges[1:], None)[: len(ranges)]:
                if following is not None:
                    pending.append(submitted(following))
                array, futures, indices = pending.popleft()
                for future in futures:
                    future.result()  # the first failure in the split's order is raised
                yield array, np.asarray(self.labels[indices.start : indices.stop], dtype=np.int64)
        finally:
            pool.shutdown(cancel_futures=True)


def channel_statistics(split: Split, preprocess: Preprocess) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel on the scale 0..1, of at most 256 images after the transform.

    Both are rounded to four digits; a constant channel has the deviation 1.
    """
    count = preprocess.count
    raw = replace(preprocess, mean=(0.0,) * count, std=(1.0,) * count)
    total, squares, pixels = np.zeros(count), np.zeros(count), 0
    for images, _ in split.take(round_robin(split.labels, seed=0)[:_MEASURED]).batches(raw):
        wide = images.astype(np.float64)
        total, squares = total + wide.sum((0, 2, 3)), squares + (wide**2).sum((0, 2, 3))
        pixels += wide[:, 0].size
    mean = total / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    rounded = [float(f"{value:.4g}") or 1.0 for value in deviation]
    return tuple(float(f"{value:.4g}") for value in mean), tuple(rounded)


def partition(
    labels: Sequence[int], hashes: Sequence[str], quotas: Callable[[int], Sequence[int]], seed: int
) -> tuple[tuple[int, ...], ...]:
    """Ascending indices of images in parts with disjoint content, by the label and the content hash of each image.

    Images with equal hashes form one group, which goes to one part as a whole. ``quotas`` turns the number of groups of
    a class into the number of them in each part; the rest is one further part. Within a class, groups are ordered by
    the sha256 of seed and content, so the order of the files does not matter, and an added image moves no other one by
    more than a rank.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, content in enumerate(hashes):
        groups[content].append(index)
    classes: dict[int, list[str]] = defaultdict(list)
    for content, members in groups.items():
        classes[labels[members[0]]].append(content)
    parts: list[list[int]] = []
    for label in sorted(classes):
        order = sorted(classes[label], key=lambda content: _rank(seed, content))
        bounds = np.cumsum([0, *quotas(len(order))]).tolist()
        pieces = [order[low:high] for low, high in zip(bounds, [*bounds[1:], len(order)], strict=True)]
        parts.extend([] for _ in range(len(pieces) - len(parts)))
        for part, piece in zip(parts, pieces, strict=True):
            part.extend(index for content in piece for index in groups[content])
    return tuple(tuple(sorted(part)) for part in parts)


def round_robin(labels: Sequence[int], seed: int) -> tuple[int, ...]:
    """Every index once: one image of each class, then a second of each, and so on.

    Any prefix is therefore balanced, and a longer prefix contains the shorter one. One that is shorter than the list of
    classes holds a random selection of them. The classes, and the images of each, are shuffled by the seed.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    shuffled = [
        # A seed sequence takes no negative number, and label -1 is an unknown class.
        np.random.default_rng([seed, label + 1]).permutation(members[label]).tolist()
        for label in sorted(members, key=lambda label: _rank(seed, label))
    ]
    return tuple(index for index in chain.from_iterable(zip_longest(*shuffled)) if index is not None)


def _rank(seed: int, name: object) -> bytes:
    """A random sort key that depends on the seed and the name only."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
