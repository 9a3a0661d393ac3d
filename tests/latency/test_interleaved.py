"""Order of turns, length of bursts, and when rounds end."""

import pytest

from edgeres.latency.benchmark.interleaved import BurstTiming, time_workers


class Fake:
    """A runner that takes just so long and writes down its turns."""

    def __init__(self, name, log, milliseconds):
        self.name, self.log, self.milliseconds = name, log, milliseconds

    def ask(self, order):
        self.log.append((self.name, order.calls, order.warmup))
        return {"ms": [float(self.milliseconds)] * order.calls}


class Clock:
    def __init__(self, step):
        self.now, self.step = 0, step

    def __call__(self):
        self.now += self.step
        return self.now


def runners(log, **milliseconds):
    return {name: Fake(name, log, ms) for name, ms in milliseconds.items()}


def test_turns_go_forwards_and_backwards():
    log = []
    time_workers(runners(log, a=1, b=2, c=3), BurstTiming(least=3, most=3))
    assert [name for name, *_ in log[3:]] == ["a", "b", "c", "c", "b", "a", "a", "b", "c"]


def test_bursts_last_alike_and_warm_up_first():
    log = []
    samples = time_workers(
        runners(log, quick=1, slow=50, glacial=1000), BurstTiming(burst_s=0.1, warmup=2, least=1, most=1)
    )
    assert log[3:] == [("quick", 100, 2), ("slow", 2, 2), ("glacial", 2, 2)]
    assert samples == {"quick": [[1.0] * 100], "slow": [[50.0] * 2], "glacial": [[1000.0] * 2]}


def test_equal_samples_end_at_the_least_rounds():
    samples = time_workers(runners([], a=1, b=2), BurstTiming(least=4, limit_s=1e9))
    assert {name: len(rounds) for name, rounds in samples.items()} == {"a": 4, "b": 4}


def test_unsteady_samples_go_on_until_the_time_limit():
    class Restless(Fake):
        def ask(self, order):
            self.milliseconds += 1
            return super().ask(order)

    samples = time_workers({"a": Restless("a", [], 1)}, BurstTiming(least=4, limit_s=9.5), clock=Clock(10**9))
    assert len(samples["a"]) == 10


def test_progress_is_a_hundred_units_and_the_machine_is_looked_at_each_round():
    units, looks = [], []
    time_workers(runners([], a=1), BurstTiming(least=5, most=5, limit_s=1e9), units.append, lambda: looks.append(1))
    assert sum(units) == 100
    assert len(looks) == 5


@pytest.mark.parametrize("slow", ["a", "b"])
def test_planted_slowness_is_in_the_samples_of_its_runner_alone(slow):
    times = {"a": 1.0, "b": 1.0} | {slow: 7.0}
    samples = time_workers(runners([], **times), BurstTiming(least=2, most=2))
    assert {name: rounds[0][0] for name, rounds in samples.items()} == times
