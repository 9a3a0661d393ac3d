"""``HostProfile``: what layers take on this machine, measured once, and what any ResNet takes according to it.

Convolutions of stride 1 stand in the table as half of a way there and back, ``C_in`` to ``C_out`` to ``C_in``: a
residual block goes both ways, so its sum is right whichever half is slower. What is not in the table is interpolated:
the logarithm of the time per MAC of the tiles that cover a layer goes linearly with that of channels and side, and
stays what it is beyond the table's ends.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from edgeres.errors import UsageError
from edgeres.latency.prediction import Prediction
from edgeres.latency.roofline import Cost
from edgeres.settings import parse, parse_json, plain, read_text, settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgeres.latency.workload import Work
    from edgeres.targets.target import Target

SCHEMA: Literal["edgeres.profile/1"] = "edgeres.profile/1"
MULTIPLE = 16
"""Channels that x86 kernels work on at a time, in both runtimes: the lanes of AVX-512 in float."""
_BLOCK = 32
_TAPS = 3
"""Windows up to this side are in the table by their channels; larger ones are stems."""


@settings
class Point:
    """One layer of the table.

    Attributes:
        kernel: Side of its window.
        stride: Of the window.
        side: Side of its output in pixels.
        ms: Its time.
    """

    kernel: int
    stride: int
    side: int
    c_in: int
    c_out: int
    ms: float = Field(gt=0)


@settings
class Table:
    """Layers in one precision.

    Attributes:
        points: Convolutions of 1x1 and 3x3.
        stems: 7x7 of stride 2 with its pool; ``c_in`` is 3.
        heads: Pool and classifier; ``c_in`` channels to 1,000 classes.
        add_ns: Nanoseconds of a residual add per element of its output.
        odd: What each side of a layer whose channels fill the last block of 32 only half adds to the logarithm of its
            time, beyond what the table's channels, which fill it, say.
        call_ms: A call of a graph with hardly any work.
        unit_ms: The graph that ran in turn with everything, on a quiet machine.
        scale: Measured over summed time of known networks: what layers beside each other take beyond their sum.
    """

    points: tuple[Point, ...]
    stems: tuple[Point, ...]
    heads: tuple[Point, ...]
    add_ns: float = Field(ge=0)
    call_ms: float = Field(ge=0)
    unit_ms: float = Field(gt=0)
    odd: float = Field(default=0.0, ge=0)
    scale: float = Field(default=1.0, gt=0)


@settings
class Trial:
    """A network that was predicted and then measured, on the machine of the profile.

    Attributes:
        name: What it is.
        precision: ``int8`` or ``float``.
        predicted_ms: By the table, before it was measured.
        measured_ms: Its median, brought to the same load of the machine by a reference that ran in turn.
    """

    name: str
    precision: Literal["int8", "float"]
    predicted_ms: float
    measured_ms: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted_ms / self.measured_ms


@settings
class HostProfile:
    """A machine's table.

    Attributes:
        target: Whose runtime was measured.
        runtime: Its name and version.
        cpu: Model name of the processor.
        threads: Of the runtime.
        load: Runnable processes over the last minute when it began: above the cores, others were in the way.
        known: Networks whose measured times set the scales.
        tables: By precision.
        trials: What the table was tried on afterwards.
    """

    schema: Literal["edgeres.profile/1"] = SCHEMA
    target: str
    runtime: str
    cpu: str
    cores: int
    threads: int
    load: float
    known: tuple[str, ...]
    tables: dict[Literal["int8", "float"], Table]
    trials: tuple[Trial, ...] = ()

    @property
    def factor(self) -> float:
        """Band of a prediction either way: the furthest any trial was off."""
        return max((max(trial.ratio, 1 / trial.ratio) for trial in self.trials), default=1.0)

    def predicted(self, works: Sequence[Work]) -> Prediction:
        """What the table says of a network.

        Raises:
            UsageError: A kernel is of a kind that the table has not, or nothing was tried in that precision.
        """
        integer = any(work.integer for work in works)
        table = self.tables["int8" if integer else "float"]
        lookup = Lookup.of(table)
        costs = tuple(Cost(work, table.scale * lookup.ms(work), "measured", _share(work)) for work in works)
        call = table.scale * table.call_ms
        ms = call + sum(cost.ms for cost in costs)
        if not self.trials:
            raise UsageError("the profile was tried on no network, so a prediction has no band", "profile again")
        off = max(abs(trial.ratio - 1) for trial in self.trials)
        basis = (
            f"a table of layers measured on {self.cpu}, {self.runtime}, {self.threads} threads; on "
            f"{len(self.trials)} networks it was off by {100 * off:.1f} % at most"
        )
        return Prediction(ms, ms / self.factor, ms * self.factor, costs, call, basis)


@dataclass(frozen=True, slots=True)
class Lookup:
    """A table as what is asked of it: milliseconds per padded MAC, by window and side.

    Attributes:
        rates: ``(kernel, stride)`` to sides in order, each with its channels in order and the logarithm of the rate.
        stems: Output channels to the rate of a stem.
        heads: Input channels to the rate of a classifier.
        add_ns: Of the table.
        odd: Of the table.
    """

    rates: Mapping[tuple[int, int], tuple[tuple[int, _Grid], ...]]
    stems: tuple[tuple[int, float], ...]
    heads: tuple[tuple[int, float], ...]
    add_ns: float
    odd: float

    @classmethod
    def of(cls, table: Table) -> Lookup:
        """Sorts a table."""
        windows = sorted({(point.kernel, point.stride) for point in table.points})
        rates = {}
        for window in windows:
            own = [point for point in table.points if (point.kernel, point.stride) == window]
            sides = sorted({point.side for point in own})
            rates[window] = tuple((side, _Grid.of([p for p in own if p.side == side])) for side in sides)
        stems = tuple(sorted((point.c_out, log(point.ms / padded(point))) for point in table.stems))
        heads = tuple(sorted((point.c_in, log(point.ms / padded(point))) for point in table.heads))
        return cls(rates, stems, heads, table.add_ns, table.odd)

    def ms(self, work: Work) -> float:
        """Time of a kernel beside others.

        Raises:
            UsageError: The table has no such kernel.
        """
        if work.kind == "add":
            return 1e-6 * self.add_ns * work.activations / 3
        if work.kind == "pool":
            return 0.0  # the stem's and the classifier's, which were measured with them
        tiles = work.padded_macs(MULTIPLE)
        if work.kind == "linear":
            return tiles * exp(_between(self.heads, work.c_in))
        if work.kernel > _TAPS:
            return tiles * exp(_between(self.stems, work.c_out))
        if work.groups > 1 or (work.kernel, work.stride) not in self.rates:
            raise UsageError(
                f"the profile has no {work.title}", "predict networks of ungrouped 1x1 and 3x3 convolutions with it"
            )
        return tiles * exp(self._rate((work.kernel, work.stride), work.side, work.c_in, work.c_out))

    def conv_ms(self, point: Point) -> float:
        """Time of a convolution of 1x1 or 3x3."""
        return padded(point) * exp(self._rate((point.kernel, point.stride), point.side, point.c_in, point.c_out))

    def _rate(self, window: tuple[int, int], side: float, c_in: int, c_out: int) -> float:
        """Logarithm of milliseconds per padded MAC."""
        rate = _between([(known, grid.rate(c_in, c_out)) for known, grid in self.rates[window]], side)
        return rate + self.odd * (half_filled(c_in) + half_filled(c_out))


@dataclass(frozen=True, slots=True)
class _Grid:
    """Logarithms of rates over the product of two lists of channels."""

    c_in: tuple[int, ...]
    rows: tuple[tuple[tuple[int, float], ...], ...]

    @classmethod
    def of(cls, points: Sequence[Point]) -> _Grid:
        ins = tuple(sorted({point.c_in for point in points}))
        rows = []
        for channels in ins:
            row = {p.c_out: log(p.ms / padded(p)) for p in points if p.c_in == channels}
            rows.append(tuple(sorted(row.items())))
        if len({tuple(c for c, _ in row) for row in rows}) != 1:
            raise UsageError("the profile's channels are no grid", "profile again")
        return cls(ins, tuple(rows))

    def rate(self, c_in: int, c_out: int) -> float:
        along = [_between(row, c_out) for row in self.rows]
        return _between(list(zip(self.c_in, along, strict=True)), c_in)


def padded(point: Point) -> int:
    """MACs of the tiles that cover a layer of the table, as ``Work.padded_macs`` counts them."""
    return _up(point.kernel**2 * point.c_in) * _up(point.c_out) * point.side**2


def half_filled(channels: int) -> bool:
    """Whether channels fill the last block of 32 half or less."""
    return 0 < channels % _BLOCK <= _BLOCK // 2


def _up(channels: int) -> int:
    return -(-channels // MULTIPLE) * MULTIPLE


def _between(points: Sequence[tuple[float, float]], at: float) -> float:
    """Linear in the logarithm of the first coordinate, constant beyond both ends."""
    places = [place for place, _ in points]
    index = bisect_right(places, at)
    if index in (0, len(points)):
        return points[max(0, index - 1)][1]
    (left, low), (right, high) = list(pairwise(points))[index - 1]
    return low + (high - low) * log(at / left) / log(right / left)


def _share(work: Work) -> float:
    return work.macs / (work.padded_macs(MULTIPLE) or 1)


def encode(profile: HostProfile) -> str:
    """The profile as JSON."""
    return json.dumps(plain(profile), indent=1, allow_nan=False) + "\n"


def read_profile(place: Path, target: Target) -> HostProfile:
    """Reads a profile.

    Raises:
        UsageError: No such file, no profile, or one of another target.
    """
    hint = f"edgeres profile --target {target.name}"
    profile = parse(HostProfile, parse_json(read_text(place, hint), place, hint), str(place))
    if profile.target != target.name:
        raise UsageError(f"{place} is a profile of {profile.target}", hint)
    return profile
