"""Fixtures every room may use: thin networks, seeded numbers."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

# Two cores are shared by whatever the tests start: spinning threads would fight over them.
os.environ["OMP_NUM_THREADS"] = "1"

from typing import TYPE_CHECKING

import pytest
import torch
from random_weights import random_weights

from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.target import find_target

if TYPE_CHECKING:
    from edgeres.model.weights import Weights

torch.set_num_threads(1)
# A background shell starts its processes deaf to Ctrl-C, which some tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
