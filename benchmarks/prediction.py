"""How far latency predictions are off on devices and networks that the fit has not seen, class by class.

``python -m benchmarks.prediction [--json] [--write]`` fits every class of kernels to ``latencies.csv`` (see
``benchmarks.roofline_fit``), then leaves out one chip or one network at a time, fits again and predicts what was left
out: from the device's peaks alone, and calibrated by one other network of the same entry. ``--write`` puts the table
into ``docs/prediction.md`` and the parameters with their errors into ``edgeres/rooflines/classes.yaml``, from which
``edgeres predict`` takes its bands.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from math import exp, log
from typing import TYPE_CHECKING

import numpy as np
import yaml

from benchmarks.command import CHECKOUT, run
from benchmarks.latencies import disagreements, disagreements_of_ratios, pairs, read
from benchmarks.roofline_fit import FORMS, fit, roofline
from benchmarks.table import markdown, with_block
from edgeres.roofline import Missed
from edgeres.settings import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.latencies import Pair, Row
    from edgeres.roofline import KernelClass

MARKERS = "<!-- prediction:begin -->", "<!-- prediction:end -->"
DOCUMENT = CHECKOUT / "docs" / "prediction.md"
CLASSES = CHECKOUT / "edgeres" / "rooflines" / "classes.yaml"
HEADS = (
    "class", "rows", "chips", "peaks, new network", "peaks, new chip", "one measured, new network",
    "one measured, new chip", "two sources", "their ratios",
)  # fmt: skip
_FEW_CHIPS = 3
"""Below, a class's own errors are too few to be its band."""
_CLASSES_HEADER = (
    "# Fitted by `python -m benchmarks.prediction --write`; a test fits again and compares. Do not edit.\n"
)


@dataclass(frozen=True, slots=True)
class Errors:
    """Predicted over published, of what the fit had not seen.

    Attributes:
        ratios: One per prediction.
        chips: Chips they are of.
    """

    ratios: tuple[float, ...]
    chips: int

    @property
    def relative(self) -> tuple[float, float]:
        """Median and 90 % quantile of the relative error in percent."""
        off = [100 * abs(ratio - 1) for ratio in self.ratios]
        return float(np.median(off)), float(np.quantile(off, 0.9))

    @property
    def factor(self) -> float:
        """Factor either way that 90 % keep within."""
        return exp(float(np.quantile([abs(log(ratio)) for ratio in self.ratios], 0.9)))

    def missed(self, least_factor: float = 1.0) -> Missed | None:
        """As ``edgeres`` keeps it; None where nothing was predicted."""
        if not self.ratios:
            return None
        median, p90 = self.relative
        factor = max(self.factor, least_factor)
        return Missed(
            median_pct=round(median, 1), p90_pct=round(p90, 1), factor=round(factor, 3),
            predictions=len(self.ratios), chips=self.chips,
        )  # fmt: skip

    def cell(self) -> str:
        """``7.2 / 18.0 % (160)``."""
        if not self.ratios:
            return "-"
        median, p90 = self.relative
        return f"{median:.1f} / {p90:.1f} % ({len(self.ratios)})"


@dataclass(frozen=True, slots=True)
class Validated:
    """One class of kernels and its errors.

    Attributes:
        kind: Its parameters, fitted to all rows.
        rows: Published rows.
        chips: Chips they are of.
        peaks_network: From peaks alone, one network left out at a time.
        peaks_chip: The same with one chip left out.
        known_network: Calibrated by another network of the entry, the predicted one left out of the fit.
        known_chip: The same with the chip left out.
        noise: How far two sources of the same figure are apart.
        ratio_noise: The same of the ratio between two networks.
    """

    kind: KernelClass
    rows: int
    chips: int
    peaks_network: Errors
    peaks_chip: Errors
    known_network: Errors
    known_chip: Errors
    noise: tuple[float, ...]
    ratio_noise: tuple[float, ...]

    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        errors = (self.peaks_network, self.peaks_chip, self.known_network, self.known_chip)
        return self.kind.title, str(self.rows), str(self.chips), *(found.cell() for found in errors), *self._floors()

    def _floors(self) -> tuple[str, str]:
        floors = (Errors(tuple(1 + apart for apart in apart_by), 0) for apart_by in (self.noise, self.ratio_noise))
        first, second = (floor.cell() for floor in floors)
        return first, second


def validated(name: str, rows: Sequence[Row], twos: Sequence[Pair]) -> Validated:
    """Fits a class and leaves out one chip and one network at a time."""
    rows = [row for row in rows if row.kind == name]
    twos = [two for two in twos if two.known.kind == name]
    by_chip = _left_out(name, rows, twos, lambda row: row.chip)
    by_model = _left_out(name, rows, twos, lambda row: row.model)
    return Validated(
        kind=fit(name, rows, twos),
        rows=len(rows),
        chips=len({row.chip for row in rows}),
        peaks_network=by_model[0],
        peaks_chip=by_chip[0],
        known_network=by_model[1],
        known_chip=by_chip[1],
        noise=tuple(disagreements(rows)),
        ratio_noise=tuple(disagreements_of_ratios(twos)),
    )


def _left_out(
    name: str, rows: Sequence[Row], twos: Sequence[Pair], unit: Callable[[Row], str]
) -> tuple[Errors, Errors]:
    """Predictions of every unit by a fit to the others: from peaks, and calibrated by another network of the entry.

    A pair takes part in the fit only where neither of its networks belongs to what is left out.
    """
    alone: list[tuple[str, float]] = []
    paired: list[tuple[str, float]] = []
    for left in sorted({unit(row) for row in rows}):
        others = [row for row in rows if unit(row) != left]
        rest = [two for two in twos if left not in (unit(two.known), unit(two.asked))]
        if not rest and not any(row.has_peak for row in others):
            continue  # nothing is left to fit to
        kind = fit(name, others, rest)
        for row in rows:
            if unit(row) == left and row.has_peak and kind.efficiency is not None:
                alone.append((row.chip, roofline(kind, row).total_ms(row.works) / row.ms))
        for two in twos:
            if unit(two.asked) == left:
                known = roofline(kind, two.known).calibrated(two.known.works, two.known.ms)
                paired.append((two.asked.chip, known.total_ms(two.asked.works) / two.asked.ms))
    return _errors(alone), _errors(paired)


def _errors(found: Sequence[tuple[str, float]]) -> Errors:
    return Errors(tuple(ratio for _, ratio in found), len({chip for chip, _ in found}))


def everything() -> tuple[Validated, ...]:
    """Every class of ``latencies.csv``."""
    rows = read()
    twos = pairs(rows)
    return tuple(validated(name, rows, twos) for name in FORMS)


def with_bands(found: Sequence[Validated]) -> tuple[KernelClass, ...]:
    """The classes with the errors that become bands.

    One of few chips gets no narrower band than all classes together.
    """
    pooled = Errors(tuple(ratio for row in found for ratio in row.known_chip.ratios), 0).factor
    made = []
    for row in found:
        few = row.known_chip.chips < _FEW_CHIPS
        calibrated = row.known_chip.missed(pooled if few else 1.0)
        assert calibrated is not None
        made.append(replace(row.kind, calibrated=calibrated, uncalibrated=row.peaks_chip.missed()))
    return tuple(made)


def classes_text(kinds: Sequence[KernelClass]) -> str:
    """``classes.yaml``."""
    rows = [{key: value for key, value in plain(kind).items() if value is not None} for kind in kinds]
    return _CLASSES_HEADER + str(yaml.safe_dump(rows, sort_keys=False, allow_unicode=True))


def table(found: Sequence[Validated], kinds: Sequence[KernelClass]) -> str:
    """Both tables for people: errors, and parameters."""
    every = [
        Errors(tuple(ratio for row in found for ratio in getattr(row, name).ratios), 0)
        for name in ("peaks_network", "peaks_chip", "known_network", "known_chip")
    ]
    chips = len({row.chip for row in read()})
    rows = [row.cells() for row in found]
    rows.append(("all", str(sum(row.rows for row in found)), str(chips), *(error.cell() for error in every), "-", "-"))
    parameters = [
        (
            kind.title, f"{kind.gain:g}", f"{kind.balance:g}", f"{kind.layer_us:g}", f"{kind.call_ms:g}",
            f"{kind.call_gops:g}", "-" if kind.efficiency is None else f"{kind.efficiency:.0%}",
            "-" if kind.uncalibrated is None else f"{kind.uncalibrated.factor:.2f}", f"{kind.calibrated.factor:.2f}",
        )
        for kind in kinds
    ]  # fmt: skip
    heads = (
        "class", "gain on 3x3", "ops per byte", "us per kernel", "ms per call", "Gops per call", "share of peak",
        "band from peaks", "band, one measured",
    )  # fmt: skip
    return (
        "Relative error, median / 90 % quantile (predictions):\n\n"
        f"{markdown(HEADS, rows)}\n\n"
        "Parameters, fitted to all rows, and the factor either way of a prediction's band:\n\n"
        f"{markdown(heads, parameters)}"
    )


def _work(options: argparse.Namespace) -> str:
    found = everything()
    kinds = with_bands(found)
    if options.write:
        block = with_block(DOCUMENT.read_text(encoding="utf-8"), table(found, kinds), MARKERS)
        DOCUMENT.write_text(block, encoding="utf-8")
        CLASSES.write_text(classes_text(kinds), encoding="utf-8")
    if options.json:
        return json.dumps([plain(kind) for kind in kinds], indent=2)
    return table(found, kinds)


def main(given: Sequence[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prediction")
    parser.add_argument("--json", action="store_true", help="print the classes for machines")
    parser.add_argument(
        "--write", action="store_true", help="renew docs/prediction.md and edgeres/rooflines/classes.yaml"
    )
    return run(parser, _work, given)


if __name__ == "__main__":
    sys.exit(main())
