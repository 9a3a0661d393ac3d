"""Reader of ETDump, ExecuTorch's record of executed kernels and their times.

The format is the size-prefixed FlatBuffers schema executorch/devtools/etdump/etdump_schema_flatcc.fbs; fields are
numbered in its order. ExecuTorch's own reader needs pandas and a schema compiler, for four fields.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeres.backends.loading import load

if TYPE_CHECKING:
    from collections.abc import Iterator

_RUNS, _EVENTS, _PROFILE = 1, 3, 0  # fields of ETDump, RunData, Event
_NAME, _DELEGATE_NAME, _START, _END = 0, 4, 6, 7  # fields of ProfileEvent
_PREFIX = 4  # bytes of the size prefix
_FRAMES = re.compile(r"(DELEGATE_CALL|OPERATOR_CALL|Method::.*|Program::.*|Execute|Default)")
"""Events that enclose kernels."""


class Event(NamedTuple):
    """One executed kernel.

    Attributes:
        name: XNNPACK's name with its number, such as ``Convolution (NHWC, QC8) IGEMM #3``, or ``native_call_`` and the
            name of a portable operator.
        ticks: Duration in units of the platform's clock: nanoseconds on Linux.
    """

    name: str
    ticks: int


def read_etdump(data: bytes) -> tuple[tuple[Event, ...], ...]:
    """Kernels of every run that had any, in order of execution."""
    flatbuffers = load("flatbuffers", "FlatBuffers", "flatbuffers")
    if len(data) <= _PREFIX:
        return ()
    root = flatbuffers.table.Table(data, _PREFIX + flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, _PREFIX))
    runs = (tuple(_kernels(flatbuffers, run)) for run in _tables(flatbuffers, root, _RUNS))
    return tuple(run for run in runs if run)


def _kernels(flatbuffers: Any, run: Any) -> Iterator[Event]:
    for event in _tables(flatbuffers, run, _EVENTS):
        at = event.Offset(_slot(_PROFILE))
        if at:
            profile = flatbuffers.table.Table(event.Bytes, event.Indirect(event.Pos + at))
            named = profile.Offset(_slot(_DELEGATE_NAME)) or profile.Offset(_slot(_NAME))
            name = profile.String(profile.Pos + named).decode() if named else ""
            began, ended = (
                profile.GetSlot(_slot(field), 0, flatbuffers.number_types.Uint64Flags) for field in (_START, _END)
            )
            if name and not _FRAMES.fullmatch(name):
                yield Event(name, ended - began)


def _tables(flatbuffers: Any, table: Any, field: int) -> Iterator[Any]:
    """Tables of a vector; empty where the field is absent."""
    at = table.Offset(_slot(field))
    if at:
        first = table.Vector(at)
        for index in range(table.VectorLen(at)):
            yield flatbuffers.table.Table(table.Bytes, table.Indirect(first + 4 * index))


def _slot(field: int) -> int:
    """Offset of a field in a vtable, after two sizes of two bytes each."""
    return 4 + 2 * field
