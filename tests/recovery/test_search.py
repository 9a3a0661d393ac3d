"""Which techniques are tried and which candidate is kept, decided on techniques whose evaluations are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.errors import StageError
from edgeres.gate.paired_test import Outcome
from edgeres.recovery.evaluator import NEGLIGIBLE, Evaluation, mean_interval, nearer
from edgeres.recovery.search import Policy, Reason, search
from edgeres.recovery.technique import Refusal

PASS, FAIL, OPEN = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
IMAGES = 200


def divergences(kl, spread=0.5, seed=0):
    """Per-image divergences of a given mean, whose order over the images is the same for every mean."""
    return kl * (1 + spread * np.linspace(-1, 1, IMAGES)[np.random.default_rng(seed).permutation(IMAGES)])


def evaluation(outcome, kl, *, doubtful=False, seed=0):
    return Evaluation(
        score=90.0, drop_pp=0.5, low_pp=-1.0, high_pp=2.0, agreement=99.0, divergences=divergences(kl, seed=seed),
        sqnr_db=30.0, integer=4, outcome=outcome, doubtful=doubtful, needed=600,
    )  # fmt: skip


@dataclass
class Fake:
    """A technique whose candidate is its own name."""

    name: str
    evaluation: Evaluation
    effort: str = "quick"
    remedy: bool = False
    reserved: bool = False
    ready: bool = False
    costs: float = 1.0
    refuses: str = ""
    saw: list = field(default_factory=list)

    def predicted(self):
        return self.costs

    def candidate(self, tried, best):
        self.saw = [one.technique for one in tried], best and best.technique
        return Refusal(self.refuses) if self.refuses else self.name


class Clock:
    """Stands still but for what a technique costs, which its evaluation adds."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def searched(techniques, policy=None):
    clock, timings = Clock(), {}
    by_name = {technique.name: technique for technique in techniques}

    def evaluate(name):
        clock.now += by_name[name].costs
        return by_name[name].evaluation

    found = search(
        techniques, evaluate, policy or Policy(), lambda name, seconds: timings.update({name: seconds}), clock=clock
    )
    return found, timings


def names(found):
    return [one.technique for one in found.tried]


def reasons(found):
    return {name: one.reason for name, one in found.skipped.items()}


def test_a_candidate_at_hand_is_tried_whatever_the_effort_and_the_time():
    techniques = [Fake("a", evaluation(PASS, 0.1)), Fake("b", evaluation(PASS, 0.05), "max", ready=True, costs=1e9)]
    found, _ = searched(techniques, Policy(effort="quick", budget_s=5.0))
    assert found.best.technique == "b"
    assert not found.skipped


def test_search_goes_on_beyond_a_candidate_that_meets_the_limit():
    found, timings = searched([Fake("a", evaluation(PASS, 0.1)), Fake("b", evaluation(PASS, 0.05), "default")])
    assert names(found) == ["a", "b"]
    assert found.chosen.technique == "b"
    assert timings == {"a": 1.0, "b": 1.0}


def test_candidate_is_kept_only_where_it_is_better_beyond_noise():
    found, _ = searched([Fake("a", evaluation(PASS, 0.1)), Fake("b", evaluation(PASS, 0.099, seed=1))])
    assert found.tried[1].evaluation.kl < found.tried[0].evaluation.kl
    assert found.chosen.technique == "a", "1 % less, with an interval that holds 0"
    found, _ = searched([Fake("a", evaluation(PASS, 0.1)), Fake("b", evaluation(PASS, 0.099))])
    assert found.chosen.technique == "b", "1 % less on every image"


def test_a_better_verdict_with_a_larger_divergence_loses():
    found, _ = searched([Fake("a", evaluation(FAIL, 0.1)), Fake("b", evaluation(PASS, 0.2))])
    assert found.chosen.technique == "a"


def test_three_images_cannot_carry_a_decision():
    before, after = divergences(0.1), divergences(0.1)
    after[:3] = 0.0
    assert mean_interval(before - after).low < 0 < mean_interval(before - after).mean


def test_smaller_on_most_images_is_better_where_a_few_uncertain_ones_hide_it_in_the_mean():
    rng = np.random.default_rng(0)
    unsure = np.exp(rng.normal(0, 2.5, 500))  # what float's doubt makes of the same noise
    before, after = (unsure * scale * rng.chisquare(3, 500) for scale in (1.0, 0.7))
    assert mean_interval(before - after).low < 0 < mean_interval(before - after).mean
    assert nearer(after, before)
    assert not nearer(before, after)


def test_smaller_on_most_images_is_not_better_where_the_mean_is_larger():
    before = divergences(0.1)
    after = 0.8 * before
    after[:2] += 5.0
    assert not nearer(after, before)


def test_negligible_divergence_ends_the_search():
    found, _ = searched([Fake("a", evaluation(PASS, NEGLIGIBLE / 2)), Fake("b", evaluation(PASS, 0.0))])
    assert reasons(found) == {"b": Reason.NEGLIGIBLE}
    assert "0.16 % of the probability" in found.skipped["b"].note  # Pinsker: sqrt(5e-6 / 2)
    found, _ = searched([Fake("a", evaluation(FAIL, NEGLIGIBLE / 2)), Fake("b", evaluation(PASS, 0.0))])
    assert found.chosen.technique == "b", "a missed limit is never negligible"


def test_slow_technique_is_skipped_where_the_divergence_cannot_be_distinguished_from_zero():
    one_image = np.zeros(IMAGES)
    one_image[7] = 10.0
    first = Fake("a", evaluation(PASS, 0.1))
    object.__setattr__(first.evaluation, "divergences", one_image)
    found, _ = searched([first, Fake("b", evaluation(PASS, 0.0), "default"), Fake("c", evaluation(PASS, 0.0))])
    assert reasons(found) == {"b": Reason.UNSEEN}
    assert names(found) == ["a", "c"]


def test_remedies_are_for_networks_that_miss_the_limit():
    for outcome, doubtful, reason in (
        (PASS, False, Reason.LIMIT_MET),
        (OPEN, False, Reason.OPEN),
        (None, False, Reason.NO_LIMIT),
        (FAIL, False, None),
        (OPEN, True, None),
    ):
        techniques = [Fake("a", evaluation(outcome, 0.1, doubtful=doubtful)), Fake("b", evaluation(PASS, 0.0))]
        techniques[1].remedy = True
        found, _ = searched(techniques)
        assert reasons(found).get("b") == reason


@pytest.mark.parametrize(
    ("effort", "outcome", "expected"),
    [
        ("quick", PASS, ["a"]),
        ("default", PASS, ["a", "b"]),
        ("max", PASS, ["a", "b", "c"]),
        ("default", FAIL, ["a", "b", "c"]),
        ("quick", FAIL, ["a"]),
    ],
)
def test_effort_says_which_techniques_are_tried(effort, outcome, expected):
    techniques = [
        Fake("a", evaluation(outcome, 0.1)),
        Fake("b", evaluation(outcome, 0.2), "default"),
        Fake("c", evaluation(outcome, 0.3), "max"),
    ]
    found, _ = searched(techniques, Policy(effort=effort))
    assert names(found) == expected
    assert set(reasons(found).values()) <= {Reason.EFFORT}
    assert all(one.seconds == 1.0 for one in found.skipped.values())


def test_technique_that_does_not_fit_the_time_budget_is_left_out_with_its_predicted_time():
    techniques = [
        Fake(name, evaluation(FAIL, 0.1), costs=cost) for name, cost in (("a", 1), ("b", 5), ("c", 4), ("d", 1))
    ]
    found, timings = searched(techniques, Policy(budget_s=7.0))
    assert names(found) == ["a", "b", "d"]  # 1 + 5 are spent, 4 do not fit, 1 does
    assert reasons(found) == {"c": Reason.TIME}
    assert found.skipped["c"].seconds == 4
    assert timings == {"a": 1.0, "b": 5.0, "d": 1.0}


def test_time_is_kept_for_the_techniques_that_gain_most():
    techniques = [
        Fake("a", evaluation(PASS, 0.1), costs=4.0),
        Fake("b", evaluation(PASS, 0.08), costs=3.0),
        Fake("c", evaluation(PASS, 0.06), costs=2.0),
        Fake("d", evaluation(PASS, 0.04), costs=3.0),
    ]
    assert names(searched(techniques, Policy(budget_s=10.0))[0]) == ["a", "b", "c"]
    for technique in techniques[2:]:
        technique.reserved = True
    assert names(searched(techniques, Policy(budget_s=10.0))[0]) == ["a", "c", "d"]
    assert names(searched(techniques, Policy(budget_s=8.0))[0]) == ["a", "d"], "the last one first"
    assert names(searched(techniques, Policy(budget_s=6.0))[0]) == ["a", "c"], "what fits"
    assert names(searched(techniques, Policy(budget_s=12.0))[0]) == ["a", "b", "c", "d"]
    assert names(searched(techniques, Policy())[0]) == ["a", "b", "c", "d"]


def test_no_time_is_kept_where_the_limit_is_missed():
    techniques = [
        Fake("a", evaluation(FAIL, 0.1), costs=4.0),
        Fake("b", evaluation(FAIL, 0.08), costs=3.0),
        Fake("c", evaluation(FAIL, 0.06), costs=4.0, reserved=True),
    ]
    assert names(searched(techniques, Policy(budget_s=8.0))[0]) == ["a", "b"]


def test_no_time_at_all_still_gives_the_first_technique():
    found, _ = searched([Fake("a", evaluation(FAIL, 0.1)), Fake("b", evaluation(PASS, 0.0))], Policy(budget_s=0.0))
    assert found.chosen.technique == "a"
    assert reasons(found) == {"b": Reason.TIME}


def test_best_is_kept_when_later_candidates_are_worse():
    found, _ = searched([Fake(name, evaluation(FAIL, kl)) for name, kl in (("a", 0.2), ("b", 0.1), ("c", 0.3))])
    assert found.chosen.technique == "b"
    assert len(found.tried) == 3


def test_a_network_that_answers_with_nan_never_wins():
    found, _ = searched([Fake("a", evaluation(FAIL, nan)), Fake("b", evaluation(FAIL, 9.0))])
    assert found.chosen.technique == "b"
    found, _ = searched([Fake("a", evaluation(FAIL, 9.0)), Fake("b", evaluation(PASS, nan))])
    assert found.chosen.technique == "a"


def test_forced_technique_is_kept_though_it_is_worse():
    found, _ = searched(
        [Fake("a", evaluation(PASS, 0.1)), Fake("b", evaluation(FAIL, 0.9), "max")], Policy(forced=True, budget_s=0.0)
    )
    assert (found.chosen.technique, found.best.technique) == ("b", "a")
    assert not found.skipped


def test_technique_that_refuses_is_left_out_with_its_reason():
    found, timings = searched(
        [Fake("a", evaluation(FAIL, 0.1)), Fake("b", evaluation(FAIL, 0.0), refuses="no such layer")]
    )
    assert found.skipped["b"].note == "no such layer"
    assert found.chosen.technique == "a"
    assert set(timings) == {"a", "b"}
    found, _ = searched(
        [Fake("a", evaluation(FAIL, 0.1)), Fake("b", evaluation(FAIL, 0), refuses="x")], Policy(forced=True)
    )
    assert found.chosen.technique == "a"


def test_search_without_any_candidate_ends_with_the_reasons():
    with pytest.raises(StageError, match="no technique gives a network: a: too few bits"):
        searched([Fake("a", evaluation(FAIL, 0.1), refuses="too few bits")], Policy(forced=True))


def test_skipped_by_name_below_a_forced_technique():
    techniques = [Fake(name, evaluation(FAIL, 0.1)) for name in "abc"]
    found, _ = searched(techniques, Policy(forced=True, skip=frozenset("b")))
    assert names(found) == ["a", "c"]
    assert reasons(found) == {"b": Reason.TIME}


def test_every_technique_sees_all_before_it_and_the_best():
    techniques = [Fake(name, evaluation(FAIL, kl)) for name, kl in (("a", 0.2), ("b", 0.1), ("c", 0.3), ("d", 0.3))]
    searched(techniques)
    assert [one.saw for one in techniques] == [([], None), (["a"], "a"), (["a", "b"], "b"), (["a", "b", "c"], "b")]


EVALUATIONS = st.builds(evaluation, st.sampled_from([PASS, FAIL, OPEN, None]), st.floats(0, 1))


@given(
    st.lists(
        st.tuples(EVALUATIONS, st.sampled_from(["quick", "default", "max"]), st.booleans(), st.floats(0, 10)),
        min_size=1,
        max_size=8,
    ),
    st.none() | st.floats(0, 30),
)
def test_invariants_of_every_search(kinds, budget):
    techniques = [
        Fake(str(place), found, effort, remedy, cost) for place, (found, effort, remedy, cost) in enumerate(kinds)
    ]
    found, timings = searched(techniques, Policy(budget_s=budget))
    assert names(found)[0] == "0"
    assert sorted([*names(found), *found.skipped]) == sorted(one.name for one in techniques)
    assert found.chosen is found.best
    later = found.tried[found.tried.index(found.best) + 1 :]
    assert not any(one.evaluation.better_than(found.best.evaluation) for one in later)
    if budget is not None:
        assert sum(timings.values()) <= max(budget, timings["0"]) + 1e-9
    again, _ = searched(
        techniques, Policy(skip=frozenset(n for n, why in reasons(found).items() if why is Reason.TIME))
    )
    assert names(again) == names(found)
    assert again.chosen.technique == found.chosen.technique
