"""``StoredTensor``: a tensor in a file that is not read yet, and numpy arrays inside a pickle."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING

from edgeres.errors import ModelError
from edgeres.model.pickled_values import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
BUFFERS = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
MOST_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file: its shape, and how it is read; ``place`` is equal for tensors that share their values."""

    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]
    place: str = ""


def array(value: Record) -> StoredTensor | None:
    """A numpy array that a pickle holds."""
    if value.name in ARRAYS and isinstance(value.state, tuple) and len(value.state) == 5:
        _, size, dtype, fortran, content = value.state
    elif value.name in BUFFERS and len(value.arguments) == 4:
        content, dtype, size, order = value.arguments
        fortran = order == "F"
    else:
        return None
    shape = integers(size)
    if isinstance(content, str):  # as Python 2 wrote it
        content = content.encode("latin1")
    if shape is None or not isinstance(content, bytes | bytearray):
        return unreadable((), "an array of objects")
    return StoredTensor(shape, partial(_from_numpy, content, dtype, shape, bool(fortran)))


def _from_numpy(content: bytes | bytearray, dtype: object, shape: tuple[int, ...], fortran: bool) -> torch.Tensor:
    import numpy as np
    import torch

    code = dtype.arguments[0] if isinstance(dtype, Record) and dtype.arguments else None
    if code not in ("f2", "f4", "f8"):
        raise ModelError("is an array of other values than floats", "pass dense float weights")
    state = dtype.state if isinstance(dtype, Record) else None
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "<"
    kind = np.dtype(f"{'>' if order == '>' else '<'}{code}")
    if prod(shape) * kind.itemsize != len(content):
        raise ModelError(f"holds {len(content)} bytes", "the file is damaged")
    array = np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(array.astype(np.float64 if code == "f8" else np.float32))


def unreadable(shape: tuple[int, ...], kind: str) -> StoredTensor:
    """A tensor of a kind that is not read; reading it raises ``ModelError``."""

    def read() -> torch.Tensor:
        raise ModelError(f"is {kind}", "pass dense float weights")

    return StoredTensor(shape, read)


def integers(value: object) -> tuple[int, ...] | None:
    """A shape or strides; None where it is anything else."""
    if isinstance(value, Record) and value.name == "torch.Size" and value.arguments:
        value = value.arguments[0]
    if not isinstance(value, list | tuple) or len(value) > MOST_DIMENSIONS or not all(map(is_count, value)):
        return None
    return tuple(int(length) for length in value)


def is_count(value: object) -> bool:
    """Whether a value may be a length or an offset."""
    return isinstance(value, int) and 0 <= value < 1 << 48
