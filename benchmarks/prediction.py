"""How far latency predictions are off on devices and networks that the fit has not seen, class by class.

``python -m benchmarks.prediction [--json] [--write]`` fits every class of kernels to ``latencies.csv`` (see
``benchmarks.roofline_fit``), then leaves out one chip or one network at a time, fits again and predicts what was left
out: from the device's peaks alone, and calibrated by one other network of the same entry. ``--write`` puts the table
into ``docs/prediction.md`` and the parameters with their errors into ``edgeres/targets/rooflines/classes.yaml``, from
which ``edgeres predict`` takes its bands.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from math import exp, log
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from benchmarks.command import CHECKOUT, run
from benchmarks.latencies import disagreements, disagreements_of_ratios, pairs, read
from benchmarks.roofline_fit import FORMS, fit
from benchmarks.table import markdown, with_block
from edgeres.latency.roofline import PredictionError
from edgeres.settings import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.latencies import LatencyRow, Pair
    from edgeres.latency.roofline import KernelClass

MARKERS = "<!-- prediction:begin -->", "<!-- prediction:end -->"
DOCUMENT = CHECKOUT / "docs" / "prediction.md"
CLASSES = CHECKOUT / "edgeres" / "targets" / "rooflines" / "classes.yaml"
HEADS = (
    "class", "rows", "chips", "peaks, new network", "peaks, new chip", "one measured, new network",
    "one measured, new chip", "two sources", "their ratios",
)  # fmt: skip
_LEAST_CHIPS, _LEAST_PREDICTIONS = 3, 10
"""Below either, a class's own errors are too few to be its band."""
_SHOWN = "jetson"
"""The class whose rows are listed one by one: few, and the first of the README's targets is of it."""
_CLASSES_HEADER = (
    "# Fitted by `python -m benchmarks.prediction --write`; a test fits again and compares. Do not edit.\n"
)


@dataclass(frozen=True, slots=True)
class Errors:
    """Predicted over published, of what the fit had not seen.

    Attributes:
        ratios: One per prediction.
        of: Chip that each is of.
    """

    ratios: tuple[float, ...]
    of: tuple[str, ...]

    @property
    def chips(self) -> int:
        """On how many chips they were made."""
        return len(set(self.of))

    @property
    def enough(self) -> bool:
        """Whether their quantiles are a band."""
        return self.chips >= _LEAST_CHIPS and len(self.ratios) >= _LEAST_PREDICTIONS

    @property
    def relative(self) -> tuple[float, float]:
        """Median and 90 % quantile of the relative error in percent."""
        off = [100 * abs(ratio - 1) for ratio in self.ratios]
        return float(np.median(off)), float(np.quantile(off, 0.9))

    @property
    def factor(self) -> float:
        """Factor either way that 90 % keep within."""
        return exp(float(np.quantile([abs(log(ratio)) for ratio in self.ratios], 0.9)))

    def missed(self, least_factor: float = 1.0, *, pooled: bool = False) -> PredictionError:
        """As ``edgeres`` keeps it; ``pooled`` where they are of other classes."""
        median, p90 = self.relative
        factor = max(self.factor, least_factor)
        return PredictionError(
            median_pct=round(median, 1), p90_pct=round(p90, 1), factor=round(factor, 3),
            predictions=len(self.ratios), chips=self.chips, pooled=pooled,
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
        floors = (Errors(tuple(1 + apart for apart in apart_by), ()) for apart_by in (self.noise, self.ratio_noise))
        first, second = (floor.cell() for floor in floors)
        return first, second


def validated(name: str, rows: Sequence[LatencyRow], twos: Sequence[Pair]) -> Validated:
    """Fits a class and leaves out one chip and one network at a time."""
    rows = [row for row in rows if row.kind == name]
    twos = [two for two in twos if two.known.kind == name]
    by_chip = _left_out(name, rows, twos, lambda row: row.chip)
    by_model = _left_out(name, rows, twos, lambda row: row.model)
    return Validated(
        kind=fit(name, rows, twos).kind,
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
    name: str, rows: Sequence[LatencyRow], twos: Sequence[Pair], unit: Callable[[LatencyRow], str]
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
        fitted = fit(name, others, rest)
        for row in rows:
            if unit(row) == left and row.has_peak and fitted.kind.efficiency is not None:
                alone.append((row.chip, fitted.ms(row) / row.ms))
        for two in twos:
            if unit(two.asked) == left:
                paired.append((two.asked.chip, fitted.asked_ms(two) / two.asked.ms))
    return _errors(alone), _errors(paired)


def _errors(found: Sequence[tuple[str, float]]) -> Errors:
    return Errors(tuple(ratio for _, ratio in found), tuple(chip for chip, _ in found))


def _pooled(found: Sequence[Errors]) -> Errors:
    """Errors of several classes as one."""
    ratios = tuple(ratio for errors in found for ratio in errors.ratios)
    return Errors(ratios, tuple(chip for errors in found for chip in errors.of))


def everything() -> tuple[Validated, ...]:
    """Every class of ``latencies.csv``."""
    rows = read()
    twos = pairs(rows)
    return tuple(validated(name, rows, twos) for name in FORMS)


def with_bands(found: Sequence[Validated]) -> tuple[KernelClass, ...]:
    """The classes with the errors that become bands.

    One of few chips or predictions gets no narrower band than its relatives together (the classes for the same runtime,
    such as those of the Jetsons), or than all classes where those are few too.
    """
    return tuple(
        replace(
            row.kind,
            calibrated=_band(found, row, lambda of: of.known_chip),
            uncalibrated=None if row.kind.efficiency is None else _band(found, row, lambda of: of.peaks_chip),
        )
        for row in found
    )


def _band(found: Sequence[Validated], row: Validated, errors: Callable[[Validated], Errors]) -> PredictionError:
    own = errors(row)
    if own.enough:
        return own.missed()
    relatives = _pooled([errors(other) for other in found if _family(other.kind) == _family(row.kind)])
    wider = relatives if relatives.enough else _pooled([errors(other) for other in found])
    return own.missed(wider.factor) if own.ratios else wider.missed(pooled=True)


def _family(kind: KernelClass) -> str:
    """``jetson`` of ``jetson_cuda``."""
    return kind.name.partition("_")[0]


def classes_text(kinds: Sequence[KernelClass]) -> str:
    """``classes.yaml``."""
    rows = [_said(plain(kind)) for kind in kinds]
    return _CLASSES_HEADER + str(yaml.safe_dump(rows, sort_keys=False, allow_unicode=True))


def _said(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what is not there, at every level."""
    kept = {key: value for key, value in fields.items() if value is not None and value is not False}
    return {key: _said(value) if isinstance(value, dict) else value for key, value in kept.items()}


def listed(name: str, rows: Sequence[LatencyRow]) -> str:
    """Every row of a class beside what a fit to all rows predicts, and one to the rows of the other chips."""
    rows = sorted((row for row in rows if row.kind == name and row.has_peak), key=lambda row: row.chip)
    whole = fit(name, rows, pairs(rows))
    rests = {chip: [row for row in rows if row.chip != chip] for chip in {row.chip for row in rows}}
    without = {chip: fit(name, rest, pairs(rest)) for chip, rest in rests.items()}
    cells = []
    for row in rows:
        shown = (whole.ms(row), without[row.chip].ms(row))
        predictions = (f"{ms:.3f} ms ({100 * (ms / row.ms - 1):+.0f} %)" for ms in shown)
        figure = row.judged.replace("_", " ")
        cells.append((row.chip, row.network, row.precision, figure, f"{row.ms:g} ms", *predictions, row.source))
    heads = ("chip", "network", "in", "figure", "published", "fitted to all rows", "chip left out", "source")
    return markdown(heads, cells)


def table(found: Sequence[Validated], kinds: Sequence[KernelClass]) -> str:
    """The tables for people: errors, one class row by row, and parameters."""
    names = ("peaks_network", "peaks_chip", "known_network", "known_chip")
    every = [_pooled([getattr(row, name) for row in found]) for name in names]
    every_row = read()
    chips = len({row.chip for row in every_row})
    rows = [row.cells() for row in found]
    rows.append(("all", str(sum(row.rows for row in found)), str(chips), *(error.cell() for error in every), "-", "-"))
    parameters = [
        (
            kind.title, f"{kind.gain:g}", f"{kind.balance:g}",
            "-" if kind.bandwidth_share is None else f"{kind.bandwidth_share:.0%}",
            f"{kind.layer_us:g}", f"{kind.call_ms:g}", f"{kind.call_gops:g}",
            "-" if kind.efficiency is None else f"{kind.efficiency:.0%}",
            "-" if kind.uncalibrated is None else f"{kind.uncalibrated.factor:.2f}", f"{kind.calibrated.factor:.2f}",
        )
        for kind in kinds
    ]  # fmt: skip
    heads = (
        "class", "gain on 3x3", "ops per byte", "share of bandwidth", "us per kernel", "ms per call", "Gops per call",
        "share of peak",
        "band from peaks", "band, one measured",
    )  # fmt: skip
    return (
        "Relative error, median / 90 % quantile (predictions):\n\n"
        f"{markdown(HEADS, rows)}\n\n"
        f"{FORMS[_SHOWN].title}, row by row:\n\n"
        f"{listed(_SHOWN, every_row)}\n\n"
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
        "--write", action="store_true", help="renew docs/prediction.md and edgeres/targets/rooflines/classes.yaml"
    )
    return run(parser, _work, given)


if __name__ == "__main__":
    sys.exit(main())
