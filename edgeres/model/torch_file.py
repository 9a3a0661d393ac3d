"""PyTorch files read as data: the archive's pickle without running it, and tensors by checked offsets into the file.

Formats: the zip archive since PyTorch 1.6, the stream of pickles and storages before it, and a plain pickle, whose
storages or numpy arrays are inside. Tensors are described first; only those of the network are read.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from math import prod
from typing import IO, TYPE_CHECKING

from edgeres.errors import ModelError
from edgeres.model.inert_pickle import read_pickle
from edgeres.model.pickled_values import Name, Pickle, Record
from edgeres.model.stored_tensor import ARRAYS, BUFFERS, StoredTensor, array, integers, is_count, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    Open = Callable[[], IO[bytes]]

_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file before PyTorch 1.6
_MOST_PICKLE = 1 << 28  # bytes of the pickle inside a zip archive
_LOCAL_HEADER = 30  # bytes of a zip entry's header before its name
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, ValueError, OSError, EOFError, NotImplementedError, RuntimeError,
)  # fmt: skip
"""What ``zipfile`` raises for a damaged archive; it has no common exception."""

_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "QInt8Storage": "qint8", "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32", "UntypedStorage": "uint8",
}  # fmt: skip
_MOST_WRAPPERS = 8  # a parameter of a subclass of a view
_QUANTIZED_BYTES = {"qint8": 1, "quint8": 1, "qint32": 4}
_VIEWS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v3")
_WRAPPED = (
    "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state", "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer", "torch._utils._rebuild_device_tensor_from_numpy",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor",
)  # fmt: skip
_TYPED = ("torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type")
_UNREAD = {
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_wrapper_subclass": "subclass of a",
}
"""Tensors that are no dense ones, with their kind."""

_BUILDERS = frozenset({*_VIEWS, *_WRAPPED, *_TYPED, *_UNREAD, "torch.storage._load_from_bytes"})
_PLAIN = frozenset({*ARRAYS, *BUFFERS, "numpy.dtype", "torch.Size", "torch.device", "numpy.core.multiarray.scalar",
                    "numpy._core.multiarray.scalar", "torch.serialization._get_layout"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Extent:
    """Bytes of a storage in the file; ``crc`` is 0 where torch was asked to compute none."""

    start: int
    count: int
    crc: int = 0


@dataclass(frozen=True)
class TorchFile:
    """A PyTorch file: the value of its pickle, and its storages by their keys."""

    content: object
    called: tuple[str, ...]
    open: Open
    storages: Mapping[str, _Extent]
    big_endian: bool = False

    @property
    def unread(self) -> tuple[str, ...]:
        """Classes and functions that the pickle names beyond tensors and plain containers, in order of first use."""
        return tuple(name for name in self.called if name and name not in _BUILDERS | _PLAIN)

    def tensor(self, value: object) -> StoredTensor | None:
        """The tensor or numpy array of a pickled value; None where it is something else."""
        for _ in range(_MOST_WRAPPERS):
            if not isinstance(value, Record):
                return None
            if value.name in _WRAPPED and value.arguments:
                value = value.arguments[0]
            elif value.name in _TYPED and len(value.arguments) > 2:
                builder, _type, arguments = value.arguments[:3]
                if not isinstance(builder, Name) or not isinstance(arguments, tuple):
                    return None
                value = Record(builder.text, arguments)
            else:
                break
        if not isinstance(value, Record):
            return None
        if value.name in _VIEWS and len(value.arguments) >= 4:
            return self._view(value)
        if value.name in _UNREAD:
            return unreadable(_shape_of(value.arguments), f"a {_UNREAD[value.name]} tensor")
        return array(value)

    def _view(self, value: Record) -> StoredTensor:
        storage, offset, size, stride = value.arguments[:4]
        shape, strides = integers(size), integers(stride)
        if shape is None or strides is None or len(shape) != len(strides) or not is_count(offset):
            return unreadable((), "without a valid shape")
        dtype = value.arguments[6] if value.name.endswith("_v3") and len(value.arguments) > 6 else None
        name = dtype.text.removeprefix("torch.") if isinstance(dtype, Name) else None
        assert isinstance(offset, int)
        return StoredTensor(shape, partial(self._read, storage, offset, shape, strides, name), _place(storage, offset))

    def _read(
        self, storage: object, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: str | None
    ) -> torch.Tensor:
        """A view's values as a tensor of its own.

        Raises:
            ModelError: The view is not inside its storage, or the storage not inside the file.
        """
        import torch

        file, extent, name = self._storage(storage)
        name = dtype or name
        kind = getattr(torch, name, None)
        if name in _QUANTIZED_BYTES or not isinstance(kind, torch.dtype):
            raise ModelError(f"is a {name} tensor", "pass dense float weights")
        width, count = kind.itemsize, prod(shape)
        reach = offset + sum((length - 1) * step for length, step in zip(shape, strides, strict=True)) + 1
        if not count:
            return torch.empty(shape, dtype=kind)
        if reach * width > extent.count:
            raise ModelError(f"needs {reach * width} bytes, its storage has {extent.count}", "the file is damaged")
        if count > reach:
            raise ModelError("stores fewer values than that", "the file is damaged")
        with file.open() as stream:
            content = bytearray(_bytes_of(stream, extent))
        values = torch.frombuffer(content, dtype=torch.uint8)[offset * width : reach * width].clone()
        if file.big_endian and width > 1:
            values = values.reshape(-1, width).flip(1).reshape(-1).contiguous()
        return values.view(kind).as_strided(shape, strides).clone()

    def _storage(self, storage: object) -> tuple[TorchFile, _Extent, str]:
        """The file of a storage, its bytes there, and the name of its data type."""
        if isinstance(storage, Record) and storage.name == "torch.storage._load_from_bytes" and storage.arguments:
            content = storage.arguments[0]
            if isinstance(content, bytes):  # as the standard library's pickle stores it
                inner = open_torch(partial(BytesIO, content), len(content))
                if isinstance(inner.content, Record) and not inner.content.name:
                    return inner._storage(inner.content)
        identity = storage.arguments[0] if isinstance(storage, Record) and not storage.name else None
        key, dtype = _identified(identity)
        extent = self.storages.get(key)
        if extent is None:
            raise ModelError(f"has no storage {key[:40]!r}", "the file is damaged or incomplete")
        return self, extent, dtype


def open_torch(opener: Open, size: int) -> TorchFile:
    """Reads the structure of a PyTorch file of ``size`` bytes.

    Raises:
        ModelError: Truncated, damaged, compressed, or a TorchScript program.
    """
    with opener() as stream:
        if stream.read(4) == b"PK\x03\x04":
            return _open_zip(opener, stream, size)
        stream.seek(0)
        return _open_stream(opener, stream, size)


def _open_zip(opener: Open, stream: IO[bytes], size: int) -> TorchFile:
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if any(name.endswith("/constants.pkl") for name in entries):
                raise ModelError("is a TorchScript program, not weights", "save its state_dict(), or export it to ONNX")
            name = next((name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")), None)
            if name is None:
                raise ModelError("is an archive without data.pkl, not weights", "pass the file that torch.save wrote")
            root = name.removesuffix("data.pkl")
            if entries[name].file_size > _MOST_PICKLE:
                raise ModelError(f"has a pickle of {entries[name].file_size >> 20} MiB", "save the state_dict() alone")
            content = read_pickle(BytesIO(_bytes_of(stream, _stored(entries[name], stream, size))))
            order = _stored(entries[f"{root}byteorder"], stream, size) if f"{root}byteorder" in entries else None
            big = order is not None and _bytes_of(stream, order) == b"big"
            storages = {
                entry.filename.removeprefix(f"{root}data/"): _stored(entry, stream, size)
                for entry in entries.values()
                if entry.filename.startswith(f"{root}data/")
            }
    except _DAMAGED as failure:
        raise ModelError(f"is truncated or damaged: {failure}", "fetch it again") from failure
    return TorchFile(content.value, content.called, opener, storages, big)


def _bytes_of(stream: IO[bytes], extent: _Extent) -> bytes:
    """The bytes of an extent, checked where their CRC was stored."""
    stream.seek(extent.start)
    content = stream.read(extent.count)
    if len(content) < extent.count or (extent.crc and zlib.crc32(content) != extent.crc):
        raise ModelError("has bytes that are damaged or missing", "fetch the file again")
    return content


def _stored(entry: zipfile.ZipInfo, stream: IO[bytes], size: int) -> _Extent:
    """The bytes of an entry, which torch.save never compresses."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ModelError(f"has a compressed storage {entry.filename}", "save it again with torch.save")
    stream.seek(entry.header_offset)
    header = stream.read(_LOCAL_HEADER)
    name, extra = struct.unpack("<HH", header[26:30])
    start = entry.header_offset + _LOCAL_HEADER + name + extra
    if start + entry.file_size > size:
        raise ModelError(f"is truncated in {entry.filename}", "fetch it again")
    return _Extent(start, entry.file_size, entry.CRC)


def _open_stream(opener: Open, stream: IO[bytes], size: int) -> TorchFile:
    """The pickles of a file before PyTorch 1.6: magic number, version, system, content, keys; then the storages."""
    first = read_pickle(stream)
    if first.value != _MAGIC:
        return TorchFile(first.value, first.called, opener, {})
    read_pickle(stream)
    system, content, keys = read_pickle(stream).value, read_pickle(stream), read_pickle(stream).value
    big = isinstance(system, dict) and system.get("little_endian") is False
    if not isinstance(keys, list):
        raise ModelError("lists no storages", "the file is damaged")
    storages = _following(stream, size, [str(key) for key in keys], _widths(content), big)
    return TorchFile(content.value, content.called, opener, storages, big)


def _widths(content: Pickle) -> dict[str, int]:
    """Bytes of one value, for each storage's key."""
    import torch

    widths: dict[str, int] = {}
    for identity in content.persistent:
        if not isinstance(identity, tuple) or identity[:1] != ("storage",):
            continue
        key, dtype = _identified(identity)
        widths[key] = _QUANTIZED_BYTES.get(dtype) or getattr(torch, dtype).itemsize
    return widths


def _following(
    stream: IO[bytes], size: int, keys: list[str], widths: Mapping[str, int], big: bool
) -> dict[str, _Extent]:
    storages: dict[str, _Extent] = {}
    for key in keys:
        head = stream.read(8)
        start = stream.tell()
        count = int.from_bytes(head, "big" if big else "little", signed=True) * widths.get(key, 1)
        if len(head) < 8 or count < 0 or start + count > size:
            raise ModelError(f"is truncated in storage {key[:40]}", "fetch it again")
        storages[key] = _Extent(start, count)
        stream.seek(start + count)
    return storages


def _identified(identity: object) -> tuple[str, str]:
    """Key and data type of a storage's persistent id: ``("storage", class, key, location, count)``."""
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        raise ModelError("has a storage without a key", "the file is damaged")
    kind, key = identity[1], identity[2]
    dtype = _STORAGES.get(kind.text.rpartition(".")[2]) if isinstance(kind, Name) else None
    if dtype is None or not isinstance(key, str | int):
        raise ModelError("has a storage of an unknown type", "the file is damaged")
    if len(identity) > 5 and identity[5] is not None:
        raise ModelError("is a view of a storage as of PyTorch 0.1", "save it again with a later PyTorch")
    return str(key), dtype


def _place(storage: object, offset: int) -> str:
    """The storage's key and the offset into it."""
    identity = storage.arguments[0] if isinstance(storage, Record) and not storage.name else None
    key = identity[2] if isinstance(identity, tuple) and len(identity) > 2 else None
    return f"{key}:{offset}" if isinstance(key, str) else ""


def _shape_of(arguments: tuple[object, ...]) -> tuple[int, ...]:
    return next((shape for value in arguments if (shape := integers(value))), ())
