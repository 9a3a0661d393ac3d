"""Many items on several threads, in order."""

from __future__ import annotations

import threading

import pytest

from edgeres.pipeline.parallel import AHEAD, cores, in_order


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(workers: int):
    assert list(in_order(range(workers), range(23), lambda worker, item: item * item)) == [n * n for n in range(23)]


def test_a_slow_first_item_does_not_let_a_later_one_overtake_it():
    second = threading.Event()

    def work(worker: int, item: int) -> int:
        if item == 0:
            assert second.wait(300)
        if item == 1:
            second.set()
        return item

    assert list(in_order("ab", range(4), work)) == [0, 1, 2, 3]


def test_a_bounded_number_of_items_is_taken_before_the_first_is_answered():
    taken, waiting, most = 0, 0, 0

    def items():
        nonlocal taken, waiting, most
        for item in range(40):
            taken += 1
            waiting += 1
            most = max(most, waiting)
            yield item

    for _ in in_order("abc", items(), lambda worker, item: item):
        waiting -= 1
    assert taken == 40
    assert most == len("abc") + AHEAD


def test_no_worker_is_used_by_two_threads_at_once():
    busy = {name: threading.Lock() for name in "abc"}

    def work(worker: str, item: int) -> bool:
        free = busy[worker].acquire(blocking=False)
        if free:
            busy[worker].release()
        return free

    assert all(in_order("abc", range(200), work))


def test_the_first_failure_in_the_order_of_the_items_is_raised():
    def work(worker: str, item: int) -> int:
        if item >= 3:
            raise ValueError(item)
        return item

    results = in_order("ab", range(10), work)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)


def test_a_stated_number_of_threads_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    all_of_them = cores()
    for said, counted in (("1", 1), ("4096", all_of_them), ("", all_of_them), ("0", all_of_them), ("2,1", all_of_them)):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert cores() == counted
