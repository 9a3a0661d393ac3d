"""``Comparison``: a float and a deployed network on the same images, by the metric of their task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeres.gate import bootstrap, paired_test
from edgeres.gate.paired_test import Decision, Interval, Outcome, Paired

if TYPE_CHECKING:
    from edgeres.gate.bootstrap import Bootstrap

_POWER = 0.8


class Comparison(ABC):
    """The drop of a metric from float to the deployed network in pp, with its interval and the gate's decision."""

    method: str

    @property
    @abstractmethod
    def n(self) -> int:
        """Number of images, or of queries."""

    @property
    @abstractmethod
    def drop(self) -> float:
        """Float score less the deployed one, in pp."""

    @property
    def paired(self) -> Paired | None:
        """Counts of images that one network alone gets right; None where an image is not right or wrong."""
        return None

    @abstractmethod
    def interval(self, confidence: float = 0.95) -> Interval:
        """Confidence interval of the drop."""

    @abstractmethod
    def decide(self, margin_pp: float, alpha: float = 0.05) -> Decision:
        """The gate's decision on a margin."""

    @abstractmethod
    def needed(self, margin_pp: float, alpha: float = 0.05) -> int | None:
        """Images on which a network without any drop would pass with a chance of 0.8; None where it is not known."""

    @property
    @abstractmethod
    def counted(self) -> str:
        """The images behind the drop, in words."""

    def doubtful(self, margin_pp: float) -> bool:
        """Whether a drop over the margin is INCONCLUSIVE, on images that would give PASS to one without any flip."""
        if self.drop <= margin_pp or self.decide(margin_pp).outcome is not Outcome.INCONCLUSIVE:
            return False
        return paired_test.decide(Paired(n=self.n, b=0, c=0), margin_pp).outcome is Outcome.PASS


@dataclass(frozen=True, slots=True)
class Hits(Comparison):
    """A comparison of images that are right or wrong, by Tango's score test."""

    counts: Paired
    method = "Tango (1998) score interval of the paired difference"

    @property
    def n(self) -> int:
        """Number of images, or of queries."""
        return self.counts.n

    @property
    def drop(self) -> float:
        """Float score less the deployed one, in pp."""
        return self.counts.drop

    @property
    def paired(self) -> Paired:
        """Counts of images that one network alone gets right."""
        return self.counts

    def interval(self, confidence: float = 0.95) -> Interval:
        """Tango's score interval of the drop."""
        return paired_test.tango(self.counts, confidence)

    def decide(self, margin_pp: float, alpha: float = 0.05) -> Decision:
        """The one-sided score tests of a margin."""
        return paired_test.decide(self.counts, margin_pp, alpha)

    def needed(self, margin_pp: float, alpha: float = 0.05) -> int | None:
        """Images on which a network without any drop would pass with a chance of 0.8."""
        if margin_pp <= 0:
            return None
        return paired_test.images_needed(0.0, self.counts.discordance, margin_pp=margin_pp, alpha=alpha, power=_POWER)

    @property
    def counted(self) -> str:
        """The images behind the drop, in words."""
        return f"{self.n} validation images, {self.counts.b} lost and {self.counts.c} gained"


@dataclass(frozen=True, slots=True)
class Resampled(Comparison):
    """A comparison by a metric of all images together, with the bootstrap over images."""

    samples: Bootstrap
    method = "BCa bootstrap interval over images (Efron 1987) of the paired difference"

    @property
    def n(self) -> int:
        """Number of images."""
        return self.samples.n

    @property
    def drop(self) -> float:
        """Float score less the deployed one, in pp."""
        return self.samples.drop

    def interval(self, confidence: float = 0.95) -> Interval:
        """BCa interval of the drop."""
        return self.samples.interval(confidence)

    def decide(self, margin_pp: float, alpha: float = 0.05) -> Decision:
        """PASS or FAIL where the ``1 - 2 alpha`` interval is on one side of the margin."""
        return bootstrap.decide(self.samples, margin_pp, alpha)

    def needed(self, margin_pp: float, alpha: float = 0.05) -> int | None:
        """Images on which a network without any drop would pass with a chance of 0.8."""
        return bootstrap.images_needed(self.samples, 0.0, margin_pp, alpha) if margin_pp > 0 else None

    @property
    def counted(self) -> str:
        """The images behind the drop, in words."""
        return f"{self.n} validation images, {len(self.samples.samples):,} bootstrap samples"


@dataclass(frozen=True, slots=True)
class Scored:
    """A further metric of both networks in percent, which is reported and not judged; the interval is that of its drop.

    ``name`` is what it is, such as ``F1 at 0.42``.
    """

    name: str
    before: float
    after: float
    interval: Interval
