"""Bootstrap intervals of medians, and of ratios of two medians whose samples were taken in turn.

Calls of one burst share whatever the machine did meanwhile, so calls are no independent sample; rounds nearly are. The
bootstrap therefore draws whole rounds with replacement (Davison and Hinkley, Bootstrap Methods and their Application,
1997, section 3.8, resampling of clusters), and for a ratio the same rounds of both. Intervals are percentiles of what
is drawn (Efron 1979).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Rounds = Sequence[Sequence[float]]

DRAWS = 1000
CONFIDENCE = 0.95


def median_interval(rounds: Rounds, *, draws: int = DRAWS) -> tuple[float, float]:
    """The 95 % interval of the median of all samples.

    Args:
        rounds: Samples by round.
        draws: Resamples.

    Raises:
        ValueError: There is no round, or one without a sample.
    """
    return _interval(_medians(rounds, _drawn(len(rounds), draws)))


def ratio_interval(above: Rounds, below: Rounds) -> tuple[float, float]:
    """The 95 % interval of the ratio of two medians.

    Args:
        above: Samples of the numerator by round.
        below: Of the denominator, of the same rounds.

    Raises:
        ValueError: Unequal numbers of rounds, none at all, or one without a sample.
    """
    if len(above) != len(below):
        raise ValueError(f"{len(above)} rounds over {len(below)}")
    drawn = _drawn(len(above), DRAWS)
    return _interval(_medians(above, drawn) / _medians(below, drawn))


def _drawn(rounds: int, draws: int) -> NDArray[np.int64]:
    """Which rounds each resample holds, ``[draws,rounds]``."""
    return np.random.default_rng(0).integers(rounds, size=(draws, rounds))


def _medians(rounds: Rounds, drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    if not all(len(samples) for samples in rounds):
        raise ValueError("a round without a sample")
    parts = [np.asarray(samples, dtype=np.float64) for samples in rounds]
    return np.array([np.median(np.concatenate([parts[index] for index in row])) for row in drawn])


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, (tail, 100 - tail))
    return float(low), float(high)
