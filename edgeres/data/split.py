"""``Split``: labelled images, decoded on demand; seeded division of them, and balanced selection from each class."""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

import numpy as np

from edgeres.progress import Silent
from edgeres.settings import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray
    from PIL import Image as Pillow

    from edgeres.data.images import StoredImage
    from edgeres.data.preprocess import Preprocess
    from edgeres.progress import Progress

WORKERS = 2  # threads that decode; Pillow releases the GIL meanwhile


@dataclass(frozen=True)
class Split:
    """Labelled images in a fixed order; a label is -1 where the class is unknown (calibration images need none)."""

    name: str
    images: tuple[StoredImage, ...] = field(repr=False)
    labels: tuple[int, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images, {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """sha256 of each image's content: a file's bytes, or an array's pixels."""
        return self.hash_all(Silent())

    @cached_property
    def digest(self) -> str:
        """sha256 over the pairs of content hash and label, in order; neither paths nor the name are part of it."""
        return digest([list(pair) for pair in zip(self.hashes, self.labels, strict=True)])

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
        return Split(name or self.name, images, tuple(self.labels[index] for index in indices))

    def image(self, index: int) -> Pillow.Image:
        """One decoded RGB image; ``DataError`` names the file of a corrupt or truncated one."""
        return self.images[index].decode()

    def batches(
        self, preprocess: Preprocess, size: int = 32
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Transformed images float32 ``[N,3,crop,crop]`` and labels int64 ``[N]`` in order, ``size`` at a time.

        They are decoded one batch ahead of the caller, so two batches are in memory at a time.
        """
        if size < 1:
            raise ValueError(f"batches of {size} images")

        def submitted(indices: range) -> tuple[NDArray[np.float32], list[Future[None]], range]:
            array = np.empty((len(indices), 3, preprocess.crop, preprocess.crop), dtype=np.float32)

            def load(row: int, index: int) -> None:
                array[row] = preprocess.apply(self.image(index))

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
