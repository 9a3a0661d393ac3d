"""What ``make test WAY=...`` asks for is in force, in this process and in those that tests start."""

import os
import re
import subprocess
import sys

import pytest
import torch

FACTS = """
import torch
print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
torch.nn.functional.conv2d(torch.ones(16, 64, 32, 32), torch.ones(64, 64, 3, 3))
"""


@pytest.fixture(scope="module")
def child():
    """What a process says that inherits the environment; oneDNN names its instructions when it is first used."""
    done = subprocess.run(
        [sys.executable, "-c", FACTS],
        env={**os.environ, "ONEDNN_VERBOSE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_aten_uses_the_instructions_that_were_asked_for(child):
    here = torch.backends.cpu.get_cpu_capability()
    asked = os.environ.get("ATEN_CPU_CAPABILITY")
    assert asked is None or here == asked.upper()
    assert f"{here} " in child


def test_onednn_uses_no_wider_instructions_than_were_asked_for(child):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch has no oneDNN here")
    found = re.search(r"cpu,isa:(.*)", child)
    assert found
    if os.environ.get("ONEDNN_MAX_CPU_ISA") == "AVX2":
        assert not re.search("AVX-?512|AVX10|AMX|VNNI", found[1], re.IGNORECASE)


def test_threads_are_as_many_as_were_asked_for(child):
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])
    assert f" {torch.get_num_threads()}\n" in child
