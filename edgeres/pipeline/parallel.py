"""``in_order``: parallel map over threads that yields results in the order of the items."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Worker = TypeVar("Worker")
Item = TypeVar("Item")
Made = TypeVar("Made")

AHEAD = 1
"""Items queued beside one for each worker, so that no worker waits."""


def cores() -> int:
    """Cores this process may use, or ``OMP_NUM_THREADS`` where that is set to fewer."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(allowed, int(wanted)) if wanted.isdecimal() and int(wanted) else allowed


def in_order(workers: Sequence[Worker], items: Iterable[Item], work: Callable[[Worker, Item], Made]) -> Iterator[Made]:
    """Applies ``work`` to every item; each worker is used by one thread at a time.

    There is one thread per worker, items are iterated on the caller's thread, and at most ``len(workers) + AHEAD`` are
    in flight. Results come in the order of the items, as does the first exception of ``work``.
    """
    idle: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(item: Item) -> Made:
        worker = idle.get()
        try:
            return work(worker, item)
        finally:
            idle.put(worker)

    flying: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(len(workers), "work")
    try:
        for item in items:
            flying.append(pool.submit(run, item))
            if len(flying) >= len(workers) + AHEAD:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
