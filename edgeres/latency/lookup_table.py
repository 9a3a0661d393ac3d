"""Latency lookup table of a ``HostProfile``: the layers that are measured, and the table from their times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING, Literal

from edgeres.errors import StageError
from edgeres.latency import microbenchmark
from edgeres.latency.host_profile import Lookup, Point, Table, half_filled
from edgeres.latency.microbenchmark import CLASSES, FEW, MANY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeres.latency.microbenchmark import MicrobenchmarkGraph
    from edgeres.latency.timer import Timer, Timing
    from edgeres.progress import Progress

Role = Literal["way", "step", "stem", "head", "odd", "add", "bare"]
_TRIES = 3


@dataclass(frozen=True, slots=True)
class ProfiledLayer:
    """A layer that is measured by a pair of microbenchmark graphs, with the sides of its window and of its output.

    Role ``way`` is a pair of stride-1 convolutions ``c_in`` to ``c_out`` to ``c_in``, ``step`` a convolution of stride
    2, ``stem`` and ``head`` are the stem and the classifier, ``odd`` is a pair whose channels half fill their last
    block, ``add`` and ``bare`` are a pair with and without a residual add.
    """

    role: Role
    kernel: int
    side: int
    c_in: int
    c_out: int

    @property
    def graph_pair(self) -> MicrobenchmarkGraph:
        """The two graphs whose difference is the layer's time."""
        match self.role:
            case "step":
                return microbenchmark.strided(self.c_in, self.c_out, self.kernel, self.side)
            case "stem":
                return microbenchmark.stem(self.c_out, self.side)
            case "head":
                return microbenchmark.head(self.c_in)
            case _:
                return microbenchmark.pair(self.c_in, self.c_out, self.kernel, self.side, residual=self.role == "add")

    def point(self, ms: float) -> Point:
        """The row of the table with this layer's time."""
        stride = 2 if self.role in ("step", "stem") else 1
        return Point(kernel=self.kernel, stride=stride, side=self.side, c_in=self.c_in, c_out=self.c_out, ms=ms)

    def turned(self) -> ProfiledLayer:
        """The layer with input and output channels exchanged."""
        return replace(self, c_in=self.c_out, c_out=self.c_in)


_WAYS: dict[int, dict[int, tuple[int, ...]]] = {
    3: {56: (32, 64, 128), 28: (32, 64, 96, 128), 14: (64, 128, 192, 256), 7: (128, 256, 384, 512)},
    1: {56: (32, 64, 128, 256), 28: (64, 128, 256, 512), 14: (128, 256, 512, 1024), 7: (256, 512, 1024, 2048)},
}
"""Channels of pairs of stride 1, by kernel and side of the output; all combinations are measured."""

_STEPS = (
    (3, 28, (32, 64, 128), (64, 128)), (3, 14, (64, 128, 256), (128, 256)), (3, 7, (128, 256, 512), (256, 512)),
    (1, 28, (32, 64, 256), (64, 128, 512)), (1, 14, (64, 128, 512), (128, 256, 1024)),
    (1, 7, (128, 256, 1024), (256, 512, 2048)),
)  # fmt: skip
"""Convolutions of stride 2: kernel, side of the output, input and output channels; all combinations are measured."""

_ODD = (
    (3, 56, 64, 48), (3, 28, 112, 112), (3, 14, 256, 208), (3, 7, 512, 304), (3, 7, 272, 272),
    (1, 56, 256, 48), (1, 28, 512, 112), (1, 14, 1024, 208), (1, 7, 2048, 304),
)  # fmt: skip
_ADDS = ((56, 64), (28, 128), (14, 256), (7, 512))
_WITH_AND_WITHOUT: tuple[Role, ...] = ("add", "bare")
WHOLE = (
    *(
        ProfiledLayer("way", kernel, side, wide, narrow)
        for kernel, sides in _WAYS.items()
        for side, widths in sides.items()
        for wide in widths
        for narrow in widths
        if narrow <= wide
    ),
    *(
        ProfiledLayer("step", kernel, side, c_in, c_out)
        for kernel, side, ins, outs in _STEPS
        for c_in in ins
        for c_out in outs
    ),
    *(ProfiledLayer("stem", 7, 112, 3, width) for width in (16, 32, 64)),
    *(ProfiledLayer("head", 1, 1, width, CLASSES) for width in (128, 512, 1024, 2048)),
    *(ProfiledLayer("odd", *layer) for layer in _ODD),
    *(ProfiledLayer(role, 1, side, width, width) for side, width in _ADDS for role in _WITH_AND_WITHOUT),
)
"""Every layer of a table that covers ResNets and pruned ResNets at about 224 pixels."""


def layer_table(timer: Timer, timing: Timing, progress: Progress, layers: tuple[ProfiledLayer, ...] = WHOLE) -> Table:
    """Measures the lookup table of one precision.

    Raises:
        StageError: The machine is too loaded to measure a layer.
    """
    units: dict[ProfiledLayer, float] = {}
    with progress.task(f"layers in {timer.precision}", len(layers)) as advance:
        for layer in layers:
            units[layer] = _difference(timer, layer, timing)
            advance(1)
        call = _call(timer, timing)
    return assembled(units, call, timer.unit_ms)


def assembled(units: Mapping[ProfiledLayer, float], call: float, unit_ms: float) -> Table:
    """The lookup table from times of layers and of a call, in units of the reference of ``unit_ms`` milliseconds."""
    ms = {layer: unit_ms * value for layer, value in units.items()}
    add_ns = _add_ns(ms)
    points = []
    for layer, value in ms.items():
        if layer.role == "way":
            points += [way.point(value / 2) for way in {layer, layer.turned()}]
        elif layer.role == "step":
            points.append(layer.point(_without_add(value, layer, add_ns)))
    table = Table(
        points=tuple(sorted(points, key=lambda p: (p.kernel, p.stride, p.side, p.c_in, p.c_out))),
        stems=tuple(
            layer.point(_without_add(value, layer, add_ns / 4)) for layer, value in ms.items() if layer.role == "stem"
        ),  # the pool quarters what is added
        heads=tuple(layer.point(value) for layer, value in ms.items() if layer.role == "head"),
        add_ns=add_ns,
        call_ms=max(0.0, call * unit_ms),
        unit_ms=unit_ms,
    )
    return replace(table, odd=_odd(table, ms))


def _difference(timer: Timer, layer: ProfiledLayer, timing: Timing) -> float:
    """Time of a layer in units of the reference, as the difference of its two graphs.

    Raises:
        StageError: The larger graph was not slower in any of ``_TRIES`` attempts.
    """
    with timer.opened(layer.graph_pair.models(timer.target.runtime, integer=timer.precision == "int8")) as runs:
        for attempt in range(1, _TRIES + 1):
            rounds = timing.least * attempt
            times = timer.relative(runs, replace(timing, least=rounds, most=max(timing.most, rounds)))
            units = (times["many"] - times["few"]) / (MANY - FEW)
            if units > 0:
                return units
    raise StageError(
        f"a graph with {layer} {MANY} times took no longer than one with it {FEW} times",
        "profile while the machine is quieter",
    )


def _call(timer: Timer, timing: Timing) -> float:
    """Overhead of a call in units of the reference: a graph of two tiny convolutions less their time."""
    tiny = microbenchmark.pair(16, 16, 1, 7)
    with timer.opened(tiny.models(timer.target.runtime, integer=timer.precision == "int8")) as runs:
        times = timer.relative(runs, timing)
    return times["few"] - (times["many"] - times["few"]) / (MANY - FEW)


def _add_ns(ms: Mapping[ProfiledLayer, float]) -> float:
    """Nanoseconds of a residual add per element, from all pairs with and without one."""
    extra = elements = 0.0
    for layer, value in ms.items():
        if layer.role == "add":
            extra += value - ms[replace(layer, role="bare")]
            elements += layer.c_in * layer.side**2
    return max(0.0, 1e6 * extra / elements)


def _without_add(ms: float, layer: ProfiledLayer, add_ns: float) -> float:
    """Time of a branch without its share of the residual adds, at least half of the branch's time."""
    return max(ms / 2, ms - 1e-6 * add_ns * layer.c_out * layer.side**2)


def _odd(table: Table, ms: Mapping[ProfiledLayer, float]) -> float:
    """Increase of the logarithm of a layer's time per half-filled side, by least squares; see ``Table.odd``."""
    lookup, products, squares = Lookup(table), 0.0, 0
    for layer, value in ms.items():
        if layer.role == "odd":
            sides = half_filled(layer.c_in) + half_filled(layer.c_out)
            there, back = lookup.conv_ms(layer.point(1.0)), lookup.conv_ms(layer.turned().point(1.0))
            products += sides * log(value / (there + back))
            squares += sides**2
    return max(0.0, products / squares)
