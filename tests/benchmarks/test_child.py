from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks import child
from edgeres.errors import EdgeresError

if TYPE_CHECKING:
    from pathlib import Path

GREEDY = "b = bytearray({mib} << 20); b[::4096] = b'x' * len(b[::4096]); import time; time.sleep({rest})"


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a script as a module of its own."""
    monkeypatch.setattr(child, "CHECKOUT", tmp_path)

    def run(script: str, *arguments: str, limit_mib: float | None = None) -> child.Child:
        (tmp_path / "script.py").write_text(script)
        return child.python("script", arguments, limit_mib)

    return run


def test_a_child_hands_over_what_it_says_and_its_code(python):
    done = python("import sys; print(sys.argv[1]); print('alas', file=sys.stderr); sys.exit(3)", "hello")
    assert (done.output, done.errors, done.code, done.starved) == ("hello\n", "alas\n", 3, False)
    assert done.seconds > 0
    assert done.checked("it", 3) is done
    with pytest.raises(EdgeresError, match="it failed: alas"):
        done.checked("it")


def test_a_peak_is_the_child_s_own():
    """Measured from a small process, as the commands are: a child's account begins with its parent's memory."""
    measure = f"from benchmarks import child; print(child.python('timeit', ['-n1', '-r1', {GREEDY!r}]).peak_mib)"
    small, large = (
        float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
        for script in (measure.format(mib=mib, rest=0) for mib in (100, 228))
    )
    assert 120 < large - small < 136
    assert 100 < small < 130


def test_a_child_over_its_limit_is_ended_and_says_so(python):
    done = python(GREEDY.format(mib=200, rest=3600), limit_mib=100)
    assert done.starved
    assert done.seconds < 3600
    with pytest.raises(EdgeresError, match="out of memory"):
        done.checked("it")


def test_available_memory_is_read_from_the_kernel(tmp_path: Path):
    meminfo = tmp_path / "meminfo"
    assert child.available_mib(meminfo) is None
    meminfo.write_text("MemTotal: 4096 kB\nMemAvailable:    2048 kB\n")
    assert child.available_mib(meminfo) == 2.0
    meminfo.write_text("MemTotal: 4096 kB\n")
    assert child.available_mib(meminfo) is None
