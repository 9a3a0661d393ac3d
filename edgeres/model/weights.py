"""``Weights``: read-only float32 arrays under state-dict keys, with a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[np.float32]


class Weights(Mapping[str, "Array"]):
    """Frozen mapping from state-dict key to a read-only array, copied to contiguous float32."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays: dict[str, Array] = {}
        for key in sorted(arrays):
            array = np.array(arrays[key], dtype=np.float32, order="C")
            array.setflags(write=False)
            self._arrays[key] = array

    def __getitem__(self, key: str) -> Array:
        return self._arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    @cached_property
    def digest(self) -> str:
        """sha256 over keys, shapes and bytes."""
        hasher = hashlib.sha256()
        for key, array in self._arrays.items():
            hasher.update(f"{key}{array.shape}".encode())
            hasher.update(array.tobytes())
        return hasher.hexdigest()

    def replaced(self, changes: Mapping[str, NDArray[Any]]) -> Weights:
        """A copy with some arrays replaced or added."""
        return Weights({**self._arrays, **changes})

    def save(self, path: Path) -> None:
        """Writes a ``.safetensors`` file; equal weights give equal bytes."""
        from safetensors.numpy import save_file

        save_file(dict(self._arrays), str(path))

    @classmethod
    def load(cls, path: Path) -> Weights:
        """Reads a ``.safetensors`` file written by ``save``."""
        from safetensors.numpy import load_file

        return cls(load_file(str(path)))
