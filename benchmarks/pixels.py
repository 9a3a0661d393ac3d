"""Decoded images in a file, so that every contender reads the same numbers and pays for no JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.size import Size
    from edgeres.data.split import Split


@dataclass(frozen=True, slots=True)
class Pixels:
    """Images float32 ``[N,3,H,W]`` of the size ``crop`` in a raw file.

    They are read, not mapped: pages of a mapped file would count as memory of whoever reads them.
    """

    path: Path
    crop: Size

    @property
    def _size(self) -> int:
        return 3 * self.crop.area * 4

    def __len__(self) -> int:
        """Number of images."""
        return self.path.stat().st_size // self._size

    def batches(self, size: int, first: int = 0, count: int | None = None) -> Iterator[NDArray[np.float32]]:
        """Batches ``[size,3,H,W]`` of ``count`` images from the ``first`` on; the last holds what is left."""
        stop = min(len(self), first + (len(self) if count is None else count))
        with self.path.open("rb") as stream:
            stream.seek(first * self._size)
            for start in range(first, stop, size):
                wanted = min(size, stop - start)
                flat = np.frombuffer(bytearray(stream.read(wanted * self._size)), dtype=np.float32)
                yield flat.reshape(wanted, 3, *self.crop)


def decode(split: Split, preprocess: Preprocess, path: Path) -> Pixels:
    """Writes a split's images."""
    with path.open("wb") as stream:
        for batch, _ in split.batches(preprocess):
            stream.write(batch.tobytes())
    return Pixels(path, preprocess.crop)
