"""``Weights``: read-only float32 arrays under state-dict keys, and their files, read without running code.

``.safetensors`` holds tensors and strings. PyTorch's own files hold a pickle, which is read as data
(``model/inert_pickle.py``). A network in several files has an index, ``*.index.json``, as Hugging Face writes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError
from edgeres.model.module_settings import ModuleSettings
from edgeres.model.parametrization import computed
from edgeres.model.spec import WEIGHT_SUFFIXES, ResNetSpec
from edgeres.model.state_dict import StateDict, architecture, choose, entries, state_dicts
from edgeres.model.stored_tensor import StoredTensor
from edgeres.model.torch_file import TorchFile, open_torch
from edgeres.model.weight_files import INDEX, shards
from edgeres.settings import canonical, parse, plain

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

TORCH_SUFFIXES = WEIGHT_SUFFIXES - {".safetensors"}  # suffixes of PyTorch files
_METADATA = "edgeres"
"""Key of edgeres' JSON. There is one only: safetensors writes several in any order, and bytes must be deterministic."""

_CODE = (
    "os.",
    "posix.",
    "nt.",
    "subprocess.",
    "builtins.",
    "sys.",
    "runpy.",
    "importlib.",
    "shutil.",
    "socket.",
    "pty.",
)
"""Modules whose functions no checkpoint needs; plain containers of ``builtins`` are none of these calls."""

_GROWTH = 8  # most bytes of float32 for each byte of a file: float8 grows fourfold, and tied tensors count twice


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
    """Tensors of a weight file under its own keys, with what is stored beside them.

    Attributes:
        spec: The network, as edgeres stored it.
        preprocess: Its preprocessing, as edgeres stored it.
        classes: Its class names, as edgeres stored them.
        architecture: Name of the network as a training script stored it; empty where none did.
        settings: Those of the modules of a whole pickled network.
        notes: For the user, one sentence each.
    """

    tensors: Mapping[str, StoredTensor]
    spec: ResNetSpec | None = None
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] | None = None
    architecture: str = ""
    settings: ModuleSettings = field(default_factory=ModuleSettings)
    notes: tuple[str, ...] = ()


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


def read_file(path: Path, key: str | None = None) -> RawFile:
    """Reads a weight file by its suffix; ``key`` names the dictionary or prefix to take, None finds it.

    Raises:
        ModelError: Missing, truncated, of an unknown format, without tensors, or with several networks.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file", "check --weights")
    if path.name.endswith(INDEX):
        parts = shards(path)
        tensors = {name: tensor for part in parts for name, tensor in _shard(part).items()}
        raw = _restricted(path, RawFile(tensors, notes=(f"the weights are in {len(parts)} files",)), key)
    else:
        raw = _read_part(path, key)
    try:
        tensors, notes = computed(raw.tensors)
    except ModelError as failure:
        raise ModelError(f"{path}: {failure.what}", failure.hint) from failure
    return replace(raw, tensors=tensors, notes=(*raw.notes, *notes))


def _shard(path: Path) -> Mapping[str, StoredTensor]:
    """The tensors in one of several files, which may hold no convolution."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path).tensors
    file = torch_file(path)
    values = entries(file.content) or {}
    return {key: tensor for key, value in values.items() if (tensor := file.tensor(value)) is not None}


def _read_part(path: Path, key: str | None) -> RawFile:
    if path.suffix == ".safetensors":
        return _restricted(path, _read_safetensors(path), key)
    if path.suffix in TORCH_SUFFIXES:
        return _read_torch(path, key)
    known = ", ".join(sorted(WEIGHT_SUFFIXES))
    raise ModelError(f"{path}: {path.suffix or 'no suffix'} is no weight file", f"known: {known}")


def _restricted(path: Path, raw: RawFile, key: str | None) -> RawFile:
    """Only the tensors under a prefix, where one is asked for."""
    if not key:
        return raw
    try:
        chosen = choose([StateDict("", raw.tensors)], key)
    except ModelError as failure:
        raise ModelError(f"{path} {failure.what}", failure.hint) from failure
    return replace(raw, tensors=chosen.state.tensors, notes=(*raw.notes, *chosen.notes))


def _read_safetensors(path: Path) -> RawFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {
                key: StoredTensor(tuple(file.get_slice(key).get_shape()), partial(_safetensor, path, key))
                for key in file.keys()  # noqa: SIM118  # no iteration of its own
            }
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


def _safetensor(path: Path, key: str) -> torch.Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(key)
            return tensor
    except (SafetensorError, OSError, ValueError) as failure:
        raise ModelError(f"cannot be read: {failure}", "fetch the file again") from failure


def torch_file(path: Path) -> TorchFile:
    """The structure of a PyTorch file.

    Raises:
        ModelError: Truncated, or no PyTorch file.
    """
    try:
        return open_torch(lambda: path.open("rb"), path.stat().st_size)
    except OSError as failure:
        raise ModelError(f"{path} cannot be read: {failure.strerror}", "check its permissions") from failure
    except ModelError as failure:
        what = failure.what if failure.what.startswith("is a") else f"is truncated or no PyTorch file: {failure.what}"
        raise ModelError(f"{path} {what}", failure.hint) from failure


def _read_torch(path: Path, key: str | None) -> RawFile:
    file = torch_file(path)
    try:
        chosen = choose(state_dicts(file), key or None)
    except ModelError as failure:
        raise ModelError(f"{path} {failure.what}", failure.hint) from failure
    state = chosen.state
    notes = (*chosen.notes, *_unread(file, of_module=bool(state.module)))
    return RawFile(state.tensors, architecture=architecture(file.content), settings=state.settings, notes=notes)


def _unread(file: TorchFile, *, of_module: bool) -> tuple[str, ...]:
    """Notes on the classes and functions in a pickle, none of which was called; a module's own are no news."""
    code = [name for name in file.unread if name.startswith(_CODE) or name == "a computed function"]
    notes = []
    if code:
        notes.append(f"the file would run {', '.join(code[:3])} in torch.load: nothing of it was run; do not trust it")
    if (names := [name for name in file.unread if name not in code]) and not of_module:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        notes.append(f"objects of {', '.join(names[:3])}{more} in the file are left out")
    return tuple(notes)


def to_arrays(tensors: Mapping[str, StoredTensor], stored: int | None = None) -> dict[str, NDArray[np.float32]]:
    """Tensors as float32 arrays, checked; ``stored`` are the bytes of their files.

    Raises:
        ModelError: A value is NaN or infinite, a variance is negative, a tensor holds integers, or they are larger
            than their files could hold.
    """
    size = 4 * sum(prod(tensor.shape) for tensor in tensors.values())
    if stored is not None and size > _GROWTH * stored + 4096:
        raise ModelError(f"tensors of {size >> 20} MiB in a file of {stored >> 10} KiB", "the file is damaged")
    return {key: _to_array(key, tensor) for key, tensor in tensors.items()}


def _to_array(key: str, stored: StoredTensor) -> NDArray[np.float32]:
    import torch

    try:
        tensor = stored.read()
    except ModelError as failure:
        raise ModelError(f"weight {key!r} {stored.shape} {failure.what}", failure.hint) from failure
    if tensor.is_quantized or not tensor.is_floating_point() or tensor.is_meta or tensor.layout != torch.strided:
        kind = f"{str(tensor.layout).removeprefix('torch.')} {str(tensor.dtype).removeprefix('torch.')}"
        raise ModelError(f"weight {key!r} is a {kind} tensor", "pass dense float weights")
    array = tensor.detach().to(torch.float32).numpy()
    if bad := int(np.size(array) - np.count_nonzero(np.isfinite(array))):
        what = f"weight {key!r} {array.shape} holds {bad} NaN or infinite values"
        raise ModelError(what, "training diverged: use an earlier one")
    if key.endswith("running_var") and array.size and array.min() < 0:
        raise ModelError(f"weight {key!r} holds a negative variance ({array.min():g})", "the file is damaged")
    return array
