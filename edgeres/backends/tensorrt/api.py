"""TensorRT and TensorRT-RTX from Python: the same names, so one way to build and to run for both.

It is the way the device takes: ``bundle/engine.py`` and ``bundle/build_engine.py`` hold it, because they travel there.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgeres.backends.bundle.build_engine import build_plan
from edgeres.backends.bundle.device import BundleError
from edgeres.backends.bundle.engine import Cuda, Runner, recorder
from edgeres.backends.bundle.golden import graph_input
from edgeres.backends.bundle.trtexec import build_settings
from edgeres.backends.loading import intact
from edgeres.errors import StageError
from edgeres.settings import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgeres.artifacts.artifact import File
    from edgeres.backends.backend import Session
    from edgeres.data.preprocess import Preprocess
    from edgeres.progress import Advance
    from edgeres.targets.target import Target


UNITS = 100
"""What a build is worth on a progress bar."""


def gpu() -> str | None:
    """Name and compute capability of the GPU here; None without one."""
    try:
        facts = Cuda().facts()
    except BundleError:
        return None
    return f"{facts['gpu']} (compute capability {facts['sm']})"


def compile_graph(
    runtime: Any,
    model: File,
    preprocess: Preprocess,
    target: Target,
    tune: Callable[[Any], None] = lambda config: None,
    *,
    advance: Advance = lambda units: None,
) -> bytes:
    """The serialized engine of an ONNX graph.

    Args:
        runtime: The ``tensorrt`` or ``tensorrt_rtx`` module.
        model: The graph.
        preprocess: Gives height and width where the graph leaves them open.
        target: Gives precisions, effort and memory cap.
        tune: Sets what only one of the two runtimes has on the builder's configuration.
        advance: Told ``UNITS`` units in all while the engine is built, where the runtime tells how far it is.

    Raises:
        StageError: The parser or the builder refused the graph, in its own words; or it would compute wrong numbers,
            because it takes uint8 codes for int8.
    """
    path, log, told = intact(model), recorder(runtime), 0

    def watch(phase: str, share: float) -> None:
        nonlocal told
        units = int(UNITS * share) - told
        if units > 0:
            told += units
            advance(units)

    build = plain(build_settings(target.runtime, graph_input(path, preprocess)))
    with _refusals():
        plan = build_plan(runtime, path.read_bytes(), build, log, tune, watch=watch)
    misread = [message for _, message in log.problems if "UINT8" in message]
    if misread:
        raise StageError(f"TensorRT reads uint8 codes as int8: {misread[0]}", "quantize for a target with signed: true")
    return plan


@contextmanager
def gpu_session(runtime: Any, plan: bytes) -> Iterator[Session]:
    """Runs an engine on the GPU that is here.

    Raises:
        StageError: The engine does not load or does not run.
    """
    with _refusals():
        yield Runner(runtime, plan, recorder(runtime))


def inspect(runtime: Any, plan: bytes) -> dict[str, Any]:
    """Weighted and integer layers of an engine by TensorRT's own inspector; needs the GPU it was built for."""
    with _refusals():
        return Runner(runtime, plan, recorder(runtime)).census()


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except BundleError as refusal:
        raise StageError(str(refusal), "see the node it names; edgeres lint says what TensorRT takes") from refusal
