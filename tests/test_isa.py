"""What a processor's flags say of its integer sums, and what follows for a target that is built on this host."""

from __future__ import annotations

import pytest

from edgeres.targets import target
from edgeres.targets.host import host_isa, saturates
from edgeres.targets.target import find_target

FLAGS = "processor\t: 0\nflags\t\t: fpu sse4_1 avx2 fma {}\nflags\t\t: other\n"


@pytest.mark.parametrize(
    ("flags", "isa", "cut"),
    [
        ("", "avx2", True),
        ("avx512f avx512bw", "avx512", True),
        ("avx_vnni", "avx_vnni", False),
        ("avx512f avx512bw avx512_vnni", "avx512_vnni", False),
        ("avx512f avx512bw avx512_vnni amx_tile amx_int8", "amx", False),
    ],
)
def test_processor_is_known_by_its_flags(tmp_path, flags, isa, cut):
    (tmp_path / "cpuinfo").write_text(FLAGS.format(flags))
    assert host_isa("x86_64", tmp_path / "cpuinfo") == isa
    assert saturates(isa) == cut


def test_unknown_x86_counts_as_one_that_saturates_and_arm_does_not(tmp_path):
    assert host_isa("AMD64", tmp_path / "missing") == "avx2"
    assert not saturates(host_isa("aarch64", tmp_path / "missing"))


@pytest.mark.parametrize(("isa", "bits"), [("avx2", 7), ("avx512", 7), ("avx512_vnni", 8), ("neon", 8)])
def test_openvino_gets_seven_bit_weights_where_sums_saturate(monkeypatch, isa, bits):
    monkeypatch.setattr(target, "host_isa", lambda: isa)
    target.targets.cache_clear()
    try:
        assert find_target("x86").scheme.bits_of("layer1.0.conv1") == bits
        assert find_target("cpu").scheme.bits_of("layer1.0.conv1") == 8
    finally:
        target.targets.cache_clear()
