"""ONNX Runtime's ``.ort`` files: their operators, and a canonical form with equal bytes for equal networks.

The format is the FlatBuffers schema onnxruntime/core/flatbuffers/schema/ort.fbs of github.com/microsoft/onnxruntime,
whose Python readers are part of ONNX Runtime. Its root table refers to a version, the model, and a table of operator
types; the file is written from its end to its start in that order.
"""

from __future__ import annotations

from collections import defaultdict
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeres.backends.session import FLATBUFFERS, PACKAGE

if TYPE_CHECKING:
    from collections.abc import Iterable

IDENTIFIER = b"ORTM"
ALIGNMENT = 16


class OrtOperator(NamedTuple):
    """One executed operator: its domain, the opset that last changed it, and its type."""

    domain: str
    since: int
    kind: str


def operators(data: bytes) -> tuple[OrtOperator, ...]:
    """Every operator of an ``.ort`` file, in file order; classifiers have no subgraphs."""
    graph = _root(data).Model().Graph()
    nodes = (graph.Nodes(index) for index in range(graph.NodesLength()))
    return tuple(
        OrtOperator(node.Domain().decode() or "ai.onnx", node.SinceVersion(), node.OpType().decode()) for node in nodes
    )


def required_operators(executed: Iterable[OrtOperator]) -> str:
    """Configuration of a reduced build: one ``domain;opset;Operator,...`` line each, sorted.

    Format: onnxruntime.ai/docs/reference/operators/reduced-operator-config-file.html
    """
    kinds: dict[tuple[str, int], set[str]] = defaultdict(set)
    for operator in executed:
        kinds[operator.domain, operator.since].add(operator.kind)
    return "".join(f"{domain};{since};{','.join(sorted(names))}\n" for (domain, since), names in sorted(kinds.items()))


def canonical(data: bytes) -> bytes:
    """The file with its table of operator types sorted by key.

    ONNX Runtime keeps that table in a hash map, whose order varies between saves; the model after it is the same every
    time. The model's bytes are kept and the table is written again before them.
    """
    flatbuffers = FLATBUFFERS.load()
    root = _root(data)
    table = root.Model()._tab  # the readers do not expose positions
    vtable = table.Pos - flatbuffers.encode.Get(flatbuffers.packer.soffset, data, table.Pos)
    start = min(table.Pos, vtable)  # a table's own layout is directly before it, a shared one after it
    resolver = root.KernelTypeStrResolver()
    if resolver._tab.Pos >= start:
        raise ValueError("the .ort file is not laid out as ONNX Runtime writes it")

    builder = flatbuffers.Builder(0)
    builder.Bytes = bytearray(len(data)) + data[start:]
    builder.head, builder.minalign = len(data), ALIGNMENT
    types = _write_types(builder, resolver)
    version = builder.CreateString(root.OrtVersion())
    place = len(data) - table.Pos
    session = _table(builder, "InferenceSession", OrtVersion=version, Model=place, KernelTypeStrResolver=types)
    builder.Finish(session, IDENTIFIER)
    return bytes(builder.Output())


def _write_types(builder: Any, resolver: Any) -> int:
    """Writes the table of operator types, whose vectors the format requires sorted by key; returns its offset."""
    offsets = []
    for entry in (resolver.OpKernelTypeStrArgs(index) for index in range(resolver.OpKernelTypeStrArgsLength())):
        name = builder.CreateString(entry.OpId())
        rows = (entry.KernelTypeStrArgs(index) for index in range(entry.KernelTypeStrArgsLength()))
        vector = _vector(builder, [_write_row(builder, row) for row in rows])
        offsets.append(_table(builder, "OpIdKernelTypeStrArgsEntry", OpId=name, KernelTypeStrArgs=vector))
    return _table(builder, "KernelTypeStrResolver", OpKernelTypeStrArgs=_vector(builder, offsets))


def _write_row(builder: Any, row: Any) -> int:
    arguments = (row.Args(index) for index in range(row.ArgsLength()))
    offsets = [
        _table(builder, "ArgTypeAndIndex", ArgType=argument.ArgType(), Index=argument.Index()) for argument in arguments
    ]
    name = builder.CreateString(row.KernelTypeStr())
    return _table(builder, "KernelTypeStrArgsEntry", KernelTypeStr=name, Args=_vector(builder, offsets))


def _table(builder: Any, kind: str, **fields: int) -> int:
    """Writes a table with these fields, in their order; returns its offset."""
    writer = _reader(kind)
    writer.Start(builder)
    for name, value in fields.items():
        getattr(writer, f"Add{name}")(builder, value)
    return int(writer.End(builder))


def _vector(builder: Any, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _root(data: bytes) -> Any:
    return _reader("InferenceSession").InferenceSession.GetRootAs(data)


def _reader(name: str) -> Any:
    PACKAGE.load("tools.ort_format_model")  # puts ort_flatbuffers_py on the path
    return import_module(f"ort_flatbuffers_py.fbs.{name}")
