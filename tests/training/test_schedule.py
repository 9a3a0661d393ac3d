from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeres.training.method import Schedule, resolution


def test_step_divides_by_ten_at_a_half_and_at_three_quarters() -> None:
    factors = [Schedule(kind="step", warmup=0).factor(step, 64_000) for step in (0, 31_999, 32_000, 47_999, 48_000)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_cosine_rises_linearly_and_falls_to_nothing() -> None:
    schedule = Schedule(kind="cosine", warmup=0.1)
    factors = [schedule.factor(step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[99] == pytest.approx((1 - torch.cos(torch.tensor(torch.pi / 90)).item()) / 2, rel=1e-4)


@pytest.mark.parametrize("total", [20, 33, 264])
@pytest.mark.parametrize("warmup", [0.2, 0.3])
def test_onecycle_is_torchs(total: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, pct_start=warmup, cycle_momentum=False
    )
    for step in range(total):
        assert Schedule(kind="onecycle", warmup=warmup).factor(step, total) == pytest.approx(
            optimizer.param_groups[0]["lr"]
        )
        optimizer.step()
        if step + 1 < total:
            reference.step()


@given(st.sampled_from(["step", "cosine", "onecycle"]), st.floats(0, 0.99), st.integers(1, 500), st.data())
def test_every_factor_is_positive_and_at_most_one(kind: str, warmup: float, total: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, total - 1))
    assert 0 < Schedule(kind=kind, warmup=warmup).factor(step, total) <= 1


def test_resolution_grows_to_full_for_the_last_third() -> None:
    assert [resolution(32, 0.5, epoch, 9) for epoch in range(9)] == [16, 20, 20, 24, 28, 28, 32, 32, 32]
    assert [resolution(224, 0.5, epoch, 3) for epoch in range(3)] == [128, 160, 224]
    assert {resolution(30, 1.0, epoch, 5) for epoch in range(5)} == {30}


@given(st.integers(4, 512), st.floats(0.1, 1), st.integers(1, 100), st.data())
def test_resolution_never_exceeds_full_nor_shrinks(full: int, start: float, epochs: int, data: st.DataObject) -> None:
    epoch = data.draw(st.integers(0, epochs))
    assert 0 < resolution(full, start, epoch, epochs) <= resolution(full, start, epoch + 1, epochs) <= full
