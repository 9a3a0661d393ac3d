"""Worker process that runs one variant, ``python -m edgeres.latency.benchmark.worker``, over JSON lines."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from contextlib import contextmanager
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from edgeres.backends.backend import NarrowFloats, Profiled, intact
from edgeres.backends.registry import find_backend
from edgeres.errors import EdgeresError, StageError
from edgeres.latency.benchmark.worker_spec import TORCH, WorkerRequest, WorkerSpec
from edgeres.settings import parse, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from edgeres.backends.session import Session
    from edgeres.latency.benchmark.worker_spec import Variant

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> int:
    """Opens the variant of one ``WorkerSpec`` and answers requests until standard input ends."""
    answers = _private_stdout()
    _die_with_parent()
    spec = parse(WorkerSpec, json.loads(sys.stdin.readline()), "worker spec")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, spec.cores)
    try:
        with _opened(spec) as serve:
            _say(answers, {"ready": True})
            for line in sys.stdin:
                _say(answers, serve(parse(WorkerRequest, json.loads(line), "request")))
    except EdgeresError as failure:
        _say(answers, {"refused": failure.what, "hint": failure.hint})
        return failure.exit_code
    return 0


@contextmanager
def _opened(spec: WorkerSpec) -> Iterator[Callable[[WorkerRequest], dict[str, Any]]]:
    """The function that answers requests."""
    if spec.variant is None:
        from edgeres.latency.benchmark.peak import peak_of

        with peak_of(spec.peak, spec.cores) as measure:
            yield lambda request: {"rates": [measure() for _ in range(request.calls)]}
        return
    variant, threads = spec.variant, len(spec.cores)
    side = variant.preprocess.crop
    image = np.random.default_rng(0).standard_normal((1, 3, side, side), dtype=np.float32)
    with _session(variant, threads) as session:

        def serve(request: WorkerRequest) -> dict[str, Any]:
            if request.layers:
                return {"layers": _layers(variant, image, threads, request.calls)}
            return {"ns": burst(lambda: session.run(image), request)}

        yield serve


def _session(variant: Variant, threads: int) -> AbstractContextManager[Session]:
    """Opens a session of the variant's runtime."""
    float_graph = intact(variant.float_graph.file)
    if variant.runtime == TORCH:
        from edgeres.latency.benchmark.eager import eager_session

        return eager_session(float_graph, threads)
    backend = find_backend(variant.runtime)
    if variant.precision == "int8":
        graph = intact(variant.graph.file)
        return backend.session(graph, variant.target, engine=variant.engine, threads=threads)
    if variant.precision == "float32":
        return backend.session(float_graph, variant.target, threads=threads)
    if not isinstance(backend, NarrowFloats):
        raise StageError(f"{variant.runtime} computes nothing in {variant.precision}", "")
    return backend.narrow_session(float_graph, variant.precision, threads)


def _layers(variant: Variant, image: NDArray[np.float32], threads: int, calls: int) -> list[dict[str, Any]]:
    backend = find_backend(variant.runtime)
    if not isinstance(backend, Profiled):
        raise StageError(f"{variant.runtime} has no kernel profiler", "")
    times = backend.layer_times(variant.engine, image, threads=threads, calls=calls)
    return [plain(layer) for layer in times]


def burst(run: Callable[[], object], request: WorkerRequest) -> list[int]:
    """Nanoseconds of each call of a request, its warm-up left out."""
    for _ in range(request.warmup):
        run()
    taken = []
    for _ in range(request.calls):
        begin = perf_counter_ns()
        run()
        taken.append(perf_counter_ns() - begin)
    return taken


def _private_stdout() -> TextIO:
    """Duplicates standard output for answers alone; output of a runtime goes to standard error."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


def _say(answers: TextIO, what: dict[str, Any]) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


def _die_with_parent() -> None:
    """Ends this process with its parent on Linux, even while stopped (prctl(2), PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
