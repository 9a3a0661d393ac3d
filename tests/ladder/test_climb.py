"""Which rungs are climbed and which candidate is kept, decided on fake rungs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.errors import StageError
from edgeres.gate import Outcome
from edgeres.ladder.climb import (
    AS_FLOAT,
    NO_LIMIT,
    NOT_NEEDED,
    OUT_OF_TIME,
    UNSEEN,
    Policy,
    Refusal,
    Trial,
    best_of,
    climb,
)

PASS, FAIL, OPEN = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE


def trial(outcome, kl, agreement=99.0, *, doubtful=False):
    return Trial(
        n=100, top1=90.0, drop_pp=0.5, low_pp=-1.0, high_pp=2.0, agreement=agreement, kl=kl, sqnr_db=30.0, integer=4,
        outcome=outcome, doubtful=doubtful, needed=600,
    )  # fmt: skip


@dataclass
class Fake:
    """A rung whose candidate is its own name."""

    name: str
    trial: Trial
    quick: bool = True
    costs: float = 1.0
    refuses: str = ""
    saw: list = field(default_factory=list)

    def predicted(self):
        return self.costs

    def candidate(self, tried):
        self.saw = [one.rung for one in tried]
        return Refusal(self.refuses) if self.refuses else self.name


class Clock:
    """Stands still but for what a rung costs, which the judge adds."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def climbed(rungs, policy=None):
    clock, laps = Clock(), {}
    by_name = {rung.name: rung for rung in rungs}

    def judge(name):
        clock.now += by_name[name].costs
        return by_name[name].trial

    found = climb(
        rungs, judge, policy or Policy(), clock=clock, took=lambda name, seconds: laps.update({name: seconds})
    )
    return found, laps


def test_a_pass_ends_the_climb():
    found, _ = climbed([Fake("a", trial(FAIL, 0.1)), Fake("b", trial(PASS, 0.01)), Fake("c", trial(PASS, 0.001))])
    assert [one.rung for one in found.tried] == ["a", "b"]
    assert found.skipped == {"c": NOT_NEEDED}
    assert found.chosen.rung == "b"


def test_a_first_rung_that_passes_is_all_there_is():
    found, laps = climbed([Fake("a", trial(PASS, 0.1)), Fake("b", trial(PASS, 0.0))])
    assert found.chosen.rung == "a"
    assert laps == {"a": 1.0}


def test_too_few_images_leave_out_what_costs_minutes():
    found, _ = climbed(
        [Fake("a", trial(OPEN, 0.1)), Fake("b", trial(OPEN, 0.05)), Fake("c", trial(OPEN, 0.0), quick=False)]
    )
    assert [one.rung for one in found.tried] == ["a", "b"]
    assert found.skipped == {"c": UNSEEN}


def test_a_drop_over_the_limit_on_images_that_could_show_a_better_one_is_climbed_though_it_is_no_failure():
    doubtful = trial(OPEN, 0.1, doubtful=True)
    found, _ = climbed([Fake("a", doubtful), Fake("b", trial(PASS, 0.0), quick=False)])
    assert found.chosen.rung == "b"
    found, _ = climbed([Fake("a", doubtful), Fake("b", trial(OPEN, 0.05)), Fake("c", trial(OPEN, 0.0), quick=False)])
    assert found.skipped == {"c": UNSEEN}, "the best one so far is no longer in doubt"


def test_answers_equal_to_floats_leave_nothing_to_climb_for():
    found, _ = climbed([Fake("a", trial(OPEN, 0.1, agreement=100.0)), Fake("b", trial(OPEN, 0.0))])
    assert found.skipped == {"b": AS_FLOAT}


def test_a_failure_climbs_everything_that_time_allows():
    rungs = [
        Fake(name, trial(FAIL, 0.1), quick=False, costs=cost) for name, cost in (("a", 1), ("b", 5), ("c", 4), ("d", 1))
    ]
    found, laps = climbed(rungs, Policy(budget_s=7.0))
    assert [one.rung for one in found.tried] == ["a", "b", "d"]  # 1 + 5 are spent, 4 do not fit, 1 does
    assert found.skipped == {"c": OUT_OF_TIME}
    assert laps == {"a": 1.0, "b": 5.0, "d": 1.0}


def test_no_time_at_all_still_gives_the_first_rung():
    found, _ = climbed([Fake("a", trial(FAIL, 0.1)), Fake("b", trial(PASS, 0.0))], Policy(budget_s=0.0))
    assert found.chosen.rung == "a"
    assert found.skipped == {"b": OUT_OF_TIME}


def test_what_time_left_out_is_left_out_by_name_with_the_same_words():
    rungs = [Fake("a", trial(FAIL, 0.1)), Fake("b", trial(FAIL, 0.2), costs=50), Fake("c", trial(FAIL, 0.01))]
    timed, _ = climbed(rungs, Policy(budget_s=10.0))
    named, _ = climbed(rungs, Policy(skip=frozenset({"b"})))
    assert timed == named


def test_without_a_limit_only_seconds_are_spent():
    found, _ = climbed(
        [Fake("a", trial(None, 0.2)), Fake("b", trial(None, 0.1)), Fake("c", trial(None, 0), quick=False)]
    )
    assert found.chosen.rung == "b"
    assert found.skipped == {"c": NO_LIMIT}


def test_the_best_is_kept_when_later_rungs_are_worse():
    found, _ = climbed([Fake("a", trial(FAIL, 0.2)), Fake("b", trial(FAIL, 0.1)), Fake("c", trial(FAIL, 0.3))])
    assert found.chosen.rung == "b"
    assert len(found.tried) == 3


def test_a_lower_divergence_with_a_worse_verdict_loses():
    assert trial(OPEN, 0.2).better(trial(FAIL, 0.1))
    assert not trial(FAIL, 0.1).better(trial(OPEN, 0.2))
    assert trial(OPEN, 0.1).better(trial(OPEN, 0.2))
    assert not trial(OPEN, 0.1).better(trial(OPEN, 0.1))
    assert trial(OPEN, 1e9).better(trial(OPEN, nan))
    assert not trial(OPEN, nan).better(trial(OPEN, 1e9))


def test_a_forced_rung_is_kept_though_it_is_worse():
    found, _ = climbed([Fake("a", trial(PASS, 0.1)), Fake("b", trial(FAIL, 0.9))], Policy(forced=True, budget_s=0.0))
    assert found.chosen.rung == "b"
    assert not found.skipped


def test_a_rung_that_refuses_is_left_out_with_its_reason():
    found, laps = climbed([Fake("a", trial(FAIL, 0.1)), Fake("b", trial(FAIL, 0.0), refuses="no such layer")])
    assert found.skipped == {"b": "no such layer"}
    assert found.chosen.rung == "a"
    assert set(laps) == {"a", "b"}


def test_a_forced_rung_that_refuses_leaves_what_was_before_it():
    found, _ = climbed([Fake("a", trial(FAIL, 0.1)), Fake("b", trial(FAIL, 0.0), refuses="x")], Policy(forced=True))
    assert found.chosen.rung == "a"


def test_a_climb_without_any_candidate_ends_with_the_reasons():
    with pytest.raises(StageError, match="no rung gives a network: a: too few bits"):
        climbed([Fake("a", trial(FAIL, 0.1), refuses="too few bits")], Policy(forced=True))


def test_what_is_to_be_skipped_is_skipped_below_a_forced_rung_too():
    rungs = [Fake(name, trial(FAIL, 0.1)) for name in "abc"]
    found, _ = climbed(rungs, Policy(forced=True, skip=frozenset("b")))
    assert [one.rung for one in found.tried] == ["a", "c"]
    assert found.skipped == {"b": OUT_OF_TIME}


def test_every_rung_sees_all_before_it():
    rungs = [Fake(name, trial(FAIL, 0.1)) for name in "abc"]
    climbed(rungs)
    assert [rung.saw for rung in rungs] == [[], ["a"], ["a", "b"]]


TRIALS = st.builds(trial, st.sampled_from([PASS, FAIL, OPEN, None]), st.floats(0, 1), st.sampled_from([99.0, 100.0]))


@given(
    st.lists(st.tuples(TRIALS, st.booleans(), st.floats(0, 10)), min_size=1, max_size=8), st.none() | st.floats(0, 30)
)
def test_laws_of_every_climb(kinds, budget):
    rungs = [Fake(str(place), found, quick, cost) for place, (found, quick, cost) in enumerate(kinds)]
    found, laps = climbed(rungs, Policy(budget_s=budget))
    names = [one.rung for one in found.tried]
    assert names[0] == "0"
    assert sorted([*names, *found.skipped]) == sorted(rung.name for rung in rungs)
    assert found.chosen == best_of(found.tried)
    assert not any(one.trial.better(found.chosen.trial) for one in found.tried)
    assert PASS not in [one.trial.outcome for one in found.tried[:-1]]
    if budget is not None:
        assert sum(laps.values()) <= max(budget, laps["0"]) + 1e-9
    pinned = Policy(skip=frozenset(name for name, why in found.skipped.items() if why == OUT_OF_TIME))
    again, _ = climbed(rungs, pinned)
    assert replace(again) == found
