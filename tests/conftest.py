"""Fixtures every room may use: thin networks, seeded numbers."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import signal
from dataclasses import replace

# Cores are shared by whatever the tests start, and a thread that spins while it waits takes one from the thread it
# waits for: two threads on a loaded machine were a hundred times slower. Processes that tests start inherit both
# variables; `make test WAY=...` sets another number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch
from random_weights import random_weights

from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.targets.target import find_target

if TYPE_CHECKING:
    from edgeres.model.weights import Weights

THREADS = int(os.environ["OMP_NUM_THREADS"])
torch.set_num_threads(THREADS)
# The key of every stage has the versions of a dozen packages, whose metadata takes longer to parse than all else of it.
# None is installed or removed while tests run.
importlib.metadata.version = functools.cache(importlib.metadata.version)
# The same examples everywhere, however long one takes on a machine that others use too.
hypothesis.settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")
# A background shell starts its processes deaf to Ctrl-C, which some tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def threads():
    """Every test begins with the same number of threads and the same random numbers, whatever ran before it."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which instructions and how many threads the results are of."""
    onednn = os.environ.get("ONEDNN_MAX_CPU_ISA", "all")
    told = f"ATen {torch.backends.cpu.get_cpu_capability()}, oneDNN {onednn}, threads: {THREADS}"
    terminalreporter.write_line(told)


@pytest.fixture
def thin() -> ResNetSpec:
    """A folded basic network with a pool, an untouched and a projected identity."""
    stages = (
        (Block(inner=(8,), out=8),),
        (Block(inner=(12,), out=16, stride=2, projected=True), Block(inner=(16,), out=16)),
    )
    return ResNetSpec(kind="basic", stem=Stem(width=8, kernel=3, stride=1), stages=stages, classes=5, norm=False)


@pytest.fixture
def thin_weights(thin: ResNetSpec) -> Weights:
    return random_weights(thin)


@pytest.fixture(params=["jetson", "cpu"])
def scheme(request: pytest.FixtureRequest):
    """TensorRT's scheme, and that of the CPU runtimes."""
    return find_target(request.param).scheme


@pytest.fixture
def jetson():
    return find_target("jetson")


@pytest.fixture
def cpu_scheme():
    scheme = find_target("cpu").scheme
    assert scheme is not None
    return replace(scheme)
