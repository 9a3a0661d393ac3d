from __future__ import annotations

import signal
import threading

import pytest

from edgeres.training.loop import held_interrupt


def test_the_first_is_held_and_the_second_passes() -> None:
    before = signal.getsignal(signal.SIGINT)
    with held_interrupt() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_hold_nothing() -> None:
    told: list[bool] = []

    def work() -> None:
        with held_interrupt() as interrupted:
            told.append(interrupted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told == [False]
