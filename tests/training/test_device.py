from __future__ import annotations

from math import prod
from types import SimpleNamespace

import pytest
import torch
from smalltraining import thin_spec

from edgeres.data.size import Size
from edgeres.errors import UsageError
from edgeres.model.cost import shapes
from edgeres.model.graph import graph
from edgeres.training.device import autocast_dtype, lacks_memory, repeatable, training_device

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_the_cpu_trains_in_float32_whatever_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert autocast_dtype("auto", CPU) is None
    assert autocast_dtype("float32", CPU) is None
    assert autocast_dtype("bf16", CPU) is torch.bfloat16
    with pytest.raises(UsageError, match="fp16"):
        autocast_dtype("fp16", CPU)


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_trains_in_the_half_it_has(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert autocast_dtype("auto", CUDA) is expected
    assert autocast_dtype("fp16", CUDA) is torch.float16


def test_memory_is_short_where_activations_exceed_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(bytes=0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free.bytes, 1 << 40))
    needed = 4 * 4 * sum(prod(shape) for shape in shapes(graph(thin_spec()), 12, 12).values())
    free.bytes = int(needed / 0.8) - 8
    assert lacks_memory(graph(thin_spec()), Size.square(12), 4, None, CUDA)
    assert not lacks_memory(graph(thin_spec()), Size.square(12), 4, torch.bfloat16, CUDA)
    free.bytes = int(needed / 0.8) + 8
    assert not lacks_memory(graph(thin_spec()), Size.square(12), 4, None, CUDA)
    free.bytes = 0
    assert not lacks_memory(graph(thin_spec()), Size.square(12), 4, None, CPU)


def test_determinism_is_asked_for_and_put_back() -> None:
    with repeatable(CPU):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_device_is_found() -> None:
    assert training_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
