"""ExecuTorch's records of a run, drawn here field by field."""

from __future__ import annotations

import flatbuffers
import pytest

from edgeres.backends.executorch.runner import Event, read_etdump

PROFILE_FIELDS = 8
NAME, DELEGATE_NAME, START, END = 0, 4, 6, 7


def drawn(runs, *, prefixed=True) -> bytes:
    """An ETDump of runs, each a list of ``(name, name inside a delegate, start, end)``."""
    builder = flatbuffers.Builder(0)
    made = [vector(builder, [event(builder, *entry) for entry in run]) for run in runs]
    tables = []
    for events in made:
        builder.StartObject(4)
        builder.PrependUOffsetTRelativeSlot(3, events, 0)
        tables.append(builder.EndObject())
    listed = vector(builder, tables)
    builder.StartObject(2)
    builder.PrependUint32Slot(0, 1, 0)
    builder.PrependUOffsetTRelativeSlot(1, listed, 0)
    root = builder.EndObject()
    (builder.FinishSizePrefixed if prefixed else builder.Finish)(root, b"ED00")
    return bytes(builder.Output())


def vector(builder, offsets):
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def event(builder, name, inside, start, end):
    named, delegate = (builder.CreateString(text) if text else 0 for text in (name, inside))
    builder.StartObject(PROFILE_FIELDS)
    builder.PrependUOffsetTRelativeSlot(NAME, named, 0)
    builder.PrependUOffsetTRelativeSlot(DELEGATE_NAME, delegate, 0)
    builder.PrependUint64Slot(START, start, 0)
    builder.PrependUint64Slot(END, end, 0)
    profile = builder.EndObject()
    builder.StartObject(3)
    builder.PrependUOffsetTRelativeSlot(0, profile, 0)
    return builder.EndObject()


def test_kernels_are_read_run_by_run_without_what_encloses_them():
    loading = [("Method::init", None, 1, 9), ("Program::load_method", None, 0, 9)]
    first = [(None, "Convolution (NHWC, QC8) IGEMM #1", 10, 17), ("DELEGATE_CALL", None, 9, 18)]
    second = [("native_call_add.out", None, 20, 23), ("OPERATOR_CALL", None, 19, 24), ("Method::execute", None, 18, 25)]
    assert read_etdump(drawn([loading, first, second])) == (
        (Event("Convolution (NHWC, QC8) IGEMM #1", 7),),
        (Event("native_call_add.out", 3),),
    )


@pytest.mark.parametrize("data", [b"", b"\0\0\0\0", drawn([]), drawn([[]])])
def test_empty_etdump_has_no_events(data):
    assert read_etdump(data) == ()


def test_times_beyond_four_bytes_are_whole():
    (((_, ticks),),) = read_etdump(drawn([[("native_call_relu.out", None, 2**40, 2**40 + 2**33)]]))
    assert ticks == 2**33
