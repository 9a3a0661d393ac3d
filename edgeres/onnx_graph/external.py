"""ONNX files and their external tensors, read only within the file's folder and at their declared length."""

from __future__ import annotations

from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no stubs
from onnx import TensorProto, helper

from edgeres.errors import ModelError
from edgeres.model.spec import WEIGHT_SUFFIXES
from edgeres.settings import digest, sha256_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import ModelProto

MAX_BYTES = (1 << 31) - 1
"""Largest size that protobuf can hold; a classifier has a tenth of it."""

_EXPORT_AGAIN = "export the model again, or save it as one file"


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor stored in a model's main graph: initializers, then attributes of nodes."""
    yield from model.graph.initializer
    for node in model.graph.node:
        for entry in node.attribute:
            if entry.HasField("t"):
                yield entry.t
            yield from entry.tensors


def content_digest(path: Path) -> str:
    """sha256 of an ONNX file and of its external tensor files, as 64 hex digits.

    Raises:
        ModelError: The file is not ONNX, or refers to a file outside its folder.
    """
    own = sha256_file(path)
    entries = {
        (tensor.name, entry.value)
        for tensor in tensors(parse(path))
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = {location: sha256_file(_inside(path.parent, location, name)) for name, location in entries}
    return digest([own, files]) if files else own


def parse(path: Path) -> ModelProto:
    """Parses a file without checking it; external tensors are not loaded.

    Raises:
        ModelError: No such file, too large, or not ONNX.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(f"{path} has {size} bytes, more than an ONNX file may", "store the weights beside it")
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as failure:
        raise ModelError(f"{path} cannot be read: {failure.strerror}", "check the path") from failure
    except DecodeError as failure:
        if path.suffix.lower() in WEIGHT_SUFFIXES:
            compiled = f"edgeres compile MODEL --target TARGET --weights {path} --data DIR --until export --out RUN"
            raise ModelError(
                f"{path} is a weights file, not an ONNX file", f"{compiled} writes RUN/model.onnx"
            ) from failure
        raise ModelError(f"{path} is no ONNX file, or is cut short", "copy or export it again") from failure
    if not model.graph.node or not model.graph.output:
        raise ModelError(f"{path} holds no graph", "copy or export it again")
    if not all(isinstance(text, str) for text in _texts(model)):
        raise ModelError(f"{path} has a name that is no text", "copy or export it again")
    return model


def _texts(model: ModelProto) -> Iterator[object]:
    """Every name in a model; protobuf returns bytes where one is not UTF-8."""
    graph = model.graph
    for node in graph.node:
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        yield from (entry.name for entry in node.attribute)
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for tensor in tensors(model):
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))
    yield from (entry.domain for entry in model.opset_import)


def load_external(model: ModelProto, folder: Path, limit: int) -> None:
    """Loads external tensors into a parsed model, in place, at most ``limit`` bytes in all.

    Nothing outside ``folder``, the folder of the model's file, is opened. ``onnx.external_data_helper`` takes any
    length that the file has, whatever the tensor's shape.

    Raises:
        ModelError: A path that leaves the folder, a missing file, or a length that does not fit the tensor.
    """
    for tensor in tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.raw_data = _read(tensor, folder, limit)
            limit -= len(tensor.raw_data)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def _read(tensor: TensorProto, folder: Path, limit: int) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _inside(folder, entries.get("location", ""), tensor.name)
    wanted = prod(tensor.dims) * _byte_width(tensor)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", wanted))
    except ValueError as failure:
        raise ModelError(f"tensor {tensor.name!r}: offset or length is no number", _EXPORT_AGAIN) from failure
    if offset < 0 or length != wanted:
        what = f"tensor {tensor.name!r} of shape {list(tensor.dims)} takes {wanted} bytes, not {length} at {offset}"
        raise ModelError(what, _EXPORT_AGAIN)
    if length > limit:
        raise ModelError(f"tensor {tensor.name!r} takes {length} bytes, more than a model may", "use a smaller model")
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(length)
    except OSError as failure:
        raise ModelError(f"{path} cannot be read: {failure.strerror}", "put the weights beside the model") from failure
    if len(data) != length:
        what = f"{path} ends before tensor {tensor.name!r}: {len(data)} of {length} bytes at {offset}"
        raise ModelError(what, "copy it again")
    return data


def _inside(folder: Path, location: str, tensor: str) -> Path:
    """Path of an external tensor file; one that is absolute, has ``..`` or links out of the folder is refused."""
    where = f"tensor {tensor!r} lies in {location!r}"
    parts = (*PurePosixPath(location).parts, *PureWindowsPath(location).parts)
    if not location or ".." in parts or PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor:
        raise ModelError(f"{where}, outside the model's folder", "keep the weights beside the model")
    home = folder.resolve()
    path = (home / location).resolve()
    if not path.is_relative_to(home):
        raise ModelError(f"{where}, a link out of the model's folder", "keep the weights beside the model")
    if not path.is_file():
        raise ModelError(f"{where}, which is not there", "put the weights beside the model")
    return path


def _byte_width(tensor: TensorProto) -> int:
    """Bytes of one element; a type without a fixed width of whole bytes is refused."""
    numeric = set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED, TensorProto.STRING}
    if tensor.data_type not in numeric:
        raise ModelError(f"tensor {tensor.name!r} has no numeric type", _EXPORT_AGAIN)
    return int(np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize)
