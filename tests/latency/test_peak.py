"""The loops' bytes against an assembler's, and against the processor this runs on."""

import platform
import sys

import pytest

from edgeres.errors import StageError
from edgeres.latency.benchmark.peak import loop, peak_of
from edgeres.targets.host import cpu_flags

WIDE = frozenset({"avx2", "fma", "avx512f", "avx512_vnni"})
NARROW = frozenset({"avx2", "fma", "avx_vnni"})


@pytest.mark.parametrize(
    ("unit", "flags", "first", "last", "macs"),
    [
        # GNU as: vpdpbusd zmm0,zmm30,zmm31 and zmm23; vfmadd231ps of the same; their VEX forms on ymm0 and ymm13
        ("int8", WIDE, "62920d4050c7", "62820d4050ff", 24 * 64),
        ("float32", WIDE, "62920d40b8c7", "62820d40b8ff", 24 * 16),
        ("int8", NARROW, "c4c20d50c7", "c4420d50ef", 14 * 32),
        ("float32", NARROW, "c4c20db8c7", "c4420db8ef", 14 * 8),
    ],
)
def test_bytes_are_those_of_an_assembler(unit, flags, first, last, macs):
    made = loop(unit, flags)
    assert made.macs == macs
    assert made.code.count(bytes.fromhex(first)) == made.code.count(bytes.fromhex(last)) == 1
    body = made.code[made.code.index(bytes.fromhex(first)) :]
    assert body.endswith(bytes.fromhex("c5f877c3"))  # vzeroupper, ret
    jump = int.from_bytes(body[-8:-4], "little", signed=True)
    assert jump == -(len(body) - 4)  # back to the first multiply-add


@pytest.mark.parametrize("unit", ["int8", "float32"])
def test_a_processor_without_the_instruction_has_no_loop(unit):
    assert loop(unit, frozenset({"sse2", "avx2", "avx512f"} if unit == "int8" else {"sse2"})) is None


def test_flags_are_read_from_cpuinfo(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nflags\t: none\n")
    assert cpu_flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "fma"}
    assert cpu_flags(tmp_path / "absent") == frozenset()


HERE = sys.platform == "linux" and platform.machine() == "x86_64"


@pytest.mark.parametrize("unit", ["int8", "float32"])
def test_peak_of_this_processor_is_plausible_or_refused_with_a_reason(unit):
    if not HERE or loop(unit, cpu_flags()) is None:
        with pytest.raises(StageError, match=r"no peak is measured|has no"), peak_of(unit, (0,)):
            pass
        return
    with peak_of(unit, (0,)) as measure:
        # From what a processor with much else to do still reaches, a thousandth, to what AMX alone exceeds.
        assert 1e6 < max(measure() for _ in range(3)) < 4e12
