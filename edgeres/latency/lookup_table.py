"""The table of a ``HostProfile``: which layers are measured, and what becomes of their times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING, Literal

from edgeres.errors import StageError
from edgeres.latency import microbenchmark
from edgeres.latency.host_profile import Lookup, Point, Table, half_filled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeres.latency.microbenchmark import MicrobenchmarkGraph
    from edgeres.latency.timer import Pace, Timer
    from edgeres.progress import Progress

Role = Literal["way", "step", "stem", "head", "odd", "add", "bare"]
_CLASSES = 1000
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that is measured.

    Attributes:
        role: What for: convolutions there and back (``way``), of stride 2 (``step``), the stem, the classifier, ways of
            channels that fill their last block half (``odd``), and ways with and without a residual add.
        kernel: Side of the window.
        side: Side of the output in pixels.
        c_in: Input channels.
        c_out: Output channels.
    """

    role: Role
    kernel: int
    side: int
    c_in: int
    c_out: int

    @property
    def chain(self) -> MicrobenchmarkGraph:
        """The graphs that it is the difference of."""
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
        """Its line in the table."""
        stride = 2 if self.role in ("step", "stem") else 1
        return Point(kernel=self.kernel, stride=stride, side=self.side, c_in=self.c_in, c_out=self.c_out, ms=ms)

    def turned(self) -> Layer:
        """The way back."""
        return replace(self, c_in=self.c_out, c_out=self.c_in)


def _ways() -> tuple[Layer, ...]:
    """Stride 1: every two of these channels."""
    channels: dict[int, dict[int, tuple[int, ...]]] = {
        3: {56: (32, 64, 128), 28: (32, 64, 96, 128), 14: (64, 128, 192, 256), 7: (128, 256, 384, 512)},
        1: {56: (32, 64, 128, 256), 28: (64, 128, 256, 512), 14: (128, 256, 512, 1024), 7: (256, 512, 1024, 2048)},
    }
    return tuple(
        Layer("way", kernel, side, wide, narrow)
        for kernel, sides in channels.items()
        for side, widths in sides.items()
        for wide in widths
        for narrow in widths
        if narrow <= wide
    )


def _steps() -> tuple[Layer, ...]:
    """Stride 2: input by output channels, by the side of the output."""
    channels: dict[int, dict[int, tuple[tuple[int, ...], tuple[int, ...]]]] = {
        3: {28: ((32, 64, 128), (64, 128)), 14: ((64, 128, 256), (128, 256)), 7: ((128, 256, 512), (256, 512))},
        1: {
            28: ((32, 64, 256), (64, 128, 512)),
            14: ((64, 128, 512), (128, 256, 1024)),
            7: ((128, 256, 1024), (256, 512, 2048)),
        },
    }
    return tuple(
        Layer("step", kernel, side, c_in, c_out)
        for kernel, sides in channels.items()
        for side, (ins, outs) in sides.items()
        for c_in in ins
        for c_out in outs
    )


def _rest() -> tuple[Layer, ...]:
    """Stems, classifiers, ways of odd channels, and what tells the price of a residual add."""
    odd = (
        (3, 56, 64, 48), (3, 28, 112, 112), (3, 14, 256, 208), (3, 7, 512, 304), (3, 7, 272, 272),
        (1, 56, 256, 48), (1, 28, 512, 112), (1, 14, 1024, 208), (1, 7, 2048, 304),
    )  # fmt: skip
    return (
        *(Layer("stem", 7, 112, 3, width) for width in (16, 32, 64)),
        *(Layer("head", 1, 1, width, _CLASSES) for width in (128, 512, 1024, 2048)),
        *(Layer("odd", *layer) for layer in odd),
        *(Layer(role, 1, side, *(width, width)) for side, width in _ADDS for role in _WITH_AND_WITHOUT),
    )


_ADDS = ((56, 64), (28, 128), (14, 256), (7, 512))
_WITH_AND_WITHOUT: tuple[Role, ...] = ("add", "bare")
WHOLE = (*_ways(), *_steps(), *_rest())
"""Every layer of a table that covers ResNets and their pruned kin at about 224 pixels."""


def layer_table(bench: Timer, pace: Pace, progress: Progress, layers: tuple[Layer, ...] = WHOLE) -> Table:
    """Measures every layer in one precision.

    Raises:
        StageError: The machine is too busy to tell a layer's time.
    """
    took: dict[Layer, float] = {}
    with progress.task(f"layers in {bench.precision}", len(layers)) as advance:
        for layer in layers:
            took[layer] = _difference(bench, layer, pace)
            advance(1)
        call = _call(bench, pace)
    return assembled(took, call, bench.unit_ms)


def assembled(units: Mapping[Layer, float], call: float, unit_ms: float) -> Table:
    """A table from the times of its layers and of a call, in units of the reference."""
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


def _difference(bench: Timer, layer: Layer, pace: Pace) -> float:
    """Time of a layer in units of the reference.

    Raises:
        StageError: The larger graph is not slower, however often it is asked.
    """
    links = layer.chain
    few, many = links.models(bench.target.runtime, integer=bench.precision == "int8")
    image = links.image()
    with bench.opened({"few": (few, image), "many": (many, image)}) as runs:
        for attempt in range(1, _TRIES + 1):
            rounds = pace.least * attempt
            found = bench.relative(runs, replace(pace, least=rounds, most=max(pace.most, rounds)))
            units = (found["many"] - found["few"]) / (links.many - links.few)
            if units > 0:
                return units
    raise StageError(
        f"a graph with {layer} {links.many} times took no longer than one with it {links.few} times",
        "profile while the machine is quieter",
    )


def _call(bench: Timer, pace: Pace) -> float:
    """A graph of two tiny convolutions without what these take, in units of the reference."""
    tiny = microbenchmark.pair(16, 16, 1, 7)
    few, many = tiny.models(bench.target.runtime, integer=bench.precision == "int8")
    image = tiny.image()
    with bench.opened({"few": (few, image), "many": (many, image)}) as runs:
        found = bench.relative(runs, pace)
    return found["few"] - (found["many"] - found["few"]) / (tiny.many - tiny.few)


def _add_ns(ms: Mapping[Layer, float]) -> float:
    """Nanoseconds per element by which ways with a residual add are slower than those without, over all of them."""
    extra = elements = 0.0
    for layer, value in ms.items():
        if layer.role == "add":
            extra += value - ms[replace(layer, role="bare")]
            elements += layer.c_in * layer.side**2
    return max(0.0, 1e6 * extra / elements)


def _without_add(ms: float, layer: Layer, add_ns: float) -> float:
    """A branch without its share of the sum, but never less than half of it."""
    return max(ms / 2, ms - 1e-6 * add_ns * layer.c_out * layer.side**2)


def _odd(table: Table, ms: Mapping[Layer, float]) -> float:
    """What each odd side of a layer adds to the logarithm of its time, by least squares; see ``Table.odd``."""
    lookup, products, squares = Lookup.of(table), 0.0, 0
    for layer, value in ms.items():
        if layer.role == "odd":
            sides = half_filled(layer.c_in) + half_filled(layer.c_out)
            there, back = lookup.conv_ms(layer.point(1.0)), lookup.conv_ms(layer.turned().point(1.0))
            products += sides * log(value / (there + back))
            squares += sides**2
    return max(0.0, products / squares)
