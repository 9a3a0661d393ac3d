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
from edgeres.latency.percentiles import Timing, time_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from onnx import ModelProto

    from edgeres.targets.target import Target

Precision = Literal["int8", "float"]
PRECISIONS: tuple[Precision, ...] = ("int8", "float")
LAYER_TIMING = Timing(warmup=2, least=12, most=80, limit_s=0.2)
"""How long one layer is timed."""

_QUIET_CALLS, _QUIET = 0.1, 0.1
"""Quantiles that estimate an idle machine: of the calls in a measurement, and of the reference's times."""


@dataclass
class Timer:
    """Times graphs of one precision in a target's runtime, interleaved with a reference graph.

    Temporary graphs lie in ``folder``. ``quiet`` are the reference's times in milliseconds, one per measurement.
    """

    target: Target
    threads: int
    folder: Path
    precision: Precision
    quiet: list[float] = field(default_factory=list)

    def relative(self, runs: Mapping[str, Callable[[], object]], timing: Timing) -> dict[str, float]:
        """Time of each run in units of the run named ``reference``."""
        calls = time_calls(runs, timing, clock=process_time_ns if self.threads == 1 else perf_counter_ns)
        times = {name: float(np.quantile(ms, _QUIET_CALLS)) for name, ms in calls.items()}
        unit = times["reference"]
        self.quiet.append(unit)
        return {name: ms / unit for name, ms in times.items()}

    @property
    def unit_ms(self) -> float:
        """Time of the reference in ms, on an otherwise idle machine."""
        return float(np.quantile(self.quiet, _QUIET))

    @contextmanager
    def opened(self, models: Mapping[str, ModelProto]) -> Iterator[dict[str, Callable[[], object]]]:
        """Functions that run each graph on a random input of its own, and the reference."""
        reference = microbenchmark.pair(64, 64, 3, 56)  # long enough that preemption is a small part of its time
        unit = reference.models(self.target.runtime, integer=self.precision == "int8")["many"]
        with ExitStack() as stack:
            yield {name: self._open(name, model, stack) for name, model in {"reference": unit, **models}.items()}

    def _open(self, name: str, model: ModelProto, stack: ExitStack) -> Callable[[], object]:
        shape = tuple(dim.dim_value or 1 for dim in model.graph.input[0].type.tensor_type.shape.dim)
        image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        path = self.folder / f"{name}.onnx"
        path.write_bytes(model.SerializeToString(deterministic=True))
        stack.callback(path.unlink)
        backend = find_backend(self.target.backend)
        session = stack.enter_context(backend.session(path, self.target, threads=self.threads))
        return lambda: session.run(image)
