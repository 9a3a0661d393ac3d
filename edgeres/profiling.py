"""Measures a ``HostProfile``: every layer of the table as the difference of two graphs, in turn with a reference.

Other work on the machine slows everything that runs meanwhile. So a small reference graph runs in turn with each pair
of graphs, of each the quietest fifth of its calls counts, and a time is one in units of the reference; the profile holds
milliseconds of the quietest tenth of what the reference saw. On one thread the clock is the processor time of the
process, which stands still while others have the core; on more it is the wall's, since threads that wait for each other
spin. Then a known network is measured in the same way and sets the scale of the table, and others are predicted first
and measured after: how far they are off is the band of the profile.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter_ns, process_time_ns
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeres import chain
from edgeres.artifact import Card, Engine, Exported, File
from edgeres.backends.registry import find_backend
from edgeres.data.preprocess import Preprocess
from edgeres.errors import BackendUnavailable, StageError, UsageError
from edgeres.host_profile import HostProfile, Lookup, Point, Table, Trial
from edgeres.measure import machine
from edgeres.workload import of_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.backends.backend import Backend
    from edgeres.chain import Chain
    from edgeres.progress import Progress
    from edgeres.target import Target

Precision = Literal["int8", "float"]
PRECISIONS: tuple[Precision, ...] = ("int8", "float")

_WAYS: dict[int, dict[int, tuple[int, ...]]] = {
    3: {56: (16, 32, 48, 64), 28: (32, 64, 96, 128), 14: (64, 128, 192, 256), 7: (128, 256, 384, 512)},
    1: {56: (32, 64, 128, 256), 28: (64, 128, 256, 512), 14: (128, 256, 512, 1024), 7: (256, 512, 1024, 2048)},
}
"""Window to side to channels of convolutions of stride 1, every two of them there and back."""
_STEPS: dict[int, dict[int, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    3: {28: ((32, 64, 128), (64, 128)), 14: ((64, 128, 256), (128, 256)), 7: ((128, 256, 512), (256, 512))},
    1: {
        28: ((32, 64, 256), (64, 128, 512)),
        14: ((64, 128, 512), (128, 256, 1024)),
        7: ((128, 256, 1024), (256, 512, 2048)),
    },
}
"""Window to side of the output to input and output channels of convolutions of stride 2."""
_STEMS, _STEM_SIDE = (16, 32, 64), 112
_HEADS = (128, 512, 1024, 2048)
_ADDS = ((56, 64), (28, 128), (14, 256), (7, 512))
_TRIES = 3
_QUIET_CALLS, _QUIET = 0.2, 0.1
"""Quantiles that stand for a quiet machine: of the calls in a measurement, and of the reference's times."""
_WARMUP = 2


@dataclass(frozen=True, slots=True)
class Pace:
    """How long everything is measured.

    Attributes:
        least: Rounds at least.
        most: Rounds at most.
        limit_s: Seconds after which a measurement ends, once it has the least rounds.
    """

    least: int = 9
    most: int = 60
    limit_s: float = 0.25


def _quiet_ms(runs: Mapping[str, Callable[[], object]], pace: Pace, clock: Callable[[], int]) -> dict[str, float]:
    """The quietest calls of each, all taking turns, forwards and backwards."""
    for run in runs.values():
        for _ in range(_WARMUP):
            run()
    samples: dict[str, list[int]] = {name: [] for name in runs}
    order, start = list(runs), perf_counter_ns()
    for number in range(1, pace.most + 1):
        for name in order:
            begin = clock()
            runs[name]()
            samples[name].append(clock() - begin)
        order.reverse()
        if number >= pace.least and perf_counter_ns() - start > pace.limit_s * 1e9:
            break
    return {name: 1e-6 * float(np.quantile(taken, _QUIET_CALLS)) for name, taken in samples.items()}


@dataclass(frozen=True, slots=True)
class Subject:
    """A network to try the profile on.

    Attributes:
        name: What it is.
        models: Its graph in each precision.
    """

    name: str
    models: Mapping[Precision, ModelProto]


@dataclass
class Bench:
    """The runtime with its reference; everything is timed in turn with it.

    Attributes:
        quiet: Times of the reference in milliseconds, one per measurement.
    """

    target: Target
    threads: int
    folder: Path
    quiet: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._backend: Backend = find_backend(self.target.backend)
        self._files = 0

    def relative(self, runs: Mapping[str, Callable[[], object]], pace: Pace) -> dict[str, float]:
        """Quiet time of each in units of the reference, which is the one called ``reference``."""
        found = _quiet_ms(runs, pace, process_time_ns if self.threads == 1 else perf_counter_ns)
        unit = found["reference"]
        self.quiet.append(unit)
        return {name: ms / unit for name, ms in found.items()}

    @property
    def unit_ms(self) -> float:
        """The reference on a quiet machine."""
        return float(np.quantile(self.quiet, _QUIET))

    @contextmanager
    def opened(
        self, models: Mapping[str, tuple[ModelProto, NDArray[np.float32]]]
    ) -> Iterator[dict[str, Callable[[], object]]]:
        """Runs of graphs, each on its own input."""
        with ExitStack() as stack:
            yield {name: self._open(model, image, stack) for name, (model, image) in models.items()}

    def _open(self, model: ModelProto, image: NDArray[np.float32], stack: ExitStack) -> Callable[[], object]:
        self._files += 1
        path = self.folder / f"{self._files}.onnx"
        path.write_bytes(model.SerializeToString(deterministic=True))
        stack.callback(path.unlink)
        file = File.of(path)
        card = Card(name="chain", preprocess=Preprocess(), classes=())
        engine = Engine(Exported(card, file, file), self._backend.name, path.name, {path.name: file})
        session = stack.enter_context(self._backend.session(engine, self.target, file, threads=self.threads))
        return lambda: session.run(image)


def measure_profile(
    target: Target, reference: Subject, subjects: Sequence[Subject], progress: Progress, *, threads: int = 2,
    pace: Pace | None = None,
) -> HostProfile:  # fmt: skip
    """Measures this host.

    Args:
        target: Whose runtime; it must run here.
        reference: The network that sets the scale of the table.
        subjects: Networks to try it on.
        progress: Told after every measurement.
        threads: Of the runtime.
        pace: How long; None takes what gives 1 to 2 minutes.

    Raises:
        UsageError: The target does not run on this host.
        BackendUnavailable: Its runtime is not installed.
        StageError: The machine is too busy to tell a layer's time.
    """
    backend, pace, host = find_backend(target.backend), pace or Pace(), machine()
    if target.build_on != "host" or target.runtime.tensorrt is not None:
        raise UsageError(f"{target.name} does not run on this host", "profile x86 or cpu")
    if missing := backend.missing():
        raise BackendUnavailable(missing)
    with TemporaryDirectory(prefix="edgeres-profile-") as folder:
        bench = Bench(target, threads, Path(folder))
        tables = {precision: _table(bench, precision, pace, progress) for precision in PRECISIONS}
        whole = _Networks(bench, replace(pace, limit_s=8 * pace.limit_s))
        with progress.task("networks", len(PRECISIONS) * (1 + len(subjects))) as advance:
            scaled = {name: whole.scaled(tables[name], reference.models[name]) for name in PRECISIONS}
            advance(len(PRECISIONS))
            trials = []
            for subject in subjects:
                for precision in PRECISIONS:
                    trials.append(whole.tried(subject.name, precision, scaled[precision], subject.models[precision]))
                    advance(1)
    return HostProfile(
        target=target.name,
        runtime=target.runtime.name,
        cpu=host.cpu,
        cores=host.cores,
        threads=threads,
        load=round(host.load, 2),
        reference=reference.name,
        tables=scaled,
        trials=tuple(trials),
    )


@dataclass(frozen=True, slots=True)
class _Networks:
    """Whole networks beside the reference."""

    bench: Bench
    pace: Pace

    def measured_ms(self, model: ModelProto) -> float:
        shape = tuple(dim.dim_value or 1 for dim in model.graph.input[0].type.tensor_type.shape.dim)
        image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        with self.bench.opened({**_reference(self.bench.target), "network": (model, image)}) as runs:
            return self.bench.relative(runs, self.pace)["network"] * self.bench.unit_ms

    def scaled(self, table: Table, model: ModelProto) -> Table:
        return replace(table, scale=self.measured_ms(model) / _sum_ms(table, model))

    def tried(self, name: str, precision: Precision, table: Table, model: ModelProto) -> Trial:
        expected = table.scale * _sum_ms(table, model)
        return Trial(name=name, precision=precision, predicted_ms=expected, measured_ms=self.measured_ms(model))


def _sum_ms(table: Table, model: ModelProto) -> float:
    lookup = Lookup.of(table)
    return table.call_ms + sum(lookup.ms(work) for work in of_model(model, adds=True))


def _reference(target: Target) -> dict[str, tuple[ModelProto, NDArray[np.float32]]]:
    """A few float convolutions that fit into every cache."""
    small = chain.pair(64, 64, 3, 14)
    return {"reference": (small.models(target.runtime, integer=False)[1], small.image())}


@dataclass(frozen=True, slots=True)
class _Task:
    """One measurement: a layer, the chain it is timed by, and what it is in the end."""

    key: tuple[str, int, int, int, int, int]
    chain: Chain


def _table(bench: Bench, precision: Precision, pace: Pace, progress: Progress) -> Table:
    """Every layer in one precision."""
    tasks = _tasks()
    took: dict[tuple[str, int, int, int, int, int], float] = {}
    with progress.task(f"layers in {precision}", len(tasks)) as advance:
        for task in tasks:
            took[task.key] = _difference(bench, task.chain, precision, pace)
            advance(1)
        call = _call(bench, precision, pace)
    ms = {key: units * bench.unit_ms for key, units in took.items()}
    add_ns = _add_ns(ms)
    points = [
        *(_point(key, value / 2) for key, value in ms.items() if key[0] == "pair"),
        *(_point(_turned(key), value / 2) for key, value in ms.items() if key[0] == "pair" and key[4] != key[5]),
        *(_point(key, _without_add(value, key, add_ns)) for key, value in ms.items() if key[0] == "strided"),
    ]
    return Table(
        points=tuple(sorted(points, key=lambda p: (p.kernel, p.stride, p.side, p.c_in, p.c_out))),
        stems=tuple(_point(key, _without_add(value, key, add_ns / 4)) for key, value in ms.items() if key[0] == "stem"),
        heads=tuple(_point(key, value) for key, value in ms.items() if key[0] == "head"),
        add_ns=add_ns,
        call_ms=max(0.0, call * bench.unit_ms),
    )


def _tasks() -> tuple[_Task, ...]:
    """Every measurement of a table."""
    found = []
    for kernel, sides in _WAYS.items():
        for side, channels in sides.items():
            found += [
                _Task(("pair", kernel, 1, side, wide, narrow), chain.pair(wide, narrow, kernel, side))
                for wide in channels
                for narrow in channels
                if narrow <= wide
            ]
    for kernel, steps in _STEPS.items():
        for side, (ins, outs) in steps.items():
            found += [
                _Task(("strided", kernel, 2, side, c_in, c_out), chain.strided(c_in, c_out, kernel, side))
                for c_in in ins
                for c_out in outs
            ]
    found += [_Task(("stem", 7, 2, _STEM_SIDE, 3, width), chain.stem(width, _STEM_SIDE)) for width in _STEMS]
    found += [_Task(("head", 1, 1, 1, width, 1000), chain.head(width)) for width in _HEADS]
    for side, width in _ADDS:
        found.append(_Task(("add", 1, 1, side, width, width), chain.pair(width, width, 1, side, residual=True)))
        found.append(_Task(("bare", 1, 1, side, width, width), chain.pair(width, width, 1, side)))
    return tuple(found)


def _difference(bench: Bench, layer: Chain, precision: Precision, pace: Pace) -> float:
    """Time of a layer in units of the reference.

    Raises:
        StageError: The larger graph is not slower, however often it is asked.
    """
    few, many = layer.models(bench.target.runtime, integer=precision == "int8")
    image = layer.image()
    with bench.opened({**_reference(bench.target), "few": (few, image), "many": (many, image)}) as runs:
        for attempt in range(_TRIES):
            found = bench.relative(runs, replace(pace, least=pace.least * (1 + attempt)))
            units = (found["many"] - found["few"]) / (layer.many - layer.few)
            if units > 0:
                return units
    raise StageError(
        f"a graph with a layer {layer.many} times took no longer than one with it {layer.few} times",
        "profile while the machine is quieter",
    )


def _call(bench: Bench, precision: Precision, pace: Pace) -> float:
    """A graph of two tiny convolutions without what these take, in units of the reference."""
    tiny = chain.pair(16, 16, 1, 7)
    few, many = tiny.models(bench.target.runtime, integer=precision == "int8")
    image = tiny.image()
    with bench.opened({**_reference(bench.target), "few": (few, image), "many": (many, image)}) as runs:
        found = bench.relative(runs, pace)
    return found["few"] - (found["many"] - found["few"]) / (tiny.many - tiny.few)


def _add_ns(ms: Mapping[tuple[str, int, int, int, int, int], float]) -> float:
    """Nanoseconds per element by which a pair with a residual add is slower than one without, over all sides."""
    extra = elements = 0.0
    for side, width in _ADDS:
        extra += ms["add", 1, 1, side, width, width] - ms["bare", 1, 1, side, width, width]
        elements += width * side**2
    return max(0.0, 1e6 * extra / elements)


def _without_add(ms: float, key: tuple[str, int, int, int, int, int], add_ns: float) -> float:
    """A branch without its share of the sum, but never less than half of it."""
    _, _, _, side, _, c_out = key
    return max(ms / 2, ms - 1e-6 * add_ns * c_out * side**2)


def _turned(key: tuple[str, int, int, int, int, int]) -> tuple[str, int, int, int, int, int]:
    name, kernel, stride, side, c_in, c_out = key
    return name, kernel, stride, side, c_out, c_in


def _point(key: tuple[str, int, int, int, int, int], ms: float) -> Point:
    _, kernel, stride, side, c_in, c_out = key
    return Point(kernel=kernel, stride=stride, side=side, c_in=c_in, c_out=c_out, ms=ms)
