"""How often the gate errs and how many images it takes: Monte Carlo of the test at a fixed n and of the sequential one.

``python -m benchmarks.gate [--runs 100000] [--run RUN] [--write docs/gate.md]``. Each image is lost, gained or neither
with chances that follow from a true drop and a discordance; ``--run`` takes the discordance and the drop of a finished
run's recorded answers as well. The fixed n is what a planner who knew the discordance would take (Connor 1987, level
5 %, power 95 %); both tests get the same images. A true drop of the margin itself is the worst case of either error.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.command import positive, run, said
from benchmarks.table import markdown, with_block
from edgeres.gate.paired_test import Paired, images_needed, score
from edgeres.gate.sequential import LOOK, Bets
from edgeres.runs.finished import read_finished
from edgeres.tasks.measure import indices

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

HEADS = (
    "discordance", "true drop", "images", "fixed: PASS", "FAIL", "sequential: PASS", "FAIL", "images used", "share",
)  # fmt: skip
MARKERS = "<!-- monte-carlo:begin -->", "<!-- monte-carlo:end -->"
DISCORDANCES = (0.01, 0.02, 0.05, 0.10)
ALPHA, POWER = 0.05, 0.95
_Z = 1.6448536269514722
"""Normal quantile of ``1 - ALPHA``."""
_CHUNK = 8192
"""Tests side by side: their numbers stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """How networks really differ, in shares of the images.

    Attributes:
        discordance: Images on which exactly one is right.
        drop: Lost images less gained ones.
        images: Images both tests get.
    """

    discordance: float
    drop: float
    images: int

    @property
    def lost(self) -> float:
        """Chance that an image is lost."""
        return (self.discordance + self.drop) / 2

    @property
    def gained(self) -> float:
        """Chance that an image is gained."""
        return (self.discordance - self.drop) / 2


@dataclass(frozen=True, slots=True)
class Rates:
    """What came of many tests; shares of them, and images used by the sequential test on average."""

    fixed_pass: float
    fixed_fail: float
    passed: float
    failed: float
    used: float

    def cells(self, scenario: Scenario) -> tuple[str, ...]:
        """As the table shows it."""
        shares = [f"{100 * x:.2f} %" for x in (self.fixed_pass, self.fixed_fail, self.passed, self.failed)]
        named = f"{100 * scenario.discordance:g} %", f"{100 * scenario.drop:g} pp", f"{scenario.images:,}"
        return (*named, *shares, f"{self.used:,.0f}", f"{self.used / scenario.images:.0%}")


def scenarios(discordance: float, margin: float, recorded: float | None = None) -> Iterator[Scenario]:
    """No drop, the margin and twice the margin; and the recorded drop, where there is one.

    A drop needs at least as many discordant images: a smaller discordance is raised to it.
    """
    for drop in (0.0, margin, 2 * margin, *(() if recorded is None else (recorded,))):
        psi = max(discordance, abs(drop))
        away = drop if drop != margin else 0.0  # at the margin nothing is ever known: take the images of no drop
        yield Scenario(psi, drop, images_needed(100 * away, psi, margin_pp=100 * margin, alpha=ALPHA, power=POWER))


def measure(scenario: Scenario, margin: float, runs: int, seed: int = 0) -> Rates:
    """Runs both tests on the same drawn images, ``runs`` times."""
    random = np.random.default_rng(seed)
    total = np.zeros(5)
    for start in range(0, runs, _CHUNK):
        total += _chunk(scenario, margin, min(_CHUNK, runs - start), random)
    return Rates(*(total / runs).tolist())


def _chunk(scenario: Scenario, margin: float, runs: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Sums over the tests of one chunk, in the order of ``Rates``.

    A test that knows stops betting; its images are drawn to the end all the same, for the test at the fixed n.
    """
    bets, rich = Bets.none(runs), -np.log(ALPHA)
    going, found = np.arange(runs), np.zeros(4)
    lost_all, gained_all = np.zeros((2, runs), dtype=np.int64)
    for seen in range(0, scenario.images, LOOK):
        images = min(LOOK, scenario.images - seen)
        lost = random.binomial(images, scenario.lost, runs)
        gained = random.binomial(images - lost, scenario.gained / (1 - scenario.lost))
        lost_all += lost
        gained_all += gained
        if len(going):
            bets = bets.after(images, lost[going].astype(float), gained[going].astype(float), margin)
            below, above = bets.below >= rich, bets.above >= rich
            done = below | above
            found[0] += below.sum()
            found[1] += (above & ~below).sum()
            found[2] += done.sum() * (seen + images)
            going, bets = going[~done], _kept(bets, ~done)
    used = found[2] + len(going) * scenario.images
    fixed = _fixed(lost_all, gained_all, scenario.images, margin)
    return np.array([fixed[0], fixed[1], found[0], found[1], used])


def _kept(bets: Bets, rows: NDArray[np.bool_]) -> Bets:
    """The tests among ``[R]`` that go on."""
    return Bets(bets.images, bets.lost[rows], bets.gained[rows], bets.below[rows], bets.above[rows])


def _fixed(lost: NDArray[np.int64], gained: NDArray[np.int64], images: int, margin: float) -> tuple[int, int]:
    """How many tests at the fixed n pass and fail: ``gate.decide``'s score test, once per distinct pair of counts."""
    pairs, times = np.unique(np.stack([lost, gained]), axis=1, return_counts=True)
    scores = np.array([score(Paired(n=images, b=int(b), c=int(c)), 100 * margin) for b, c in pairs.T])
    return int(times[scores < -_Z].sum()), int(times[scores > _Z].sum())


def table(runs: int, margin: float, recorded: Paired | None = None) -> str:
    """The table for people."""
    wanted = [scenario for psi in DISCORDANCES for scenario in scenarios(psi, margin)]
    if recorded:
        wanted += scenarios(recorded.discordance, margin, recorded.drop / 100)
    rows = []
    for scenario in sorted(set(wanted), key=lambda scenario: (scenario.discordance, scenario.drop)):
        said(f"discordance {scenario.discordance:.2%}, drop {100 * scenario.drop:g} pp, {scenario.images} images")
        rows.append(measure(scenario, margin, runs).cells(scenario))
    return markdown(HEADS, rows, words=0)


def _work(options: argparse.Namespace) -> str:
    recorded = None
    if options.run:
        a = read_finished(Path(options.run)).answers
        recorded = Paired.of(*map(indices, (a.float_predictions, a.deployed_predictions, a.labels)))
    found = f"{options.runs:,} runs a row, margin {options.margin:g} pp, level 5 %.\n\n"
    found += table(options.runs, options.margin / 100, recorded)
    if options.write:
        place = Path(options.write)
        place.write_text(with_block(place.read_text(encoding="utf-8"), found, MARKERS), encoding="utf-8")
    return found


def main(given: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate")
    parser.add_argument("--runs", type=positive, default=100_000, metavar="N", help="tests a row (default 100,000)")
    parser.add_argument("--margin", type=float, default=1.0, metavar="PP", help="margin in pp (default 1)")
    parser.add_argument("--run", metavar="RUN", help="take a finished run's discordance and drop as well")
    parser.add_argument("--write", metavar="FILE", help="put the table between the markers of a document")
    return run(parser, _work, given)


if __name__ == "__main__":
    sys.exit(main())
