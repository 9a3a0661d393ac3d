"""Gate judgement of a finished run: predictions of the deployed network against a reference's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeres.gate import paired_test
from edgeres.gate.paired_test import Outcome, Paired
from edgeres.gate.predictions import shared
from edgeres.gate.sequential import Sequential, sequential
from edgeres.metrics import top1
from edgeres.settings import settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.gate.predictions import Answers

SCHEMA: Literal["edgeres.gate/1"] = "edgeres.gate/1"
DEFAULT_MARGIN_PP = 1.0
MLPERF_SHARE = 0.01
"""MLPerf Inference's closed division: the deployed network reaches 99 % of the float network's accuracy."""
_POWER = 0.8


@dataclass(frozen=True, slots=True)
class PairedPredictions:
    """Class indices by a reference (``before``) and the deployed network (``after``), and the labels, per image.

    The reference is the run's own float network, or as ``baseline`` another run's deployed one.
    """

    reference: Literal["float", "baseline"]
    labels: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def with_float(cls, answers: Answers) -> PairedPredictions:
        """The deployed network against its own float baseline."""
        return cls("float", answers.labels, answers.float_predictions, answers.deployed_predictions)

    @classmethod
    def with_baseline(cls, answers: Answers, other: Answers) -> PairedPredictions:
        """The deployed networks of two runs, on their common images; raises as ``shared`` does."""
        pairs = shared(answers, other)
        before = tuple(other.deployed_predictions[there] for _, there in pairs)
        after = tuple(answers.deployed_predictions[here] for here, _ in pairs)
        return cls("baseline", tuple(answers.labels[here] for here, _ in pairs), before, after)

    @property
    def reference_top1(self) -> float:
        """Accuracy of the reference, in percent."""
        return top1(self.before, self.labels)


@settings
class Judgement:
    """Outcome of the gate with all figures behind it; ``docs/gate.md`` documents each.

    ``lost`` images are right by the reference alone, ``gained`` ones by the deployed network alone. ``low_pp`` and
    ``high_pp`` are the Tango interval of confidence ``1 - 2 alpha``. Each p value is small where the drop is below the
    margin, the deployed network is worse, or the two are not equally accurate.
    """

    schema: Literal["edgeres.gate/1"] = SCHEMA
    outcome: Outcome
    sentence: str
    warnings: tuple[str, ...]
    reference: Literal["float", "baseline"]
    n: int
    lost: int
    gained: int
    changed: int
    reference_top1: float
    deployed_top1: float
    margin_pp: float
    alpha: float
    drop_pp: float
    low_pp: float
    high_pp: float
    p_margin: float
    p_worse: float
    p_changed: float
    power: float
    n_needed: int
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
    paired = Paired.of(c.before, c.after, c.labels)
    decision = paired_test.decide(paired, margin_pp, alpha)
    bets = None if seed is None else sequential(_signs(c), margin_pp, alpha=alpha, seed=seed)
    outcome = bets.outcome if bets else decision.outcome
    sentence = _sequential_sentence(bets, decision.sentence, margin_pp) if bets else decision.sentence
    chance = _chance(c)
    if chance and outcome is Outcome.PASS:
        outcome, sentence = Outcome.INCONCLUSIVE, f"{Outcome.INCONCLUSIVE}: {chance}; it would be a {sentence}"
    psi, drop, p_changed = paired.discordance, paired.drop, paired_test.mcnemar(paired)
    return Judgement(
        outcome=outcome,
        sentence=sentence,
        warnings=tuple(filter(None, (chance, _changed(c, p_changed, drop, alpha)))),
        reference=c.reference,
        n=paired.n,
        lost=paired.b,
        gained=paired.c,
        changed=sum(before != after for before, after in zip(c.before, c.after, strict=True)),
        reference_top1=c.reference_top1,
        deployed_top1=c.reference_top1 - drop,
        margin_pp=margin_pp,
        alpha=alpha,
        drop_pp=drop,
        low_pp=decision.interval.low,
        high_pp=decision.interval.high,
        p_margin=paired_test.non_inferiority(paired, margin_pp),
        p_worse=paired_test.mcnemar_worse(paired),
        p_changed=p_changed,
        power=paired_test.power(paired.n, 0.0, psi, margin_pp=margin_pp, alpha=alpha),
        n_needed=paired_test.images_needed(0.0, psi, margin_pp=margin_pp, alpha=alpha, power=_POWER),
        n_to_settle=decision.n_needed,
        sequential=bets,
    )


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
    """Why the reference is invalid, by Wilson's interval of its accuracy; empty where it is valid."""
    from scipy.stats import binomtest

    counts = Counter(c.labels)
    commonest = 100 * max(counts.values()) / len(c.labels)
    right = sum(b == y for b, y in zip(c.before, c.labels, strict=True))
    wilson = binomtest(right, len(c.labels)).proportion_ci(0.95, method="wilson")
    if len(counts) == 1 or 100 * wilson.low > commonest:
        return ""
    return (
        f"the {c.reference} network gets {c.reference_top1:.1f} % right, and naming the commonest class "
        f"every time {commonest:.1f} %: check the labels, the order of the classes and the preprocessing"
    )


def _changed(c: PairedPredictions, p: float, drop: float, alpha: float) -> str:
    """Whether two builds differ in accuracy, in either direction; float and integer predictions always differ."""
    if c.reference == "float" or p >= alpha:
        return ""
    way = "lower" if drop > 0 else "higher"
    return f"changed: accuracy is {abs(drop):.2f} pp {way} than the baseline's (two-sided mid-p McNemar p = {p:.2g})"
