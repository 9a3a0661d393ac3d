"""Hostile and damaged pickles: right tensors or ``ModelError``, never another exception, a hang or a side effect."""

import argparse
import io
import os
import pickle
import pickletools
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from edgeres.errors import ModelError
from edgeres.model.inert_pickle import read_pickle
from edgeres.model.pickled_values import Name, Record
from edgeres.model.zoo import read_checkpoint

STATE = {
    "conv1.weight": torch.ones(4, 3, 3, 3), "bn1.weight": torch.ones(4), "bn1.bias": torch.ones(4),
    "bn1.running_mean": torch.ones(4), "bn1.running_var": torch.ones(4),
    "layer1.0.conv1.weight": torch.ones(4, 4, 3, 3), "layer1.0.conv2.weight": torch.ones(4, 4, 3, 3),
    **{f"layer1.0.bn{n}.{k}": torch.ones(4) for n in (1, 2) for k in ("weight", "bias", "running_mean", "running_var")},
    "fc.weight": torch.ones(2, 4), "fc.bias": torch.ones(2),
}  # fmt: skip


OPCODES = "()[]{}.0123IKMJNcRbetsuqrhjQPoip\x80\x8a\x85\x93\x94\x95"


def saved(kind):
    """A small checkpoint's bytes: zip, before PyTorch 1.6, Python's own pickle, or a whole module."""
    stream = io.BytesIO()
    content = {"state_dict": STATE, "args": argparse.Namespace(lr=0.1), "epoch": 3, "history": [(1, 2.5), None, True]}
    if kind == "pickle":
        return pickle.dumps(STATE, protocol=2)
    if kind == "module":
        content = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(content, stream, _use_new_zipfile_serialization=kind != "legacy")
    return stream.getvalue()


def mutated(content, generator):
    """One to four changed, removed, repeated or inserted pieces; most of them in the pickle."""
    data = bytearray(content)
    for _ in range(int(generator.integers(1, 5))):
        place = int(generator.integers(0, len(data)))
        length = int(generator.integers(1, 9))
        match generator.integers(0, 5):
            case 0:
                data[place] = int(generator.integers(0, 256))
            case 1:
                del data[place : place + length]
            case 2:
                data[place:place] = data[place : place + 8 * length]
            case 3:
                data[place:place] = generator.bytes(length)
            case _:
                data[place] = ord(
                    str(generator.choice(list("()[]{}.0123IKMJNcRbetsuqrhjQPoip\x80\x8a\x85\x93\x94\x95")))
                )
        data = data or bytearray(b".")
    return bytes(data)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "module"])
def test_damaged_checkpoints_give_tensors_or_a_model_error(kind, tmp_path):
    generator, content = np.random.default_rng(7), saved(kind)
    path = tmp_path / "w.pth"
    before = set(sys.modules)
    for _ in range(250):
        path.write_bytes(mutated(content, generator))
        try:
            loaded = read_checkpoint(path)
        except ModelError:
            continue
        assert all(np.isfinite(array).all() for array in loaded.weights.values())
    imported = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert imported <= {"torch", "numpy", "edgeres", "encodings"}


@pytest.mark.parametrize("protocol", range(6))
def test_mutated_programs_give_a_value_or_a_model_error(protocol):
    generator = np.random.default_rng(protocol)
    content = pickle.dumps(
        {
            "a": [1, 2.5, "text", b"bytes", None, True, (1, 2), {3}, frozenset({4}), 1 << 70],
            "b": argparse.Namespace(x=1),
        },
        protocol=protocol,
    )
    for _ in range(1500):
        try:
            read_pickle(io.BytesIO(mutated(content, generator)))
        except ModelError:
            continue


class Call:
    """Pickled as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "value",
    [
        Call(os.mkdir, "pwned"),
        Call(exec, "import os; os.mkdir('pwned')"),
        Call(getattr, Call(__import__, "os"), "mkdir"),
        Call(torch.load, "pwned"),
        Call(open, "pwned", "w"),
    ],
)
def test_calls_are_recorded_and_not_made(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in range(6):
        found = read_pickle(io.BytesIO(pickle.dumps([value], protocol=protocol)))
        assert isinstance(found.value[0], Record)
        assert found.called
    assert list(tmp_path.iterdir()) == []


def test_computed_functions_are_recorded_and_not_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = b"c__builtin__\ngetattr\n(cos\npath\nVjoin\ntR(Vpwned\ntR."
    found = read_pickle(io.BytesIO(program))
    assert found.called == ("builtins.getattr", "a computed function")
    assert list(tmp_path.iterdir()) == []


def test_every_instruction_of_pickle_is_known_or_refused():
    for opcode in pickletools.opcodes:
        with pytest.raises(ModelError):
            read_pickle(io.BytesIO(opcode.code.encode("latin1")))


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a memo of two billion entries
        b"B\xff\xff\xff\x7fabc.",  # bytes of two gigabytes
        b"\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",
        b"\x95" + struct.pack("<Q", 1 << 62) + b"N.",
        b"]" + b"]a" * 20_000 + b".",
        b"(" * 100_000 + b"N" + b"t" * 100_000 + b".",  # tuples in tuples
        b"}(" + b"(" * 100_000 + b"N" + b"t" * 100_000 + b"Nu.",  # such a tuple as a key
        b"]q\x00" + b"h\x00h\x00\x86q\x00" * 5000 + b".",  # two to the power of 5,000 leaves
        b"(" + b"N" * 100_000 + b"lq\x00" + b"ccollections\nOrderedDict\nh\x00\x85R0" * 1000 + b"N.",
        b"L" + b"9" * 100_000 + b"L\n.",
    ],
)
def test_small_files_take_little_memory(program):
    tracemalloc.start()
    try:
        found = read_pickle(io.BytesIO(program))
        del found
    except ModelError:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 << 20


@pytest.mark.parametrize("code", [b"\x8e", b"\x96", b"\x8d"])
def test_lengths_beyond_the_end_of_a_file_allocate_nothing(code, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(code + struct.pack("<Q", 1 << 62) + b"abc.")
    with pytest.raises(ModelError, match="truncated or no PyTorch file"):
        read_checkpoint(path)


def test_a_value_of_every_kind_is_read_as_data():
    value = {"n": None, "t": True, "i": -3, "l": 1 << 70, "f": 2.5, "s": "é", "b": b"\xff", "x": [(1, 2), {"k": [3]}]}
    for protocol in range(6):
        assert read_pickle(io.BytesIO(pickle.dumps(value, protocol=protocol))).value == value
    assert read_pickle(io.BytesIO(pickle.dumps(os.path.join))).value == Name("posixpath.join")


def archive(path, program, storage=b"\0" * 16):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("w/data.pkl", program)
        file.writestr("w/data/0", storage)
    return path


def view(offset, size, stride, count=4):
    """A pickle of one tensor over storage 0."""

    def numbers(values):
        return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"

    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI%d\ntQ" % count
    built = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"I%d\n" % offset + numbers(size) + numbers(stride)
    return b"}Vconv1.weight\n" + built + b"I00\n}tRs."


@pytest.mark.parametrize(
    "tensor",
    [
        (0, (1, 1, 2, 3), (6, 6, 3, 1)),
        (2, (1, 1, 3, 1), (1, 1, 1, 1)),
        (1 << 40, (1, 1, 1, 1), (1, 1, 1, 1)),
        (-1, (1, 1, 1, 1), (1, 1, 1, 1)),
        (0, (1 << 40, 1 << 40, 3, 3), (0, 0, 0, 0)),
        (0, (100_000, 1000, 3, 3), (0, 0, 0, 1)),
        (0, (1, 1, 1, 1), (1, 1, 1)),
        (0, (1, 1, 2, 2), (0, 0, -2, 1)),
    ],
)
def test_views_outside_of_their_storage_are_refused(tensor, tmp_path):
    path = archive(tmp_path / "w.pth", view(*tensor))
    with pytest.raises(ModelError):
        read_checkpoint(path)


def test_compressed_and_overlapping_archives_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("w/data.pkl", view(0, (1, 1, 2, 2), (4, 4, 2, 1)))
        file.writestr("w/data/0", b"\0" * (1 << 24))
    with pytest.raises(ModelError, match="compressed"):
        read_checkpoint(path)


def test_big_endian_archives_are_read(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(STATE, path)
    swapped = tmp_path / "big.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(swapped, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if "/data/" in name:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            target.writestr(name, b"big" if name.endswith("byteorder") else content)
    assert (read_checkpoint(swapped).weights["fc.weight"] == 1).all()
