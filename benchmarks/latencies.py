"""Published latencies of ResNets, read from ``latencies.csv``; its header says what they are and what was left out."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from edgeres.artifacts.budget_check import Figure
from edgeres.data.size import Size
from edgeres.latency.workload import Work, of_graph
from edgeres.model.graph import graph
from edgeres.model.presets import preset

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PLACE = Path(__file__).with_name("latencies.csv")
WIDTHS = {"int8": 1, "fp16": 2, "fp32": 4}
_THREADS = range(2, 9)
"""Threads of a CPU for which its peak says something: what people deploy with. One thread is another machine."""


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """One published latency; the fields are those of the file.

    Attributes:
        figure: Which latency it is, None where the source does not say.
        gops: Peak in 1e9 operations per second, None where nobody knows it.
        gbs: Memory bandwidth in 1e9 bytes per second, None where nobody knows it.
        entry: Rows of one entry were measured together.
    """

    kind: str
    chip: str
    device: str
    runtime: str
    precision: str
    threads: int | None
    size: int
    network: str
    ms: float
    figure: Figure | None
    entry: int
    gops: float | None
    gbs: float | None
    source: str

    @property
    def model(self) -> str:
        """The network without its variant: leaving one out leaves out its near twins."""
        return self.network.removesuffix("_v1")

    @property
    def works(self) -> tuple[Work, ...]:
        """What its kernels had to do; published networks are quantized throughout."""
        return _works(self.network, self.size, self.precision == "int8")

    @property
    def judged(self) -> Figure:
        """The figure that a prediction is held against: what the host waits, unless the source says otherwise."""
        return self.figure or "host_latency"

    @property
    def wrapped(self) -> bool:
        """Whether torch2trt's Python ran the engine: what that costs is the wrapper's, not the device's."""
        return "torch2trt" in self.runtime

    @property
    def has_peak(self) -> bool:
        """Whether a prediction without calibration can be held against it."""
        return self.gops is not None and (not self.kind.startswith(("arm", "x86")) or self.threads in _THREADS)

    @property
    def condition(self) -> tuple[object, ...]:
        """What two rows must share to be the same measurement by two people."""
        runtime = "mlperf" if self.runtime.startswith("mlperf") else self.runtime
        return self.device, runtime, self.precision, self.threads, self.size, self.network


@dataclass(frozen=True, slots=True)
class Pair:
    """Two networks measured together: the first calibrates the device, the second is predicted."""

    known: LatencyRow
    asked: LatencyRow


def read(place: Path = PLACE) -> tuple[LatencyRow, ...]:
    """Every row of the file."""
    lines = [line for line in place.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return tuple(_row(fields) for fields in csv.DictReader(lines))


def pairs(rows: Iterable[LatencyRow]) -> tuple[Pair, ...]:
    """Every ordered pair of different networks of one entry."""
    entries: dict[int, list[LatencyRow]] = {}
    for row in rows:
        entries.setdefault(row.entry, []).append(row)
    found = (Pair(*two) for entry in entries.values() for two in permutations(entry, 2))
    return tuple(pair for pair in found if pair.known.network != pair.asked.network)


def disagreements(rows: Sequence[LatencyRow]) -> list[float]:
    """How far two people's figures for the same thing are apart: ``|a / b - 1|`` of every ordered pair."""
    same: dict[tuple[object, ...], list[float]] = {}
    for row in rows:
        same.setdefault(row.condition, []).append(row.ms)
    return [abs(a / b - 1) for figures in same.values() for a, b in permutations(figures, 2)]


def disagreements_of_ratios(twos: Sequence[Pair]) -> list[float]:
    """The same of the ratio between two networks, which is all that a calibrated prediction predicts."""
    same: dict[tuple[object, ...], list[float]] = {}
    for two in twos:
        same.setdefault((two.known.condition, two.asked.condition), []).append(two.asked.ms / two.known.ms)
    return [abs(a / b - 1) for figures in same.values() for a, b in permutations(figures, 2)]


def _row(fields: dict[str, str]) -> LatencyRow:
    return LatencyRow(
        kind=fields["class"],
        chip=fields["chip"],
        device=fields["device"],
        runtime=fields["runtime"],
        precision=fields["precision"],
        threads=int(fields["threads"]) if fields["threads"] else None,
        size=int(fields["size"]),
        network=fields["network"],
        ms=float(fields["ms"]),
        figure=_figure(fields["figure"]),
        entry=int(fields["entry"]),
        gops=float(fields["gops"]) if fields["gops"] else None,
        gbs=float(fields["gbs"]) if fields["gbs"] else None,
        source=fields["source"],
    )


def _figure(text: str) -> Figure | None:
    figures: dict[str, Figure | None] = {"": None, **{name: name for name in get_args(Figure)}}
    return figures[text]


@cache
def _works(network: str, size: int, integer: bool) -> tuple[Work, ...]:
    return of_graph(graph(preset(network)), Size.square(size), integer=integer)
