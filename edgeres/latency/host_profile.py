"""``HostProfile``: latency lookup table of this machine, and the latency in ms of any ResNet predicted from it.

A convolution of stride 1 is entered as half of a pair ``C_in`` to ``C_out`` to ``C_in``: a residual block holds both
directions, so its sum is right whichever half is slower. Between entries the logarithm of the time per MAC of the tiles
that cover a layer is interpolated linearly in the logarithms of channels and side; beyond the table's ends it is
constant.
"""

from __future__ import annotations

import json
from math import exp, log
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from edgeres.errors import UsageError
from edgeres.latency.prediction import Prediction
from edgeres.latency.roofline import Cost
from edgeres.latency.workload import tile_area
from edgeres.settings import parse, parse_json, plain, read_text, settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgeres.latency.workload import Work
    from edgeres.targets.target import Target

SCHEMA: Literal["edgeres.profile/1"] = "edgeres.profile/1"
MULTIPLE = 16
"""Channels per vector of x86 kernels in both runtimes: the float lanes of AVX-512."""
_BLOCK = 32
_TAPS = 3
"""Largest kernel side that the table has by channels; larger kernels are stems."""


@settings
class Point:
    """Measured latency of one layer, with the sides of its kernel and of its output in pixels."""

    kernel: int
    stride: int
    side: int
    c_in: int
    c_out: int
    ms: float = Field(gt=0)


@settings
class Table:
    """Latency lookup table in one precision.

    Attributes:
        points: Convolutions of 1x1 and 3x3.
        stems: 7x7 convolutions of stride 2 with their pool; ``c_in`` is 3.
        heads: Global pool and classifier; ``c_in`` channels to 1,000 classes.
        add_ns: Nanoseconds of a residual add per element of its output.
        odd: Increase of the logarithm of a layer's time for each side whose channels fill the last block of 32 half or
            less; the channels of ``points`` fill it.
        call_ms: Overhead of a call in milliseconds.
        unit_ms: Time of the interleaved reference graph in milliseconds, on an idle machine.
        scale: Measured over summed time of known networks: the overhead of layers in a network beyond their sum.
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
class ProfileValidation:
    """Latency of a network predicted by the table, and measured afterwards on the machine of the profile.

    The measured median is brought to the table's load of the machine by the interleaved reference.
    """

    name: str
    precision: Literal["int8", "float"]
    predicted_ms: float
    measured_ms: float

    @property
    def ratio(self) -> float:
        """Predicted over measured latency."""
        return self.predicted_ms / self.measured_ms


@settings
class HostProfile:
    """Latency lookup tables of a machine, schema ``edgeres.profile/1``.

    Attributes:
        target: Target whose runtime was measured.
        load: One-minute load average at the start; above ``cores``, other processes disturbed the measurement.
        known: Networks whose measured times set the scales.
        trials: Networks that validated the tables.
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
    trials: tuple[ProfileValidation, ...] = ()

    @property
    def factor(self) -> float:
        """Factor of a prediction's band in either direction: the largest error of any validation."""
        return max((max(trial.ratio, 1 / trial.ratio) for trial in self.trials), default=1.0)

    def predicted(self, works: Sequence[Work]) -> Prediction:
        """Predicted latency of a network, with its band.

        Raises:
            UsageError: A kernel is of a kind that the table lacks, or there is no validation.
        """
        integer = any(work.integer for work in works)
        table = self.tables["int8" if integer else "float"]
        lookup = Lookup(table)
        costs = tuple(
            Cost(work, table.scale * lookup.ms(work), "measured", work.macs / (work.padded_macs(MULTIPLE) or 1))
            for work in works
        )
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


class Lookup:
    """Interpolation of a ``Table``: logarithms of milliseconds per padded MAC, by kernel, stride, side and channels.

    Raises:
        UsageError: The channels of a kernel, stride and side are no grid.
    """

    def __init__(self, table: Table) -> None:
        rates: dict[tuple[int, int], dict[int, dict[int, dict[int, float]]]] = {}
        for point in table.points:
            sides = rates.setdefault((point.kernel, point.stride), {})
            sides.setdefault(point.side, {}).setdefault(point.c_in, {})[point.c_out] = _log_rate(point)
        for grid in (grid for sides in rates.values() for grid in sides.values()):
            if len({tuple(sorted(row)) for row in grid.values()}) != 1:
                raise UsageError("the profile's channels are no grid", "profile again")
        self._rates = rates
        self._stems = {point.c_out: _log_rate(point) for point in table.stems}
        self._heads = {point.c_in: _log_rate(point) for point in table.heads}
        self._table = table

    def ms(self, work: Work) -> float:
        """Time of a kernel within a network, in milliseconds.

        Raises:
            UsageError: The table has no such kernel.
        """
        if work.kind == "add":
            return 1e-6 * self._table.add_ns * work.activations / 3
        if work.kind == "pool":
            return 0.0  # the stem's and the classifier's, which were measured with them
        tiles = work.padded_macs(MULTIPLE)
        if work.kind == "linear":
            return tiles * exp(_between(self._heads, work.c_in))
        if work.kernel > _TAPS:
            return tiles * exp(_between(self._stems, work.c_out))
        if work.groups > 1 or (work.kernel, work.stride) not in self._rates:
            raise UsageError(
                f"the profile has no {work.title}", "predict networks of ungrouped 1x1 and 3x3 convolutions with it"
            )
        return tiles * exp(self._rate((work.kernel, work.stride), work.side, work.c_in, work.c_out))

    def conv_ms(self, point: Point) -> float:
        """Time of a 1x1 or 3x3 convolution, in milliseconds."""
        return padded(point) * exp(self._rate((point.kernel, point.stride), point.side, point.c_in, point.c_out))

    def _rate(self, window: tuple[int, int], side: float, c_in: int, c_out: int) -> float:
        """Natural logarithm of milliseconds per padded MAC."""
        rows = {
            known: _between({channels: _between(row, c_out) for channels, row in grid.items()}, c_in)
            for known, grid in self._rates[window].items()
        }
        return _between(rows, side) + self._table.odd * (half_filled(c_in) + half_filled(c_out))


def _log_rate(point: Point) -> float:
    return log(point.ms / padded(point))


def padded(point: Point) -> int:
    """MACs of the tiles that cover an entry of the table, as ``Work.padded_macs`` counts them."""
    return tile_area(point.kernel**2 * point.c_in, point.c_out, MULTIPLE) * point.side**2


def half_filled(channels: int) -> bool:
    """Whether channels fill their last block of 32 half or less."""
    return 0 < channels % _BLOCK <= _BLOCK // 2


def _between(points: Mapping[int, float], at: float) -> float:
    """Interpolates linearly in the logarithm of the key, constant beyond both ends."""
    places = sorted(points)
    return float(np.interp(log(at), [log(place) for place in places], [points[place] for place in places]))


def encode(profile: HostProfile) -> str:
    """The profile as JSON."""
    return json.dumps(plain(profile), indent=1, allow_nan=False) + "\n"


def read_profile(place: Path, target: Target) -> HostProfile:
    """Reads a profile from a JSON file.

    Raises:
        UsageError: The file is missing, no profile, or a profile of another target.
    """
    hint = f"edgeres profile --target {target.name}"
    profile = parse(HostProfile, parse_json(read_text(place, hint), place, hint), str(place))
    if profile.target != target.name:
        raise UsageError(f"{place} is a profile of {profile.target}", hint)
    return profile
