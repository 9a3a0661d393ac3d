"""The process of a worker, ``python -m edgeres.latency.benchmark.worker_process``, which runs one variant."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import onnx

from edgeres.backends.backend import Profiled, engine_path, intact
from edgeres.backends.registry import find_backend
from edgeres.backends.session import BatchedSession
from edgeres.errors import EdgeresError
from edgeres.latency.benchmark.worker import TORCH, WorkerRequest, WorkerSpec
from edgeres.latency.timer import Timing, time_calls
from edgeres.settings import parse, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeres.backends.session import Session
    from edgeres.latency.benchmark.worker import Variant

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
            _send(answers, {"ready": True})
            for line in sys.stdin:
                _send(answers, serve(parse(WorkerRequest, json.loads(line), "request")))
    except EdgeresError as failure:
        _send(answers, {"refused": failure.what, "hint": failure.hint})
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
    preprocess = variant.engine.metadata.preprocess
    random, shape = np.random.default_rng(0), (1, *preprocess.shape)
    floats = preprocess.input == "float32"
    image = random.standard_normal(shape, np.float32) if floats else random.integers(0, 256, shape, np.uint8)
    with _session(variant, threads) as session:

        def serve(request: WorkerRequest) -> dict[str, Any]:
            if request.layers:
                profiler = find_backend(variant.runtime)
                assert isinstance(profiler, Profiled)  # others are not asked
                engine = engine_path(variant.engine)
                times = profiler.layer_times(engine, image, threads=threads, calls=request.calls)
                return {"layers": [plain(layer) for layer in times]}
            timing = Timing(warmup=request.warmup, least=request.calls, most=request.calls)
            return {"ms": time_calls({"burst": lambda: session.run(image)}, timing)["burst"]}

        yield serve


def _session(variant: Variant, threads: int) -> AbstractContextManager[Session]:
    """Opens a session of the variant's runtime."""
    float_graph = intact(variant.engine.exported.float_model)
    if variant.runtime == TORCH:
        return nullcontext(eager_session(float_graph, threads))
    backend = find_backend(variant.runtime)
    if variant.precision == "int8":
        return backend.engine_session(variant.engine, variant.target, threads)
    if variant.precision == "float32":
        return backend.session(float_graph, variant.target, threads=threads)
    return backend.narrow_session(float_graph, variant.precision, threads)


def eager_session(path: Path, threads: int) -> BatchedSession:
    """A float ONNX graph in torch operators with channels-last memory layout, run image by image.

    Raises:
        StageError: The graph holds an operator without a counterpart in torch.
    """
    import torch

    from edgeres.backends.executorch.torch_program import torch_program

    torch.set_num_threads(threads)
    module = torch_program(onnx.load(str(path))).module
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # left out of its stubs

    def outputs(image: NDArray[np.float32]) -> list[NDArray[Any]]:
        with torch.inference_mode():
            return [module(torch.from_numpy(image).contiguous(memory_format=torch.channels_last)).numpy()]

    return BatchedSession(outputs, 1)


def _private_stdout() -> TextIO:
    """Duplicates standard output for answers alone; output of a runtime goes to standard error."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


def _send(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
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
