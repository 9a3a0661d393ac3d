"""``Weights``: read-only float32 arrays under state-dict keys, and their files, read without running code.

Two formats are read. ``.safetensors`` holds tensors and strings. PyTorch's own (``.pt``, ``.pth``, ``.th``) is a
pickle, which can run code; it is read by ``torch.load(weights_only=True)``, whose unpickler accepts only tensors and
containers.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pickle import UnpicklingError  # only the exception; nothing here unpickles
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError
from edgeres.model.spec import WEIGHT_SUFFIXES, ResNetSpec
from edgeres.settings import canonical, parse, plain

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

TORCH_SUFFIXES = WEIGHT_SUFFIXES - {".safetensors"}  # suffixes of PyTorch files
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "net", "module")
"""Keys of the state dict in training checkpoints, averaged weights first, since they are the evaluated ones."""

_METADATA = "edgeres"
"""Key of edgeres' JSON. There is one only: safetensors writes several in any order, and bytes must be deterministic."""

_RESAVE = "save its state_dict() with safetensors.torch.save_file where you trust it, and pass the .safetensors"


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


@dataclass(frozen=True, slots=True)
class RawFile:
    """Tensors of a weight file under its own keys, with what edgeres stored beside them.

    ``wrapper`` is the key of the dict that holds the tensors; empty for a bare state dict.
    """

    tensors: Mapping[str, torch.Tensor]
    spec: ResNetSpec | None = None
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] | None = None
    wrapper: str = ""


def save_checkpoint(
    path: Path,
    spec: ResNetSpec,
    weights: Weights,
    preprocess: Preprocess | None = None,
    classes: tuple[str, ...] | None = None,
) -> None:
    """Writes a ``.safetensors`` file that ``read_file`` reads completely; equal content gives equal bytes."""
    from safetensors.numpy import save_file

    content = canonical(plain({"spec": spec, "preprocess": preprocess, "classes": classes or None}))
    save_file({key: np.array(array) for key, array in weights.items()}, str(path), {_METADATA: content})


def read_file(path: Path) -> RawFile:
    """Reads a weight file by its suffix.

    Raises:
        ModelError: Missing, truncated, of an unknown format, without tensors, or a pickle with code.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file", "check --weights")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in TORCH_SUFFIXES:
        return _read_torch(path)
    known = ", ".join(sorted(WEIGHT_SUFFIXES))
    raise ModelError(f"{path}: {path.suffix or 'no suffix'} is no weight file", f"known: {known}")


def _read_safetensors(path: Path) -> RawFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no iteration of its own
    except (SafetensorError, OSError, ValueError) as failure:
        raise ModelError(f"{path} is truncated or no safetensors file: {failure}", "fetch it again") from failure
    if _METADATA not in metadata:
        return RawFile(tensors)
    where = f"{path}, metadata {_METADATA!r}"
    try:
        content = json.loads(metadata[_METADATA])
        preprocess, classes = content["preprocess"], content["classes"]
        return RawFile(
            tensors,
            parse(ResNetSpec, content["spec"], where, ModelError),
            parse(Preprocess, preprocess, where, ModelError) if preprocess else None,
            tuple(str(name) for name in classes) if classes else None,
        )
    except (json.JSONDecodeError, RecursionError, KeyError, TypeError) as failure:
        raise ModelError(f"{where}: {failure!r}", "save the checkpoint again") from failure


def _read_torch(path: Path) -> RawFile:
    import torch

    with suppress(OSError, zipfile.BadZipFile, ValueError), zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):  # torch.load would warn of it
            raise ModelError(f"{path} is a TorchScript program, not weights", _RESAVE)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as failure:
        raise _refused(path, failure) from failure
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError, AttributeError) as failure:
        # torch has no common exception for damaged archives; the first line names the bad part
        reason = str(failure).strip().splitlines()[0] if str(failure).strip() else type(failure).__name__
        raise ModelError(f"{path} is truncated or no PyTorch file: {reason}", "fetch it again") from failure
    return _unwrapped(path, content)


def _refused(path: Path, failure: UnpicklingError) -> ModelError:
    """The error for a pickle that holds more than tensors and containers."""
    text = str(failure)
    named = re.search(r"(?:GLOBAL|global:?)\s+`?([A-Za-z_][\w.]*\.[\w.]+)", text)
    if named:
        return ModelError(f"{path} is a pickle that wants to run {named[1]}, which is refused", _RESAVE)
    reason = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "damaged")
    return ModelError(f"{path} is truncated or a pickle that is refused: {reason[:200]}", _RESAVE)


def _unwrapped(path: Path, content: object) -> RawFile:
    """The state dict inside a training checkpoint."""
    import torch

    wrapper = ""
    for _ in range(2):  # Lightning and EMA wrappers nest once
        name = next(
            (name for name in _WRAPPERS if isinstance(content, dict) and isinstance(content.get(name), dict)), ""
        )
        if name and isinstance(content, dict):
            content, wrapper = content[name], f"{wrapper}.{name}".lstrip(".")
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}, not a state dict", _RESAVE)
    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        keys = ", ".join(str(key) for key in list(content)[:5]) or "nothing"
        raise ModelError(f"{path} holds no tensors: {keys}", f"known wrappers: {', '.join(_WRAPPERS)}")
    return RawFile(tensors, wrapper=wrapper)


def to_arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, NDArray[np.float32]]:
    """Tensors as float32 arrays, checked.

    Raises:
        ModelError: A value is NaN or infinite, a variance is negative, or a tensor holds integers.
    """
    import torch

    arrays: dict[str, NDArray[np.float32]] = {}
    for key, tensor in tensors.items():
        if tensor.is_quantized or not tensor.is_floating_point() or tensor.is_meta or tensor.layout != torch.strided:
            kind = f"{str(tensor.layout).removeprefix('torch.')} {str(tensor.dtype).removeprefix('torch.')}"
            raise ModelError(f"weight {key!r} is a {kind} tensor", "pass dense float weights")
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            what = f"weight {key!r} {tuple(tensor.shape)} stores fewer values than that"
            raise ModelError(what, "the file is damaged")
        array = tensor.detach().to(torch.float32).numpy()
        if bad := int(np.size(array) - np.count_nonzero(np.isfinite(array))):
            what = f"weight {key!r} {array.shape} holds {bad} NaN or infinite values"
            raise ModelError(what, "training diverged: use an earlier one")
        if key.endswith("running_var") and array.size and array.min() < 0:
            raise ModelError(f"weight {key!r} holds a negative variance ({array.min():g})", "the file is damaged")
        arrays[key] = array
    return arrays
