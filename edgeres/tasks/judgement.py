"""Gate judgement of a finished run: predictions of the deployed network against a reference's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeres.errors import UsageError
from edgeres.gate import paired_test
from edgeres.gate.paired_test import Outcome
from edgeres.gate.predictions import shared
from edgeres.gate.sequential import Sequential, sequential
from edgeres.settings import settings
from edgeres.tasks.measure import compared, score_of
from edgeres.tasks.registry import task_kind
from edgeres.tasks.task import rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeres.artifacts.results import Rows
    from edgeres.gate.paired_test import Paired
    from edgeres.gate.predictions import Answers
    from edgeres.tasks.comparison import Comparison
    from edgeres.tasks.task import Task

SCHEMA: Literal["edgeres.gate/2"] = "edgeres.gate/2"
DEFAULT_MARGIN_PP = 1.0
MLPERF_SHARE = 0.01
"""MLPerf Inference's closed division: the deployed network reaches 99 % of the float network's accuracy."""


@dataclass(frozen=True, slots=True)
class PairedPredictions:
    """Predictions by a reference (``before``) and the deployed network (``after``), and the labels, per image.

    The reference is the run's own float network, or as ``baseline`` another run's deployed one.
    """

    reference: Literal["float", "baseline"]
    labels: Rows
    before: Rows
    after: Rows
    task: str = "classification"

    @classmethod
    def with_float(cls, answers: Answers) -> PairedPredictions:
        """The deployed network against its own float baseline."""
        return cls("float", answers.labels, answers.float_predictions, answers.deployed_predictions, answers.task)

    @classmethod
    def with_baseline(cls, answers: Answers, other: Answers) -> PairedPredictions:
        """The deployed networks of two runs, on their common images; raises as ``shared`` does."""
        pairs = shared(answers, other)
        here, there = ([pair[side] for pair in pairs] for side in (0, 1))
        before, after = _at(other.deployed_predictions, there), _at(answers.deployed_predictions, here)
        return cls("baseline", _at(answers.labels, here), before, after, answers.task)

    @property
    def reference_score(self) -> float:
        """The reference's score, in percent."""
        return score_of(self.judged, self.before, self.labels)

    @property
    def judged(self) -> Task:
        """The task whose metric is judged."""
        return task_kind(self.task)()

    @property
    def comparison(self) -> Comparison:
        """The paired comparison of the two networks."""
        return compared(self.judged, self.before, self.after, self.labels)


def _at(values: Rows, places: Sequence[int]) -> Rows:
    """The rows of some images, in that order."""
    array = np.asarray(values)[list(places)]
    return rows(array)


@settings
class Judgement:
    """Outcome of the gate with all figures behind it; ``docs/gate.md`` documents each.

    ``metric`` is what is judged, such as top-1. ``lost`` images are right by the reference alone, ``gained`` ones by
    the deployed network alone; ``low_pp`` and ``high_pp`` are the interval of confidence ``1 - 2 alpha``. Each p value
    is small where the drop is below the margin, the deployed network is worse, or the two are not equally accurate.
    Counts, p values and power are None for a metric of all images together, such as mAP.
    """

    schema: Literal["edgeres.gate/2"] = SCHEMA
    outcome: Outcome
    sentence: str
    warnings: tuple[str, ...]
    metric: str = "top-1"
    reference: Literal["float", "baseline"]
    n: int
    lost: int | None
    gained: int | None
    changed: int | None
    reference_score: float
    deployed_score: float
    margin_pp: float
    alpha: float
    drop_pp: float
    low_pp: float
    high_pp: float
    p_margin: float | None
    p_worse: float | None
    p_changed: float | None
    power: float | None
    n_needed: int | None
    n_to_settle: int | None
    sequential: Sequential | None

    @property
    def exit_code(self) -> int:
        """0 PASS, 3 FAIL, 5 INCONCLUSIVE."""
        return {Outcome.PASS: 0, Outcome.FAIL: 3, Outcome.INCONCLUSIVE: 5}[self.outcome]


def judge(c: PairedPredictions, margin_pp: float, *, alpha: float = 0.05, seed: int | None = None) -> Judgement:
    """Gate judgement of paired predictions against a margin above zero, at the one-sided level ``alpha``.

    With a seed, which orders the images, the sequential test decides; else one test on all images. A reference that is
    no better than always predicting the commonest class is invalid: the labels are not those of these images, or their
    preprocessing is wrong. A PASS becomes INCONCLUSIVE then.
    """
    comparison = c.comparison
    decision, paired = comparison.decide(margin_pp, alpha), comparison.paired
    if paired is None and seed is not None:
        what = f"--sequential takes images that are right or wrong, and --task {c.task} is judged by {c.judged.metric}"
        raise UsageError(what, "leave --sequential out")
    bets = None if seed is None else sequential(_signs(c), margin_pp, alpha=alpha, seed=seed)
    outcome = bets.outcome if bets else decision.outcome
    sentence = _sequential_sentence(bets, decision.sentence, margin_pp) if bets else decision.sentence
    chance = _chance(c)
    if chance and outcome is Outcome.PASS:
        outcome, sentence = Outcome.INCONCLUSIVE, f"{Outcome.INCONCLUSIVE}: {chance}; it would be a {sentence}"
    drop, reference = comparison.drop, c.reference_score
    p_changed = paired_test.mcnemar(paired) if paired else None
    return Judgement(
        outcome=outcome,
        sentence=sentence,
        warnings=tuple(filter(None, (chance, _changed(c, p_changed, drop, alpha)))),
        metric=c.judged.metric,
        reference=c.reference,
        n=comparison.n,
        lost=paired.b if paired else None,
        gained=paired.c if paired else None,
        changed=sum(before != after for before, after in zip(c.before, c.after, strict=True)) if paired else None,
        reference_score=reference,
        deployed_score=reference - drop,
        margin_pp=margin_pp,
        alpha=alpha,
        drop_pp=drop,
        low_pp=decision.interval.low,
        high_pp=decision.interval.high,
        p_margin=paired_test.non_inferiority(paired, margin_pp) if paired else None,
        p_worse=paired_test.mcnemar_worse(paired) if paired else None,
        p_changed=p_changed,
        power=_power(paired, margin_pp, alpha) if paired else None,
        n_needed=comparison.needed(margin_pp, alpha),
        n_to_settle=decision.n_needed,
        sequential=bets,
    )


def _power(paired: Paired, margin_pp: float, alpha: float) -> float:
    return paired_test.power(paired.n, 0.0, paired.discordance, margin_pp=margin_pp, alpha=alpha)


def _signs(c: PairedPredictions) -> NDArray[np.int8]:
    """1 where only the reference is right, -1 where only the deployed network is, 0 elsewhere, ``[N]``."""
    before, after = (np.array(predictions) == np.array(c.labels) for predictions in (c.before, c.after))
    signs: NDArray[np.int8] = np.subtract(before, after, dtype=np.int8)
    return signs


def _sequential_sentence(bets: Sequential, fixed: str, margin_pp: float) -> str:
    state = "undecided" if bets.outcome is Outcome.INCONCLUSIVE else "decided"
    return (
        f"{bets.outcome}: {state} after {bets.used} of {bets.n} images against a margin of {margin_pp:g} pp "
        f"(always-valid test, order of seed {bets.seed}); all of them at once: {fixed}"
    )


def _chance(c: PairedPredictions) -> str:
    """Why the reference is invalid, for hits by Wilson's interval of its accuracy; empty where it is valid."""
    from scipy.stats import binomtest

    if c.comparison.paired is None:
        chance = c.judged.chance(np.asarray(c.before), np.asarray(c.labels), 0)
        return "" if chance is None or chance.standing == "above" else f"the {c.reference} network: {chance.label}"
    counts = Counter(c.labels)
    commonest = 100 * max(counts.values()) / len(c.labels)
    right = sum(b == y for b, y in zip(c.before, c.labels, strict=True))
    wilson = binomtest(right, len(c.labels)).proportion_ci(0.95, method="wilson")
    if len(counts) == 1 or 100 * wilson.low > commonest:
        return ""
    return (
        f"the {c.reference} network gets {c.reference_score:.1f} % right, and naming the commonest class "
        f"every time {commonest:.1f} %: check the labels, the order of the classes and the preprocessing"
    )


def _changed(c: PairedPredictions, p: float | None, drop: float, alpha: float) -> str:
    """Whether two builds differ in accuracy, in either direction; float and integer predictions always differ."""
    if c.reference == "float" or p is None or p >= alpha:
        return ""
    way = "lower" if drop > 0 else "higher"
    return f"changed: accuracy is {abs(drop):.2f} pp {way} than the baseline's (two-sided mid-p McNemar p = {p:.2g})"
