"""Paired accuracy statistics: non-inferiority of a compressed network to its original, by a margin.

Both networks predict the same images, so only the images on which exactly one of them is right carry information:
``b`` the original alone, ``c`` the compressed one alone, out of ``n``. The drop is ``(b - c) / n``, the discordance
``(b + c) / n``. Displayed figures are in percentage points (pp).

Sources: McNemar 1947; Fagerland, Lydersen and Laake 2013 (doi 10.1186/1471-2288-13-91) for its mid-p form; Tango 1998
(Statistics in Medicine 17:891) for the score test and interval; Nam 1997 (Biometrics 53:1422) for non-inferiority;
Connor 1987 (Biometrics 43:207) for the sample size.
"""

from __future__ import annotations

from enum import StrEnum
from math import ceil, sqrt
from typing import TYPE_CHECKING

from edgeres.settings import settings

if TYPE_CHECKING:
    from collections.abc import Sequence


@settings
class Paired:
    """Counts of ``n`` images: only the original predicts ``b`` correctly, only the compressed network ``c``."""

    n: int
    b: int
    c: int

    def __post_init__(self) -> None:
        if self.n < 1 or self.b < 0 or self.c < 0 or self.b + self.c > self.n:
            raise ValueError(f"no paired counts: n={self.n}, b={self.b}, c={self.c}")

    @classmethod
    def of(cls, original: Sequence[int], compressed: Sequence[int], labels: Sequence[int]) -> Paired:
        """Counts predicted classes of the same images, one or more, against their labels."""
        right = [(o == y, c == y) for o, c, y in zip(original, compressed, labels, strict=True)]
        return cls(n=len(right), b=sum(o and not c for o, c in right), c=sum(c and not o for o, c in right))

    @property
    def drop(self) -> float:
        """Accuracy of the original minus that of the compressed network, in pp."""
        return 100 * (self.b - self.c) / self.n

    @property
    def discordance(self) -> float:
        """Share of images on which exactly one of the two is right."""
        return (self.b + self.c) / self.n


@settings
class Interval:
    """A confidence interval, in pp or percent."""

    low: float
    high: float
    confidence: float


class Outcome(StrEnum):
    """Outcome of a test against a margin."""

    PASS = "PASS"  # noqa: S105  # not a secret
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@settings
class Decision:
    """Result of the paired test against a margin, with the Tango interval of the drop in pp.

    ``n_needed`` images would decide it with a power of 0.8, if the true drop is the observed one; None when it is
    decided, or when the observed drop is the margin itself.
    """

    outcome: Outcome
    interval: Interval
    n_needed: int | None
    sentence: str


def mcnemar(paired: Paired) -> float:
    """Two-sided exact mid-p value of ``b = c``: ``2 P(X <= m) - P(X = m)``, X ~ Bin(b + c, 1/2), m = min(b, c)."""
    from scipy.stats import binom

    low, flips = min(paired.b, paired.c), paired.b + paired.c
    return float(min(1.0, 2 * binom.cdf(low, flips, 0.5) - binom.pmf(low, flips, 0.5)))


def mcnemar_worse(paired: Paired) -> float:
    """One-sided exact mid-p value: small means that the compressed network is worse."""
    from scipy.stats import binom

    flips = paired.b + paired.c
    return float(binom.sf(paired.b, flips, 0.5) + binom.pmf(paired.b, flips, 0.5) / 2)


def _spread(paired: Paired, delta: float) -> float:
    """Standard deviation of ``b - c`` if the true drop were ``delta`` (a share), by Tango's restricted likelihood.

    The likelihood of (b, c, n - b - c) under ``p_b - p_c = delta`` is greatest at the positive root ``q = p_c`` of
    ``2 n q^2 + (delta (2 n - b + c) - b - c) q - c delta (1 - delta) = 0``.
    """
    n, b, c = paired.n, paired.b, paired.c
    linear = delta * (2 * n - b + c) - b - c
    root = sqrt(max(0.0, linear**2 + 8 * n * c * delta * (1 - delta)))
    q = (root - linear) / (4 * n)
    return sqrt(max(0.0, n * (2 * q + delta * (1 - delta))))


def score(paired: Paired, drop_pp: float) -> float:
    """Tango's score statistic of a hypothetical drop: standard normal if that is the true drop, negative if it is less.

    At zero it is McNemar's ``(b - c) / sqrt(b + c)``; 0 where the data cannot tell.
    """
    delta = drop_pp / 100
    excess = paired.b - paired.c - paired.n * delta
    spread = _spread(paired, delta)
    return excess / spread if spread else 0.0


def non_inferiority(paired: Paired, margin_pp: float) -> float:
    """One-sided score p value (Nam 1997) of a true drop of at least ``margin_pp``: small means below the margin."""
    from scipy.stats import norm

    return float(norm.cdf(score(paired, margin_pp)))


def tango(paired: Paired, confidence: float = 0.95) -> Interval:
    """Tango's score interval of the drop in pp: every drop whose score test does not reject.

    Without a single flip in n images it is ``+- z^2 / (n + z^2)``.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z = float(norm.isf((1 - confidence) / 2))
    excess, seen = paired.b - paired.c, (paired.b - paired.c) / paired.n

    def edge(delta: float, side: float) -> float:
        return excess - paired.n * delta + side * z * _spread(paired, delta)

    # Without flips, or with nothing else, the spread is zero at the observed drop: that root is not an end.
    beside = 1e-12
    low = brentq(edge, -1.0, max(-1.0, seen - beside), args=(-1.0,), xtol=1e-12)
    high = brentq(edge, min(1.0, seen + beside), 1.0, args=(1.0,), xtol=1e-12)
    return Interval(low=100 * low, high=100 * high, confidence=confidence)


def images_needed(
    drop_pp: float, discordance: float, *, margin_pp: float = 0.0, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Sample size of a one-sided paired test of a true drop against a margin at level ``alpha`` (Connor 1987).

    ``n = (z_alpha sqrt(psi - margin^2) + z_power sqrt(psi - drop^2))^2 / (drop - margin)^2``, psi the discordance. No
    sample size distinguishes a drop from an equal margin: ``ValueError``.
    """
    from scipy.stats import norm

    if drop_pp == margin_pp:
        raise ValueError(f"no number of images distinguishes a drop of {drop_pp} pp from itself")
    drop, margin, psi = _shares(drop_pp, margin_pp, discordance)
    z_alpha, z_power = float(norm.isf(alpha)), float(norm.ppf(power))
    spread = z_alpha * sqrt(psi - margin**2) + z_power * sqrt(psi - drop**2)
    return ceil((spread / (drop - margin)) ** 2)


def power(n: int, drop_pp: float, discordance: float, *, margin_pp: float, alpha: float = 0.05) -> float:
    """Power of that test on ``n`` images: ``images_needed`` solved for it.

    ``Phi((|drop - margin| sqrt(n) - z_alpha sqrt(psi - margin^2)) / sqrt(psi - drop^2))``.
    """
    from scipy.stats import norm

    drop, margin, psi = _shares(drop_pp, margin_pp, discordance)
    reach = abs(drop - margin) * sqrt(n) - float(norm.isf(alpha)) * sqrt(psi - margin**2)
    spread = sqrt(psi - drop**2)
    return float(norm.cdf(reach / spread)) if spread else float(reach > 0)


def _shares(drop_pp: float, margin_pp: float, discordance: float) -> tuple[float, float, float]:
    """Drop and margin as shares, and the discordance: at least either, as a network that dropped by it has as much."""
    drop, margin = drop_pp / 100, margin_pp / 100
    return drop, margin, max(discordance, abs(drop), abs(margin))


def decide(paired: Paired, margin_pp: float, alpha: float = 0.05) -> Decision:
    """Tests whether the drop is below a margin above zero, or above it; INCONCLUSIVE where neither is significant.

    PASS and FAIL are each wrong with a chance of at most about ``alpha``; they are the one-sided score tests of the
    margin, which is the same as the ``1 - 2 alpha`` interval lying wholly below or above it.
    """
    interval = tango(paired, 1 - 2 * alpha)
    outcome, needed = Outcome.INCONCLUSIVE, None
    if interval.high < margin_pp:
        outcome = Outcome.PASS
    elif interval.low > margin_pp:
        outcome = Outcome.FAIL
    elif paired.drop != margin_pp:
        needed = max(paired.n + 1, images_needed(paired.drop, paired.discordance, margin_pp=margin_pp, alpha=alpha))
    sentence = (
        f"{outcome}: drop {paired.drop:.2f} pp [{interval.low:.2f}, {interval.high:.2f}] "
        f"({interval.confidence:.0%} Tango interval, {paired.n} images, {paired.b} lost and {paired.c} gained) "
        f"against a margin of {margin_pp:g} pp"
    )
    if needed is not None:
        sentence += f"; about {needed} images would settle it"
    return Decision(outcome=outcome, interval=interval, n_needed=needed, sentence=sentence)
