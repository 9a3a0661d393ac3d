"""``Timer``: latency of ONNX graphs on this host, relative to a reference graph timed interleaved with them.

Other load slows everything that runs at the same time. A reference, a few convolutions in the same precision, is
therefore timed interleaved with what is measured, and of each the fastest tenth of its calls counts. On one thread the
clock is the processor time of the process, which excludes other processes; on more threads it is wall time, since
threads that wait for each other spin.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import perf_counter_ns, process_time_ns
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeres.backends.registry import find_backend
from edgeres.latency import microbenchmark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.backends.backend import Backend
    from edgeres.targets.target import Target

Precision = Literal["int8", "float"]
PRECISIONS: tuple[Precision, ...] = ("int8", "float")

_QUIET_CALLS, _QUIET = 0.1, 0.1
"""Quantiles that estimate an idle machine: of the calls in a measurement, and of the reference's times."""
_WARMUP = 2


@dataclass(frozen=True, slots=True)
class TimerSettings:
    """Number of rounds and time limit of a measurement.

    Attributes:
        least: Minimum number of rounds.
        most: Maximum number of rounds.
        limit_s: Seconds after which a measurement ends, once ``least`` rounds are done.
    """

    least: int = 12
    most: int = 80
    limit_s: float = 0.2


def _quiet_ms(
    runs: Mapping[str, Callable[[], object]], timing: TimerSettings, clock: Callable[[], int]
) -> dict[str, float]:
    """Quantile ``_QUIET_CALLS`` of each run's calls in ms, timed interleaved in alternating order."""
    for run in runs.values():
        for _ in range(_WARMUP):
            run()
    samples: dict[str, list[int]] = {name: [] for name in runs}
    order, start = list(runs), clock()
    for number in range(1, timing.most + 1):
        for name in order:
            begin = clock()
            runs[name]()
            samples[name].append(clock() - begin)
        order.reverse()
        if number >= timing.least and clock() - start > timing.limit_s * 1e9:
            break
    return {name: 1e-6 * float(np.quantile(taken, _QUIET_CALLS)) for name, taken in samples.items()}


@dataclass
class Timer:
    """Times graphs in one runtime, interleaved with a reference graph.

    Attributes:
        target: Target whose runtime is used.
        threads: Threads of the runtime.
        folder: Folder for temporary graphs.
        precision: Precision of the graphs and of the reference.
        quiet: Times of the reference in milliseconds, one per measurement.
    """

    target: Target
    threads: int
    folder: Path
    precision: Precision
    quiet: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._backend: Backend = find_backend(self.target.backend)
        self._files = 0

    def relative(self, runs: Mapping[str, Callable[[], object]], timing: TimerSettings) -> dict[str, float]:
        """Time of each run in units of the run named ``reference``."""
        times = _quiet_ms(runs, timing, process_time_ns if self.threads == 1 else perf_counter_ns)
        unit = times["reference"]
        self.quiet.append(unit)
        return {name: ms / unit for name, ms in times.items()}

    @property
    def unit_ms(self) -> float:
        """Time of the reference in ms, on an otherwise idle machine."""
        return float(np.quantile(self.quiet, _QUIET))

    @contextmanager
    def opened(
        self, models: Mapping[str, tuple[ModelProto, NDArray[np.float32]]]
    ) -> Iterator[dict[str, Callable[[], object]]]:
        """Functions that run each graph on its own input, and the reference."""
        reference = microbenchmark.pair(64, 64, 3, 56)  # long enough that preemption is a small part of its time
        _, unit = reference.models(self.target.runtime, integer=self.precision == "int8")
        both = {"reference": (unit, reference.image()), **models}
        with ExitStack() as stack:
            yield {name: self._open(model, image, stack) for name, (model, image) in both.items()}

    def _open(self, model: ModelProto, image: NDArray[np.float32], stack: ExitStack) -> Callable[[], object]:
        self._files += 1
        path = self.folder / f"{self._files}.onnx"
        path.write_bytes(model.SerializeToString(deterministic=True))
        stack.callback(path.unlink)
        session = stack.enter_context(self._backend.session(path, self.target, threads=self.threads))
        return lambda: session.run(image)
